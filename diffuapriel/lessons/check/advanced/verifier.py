"""Lesson 12: advantages of a group, the loss of a policy, and the entropy of counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor

__all__ = ["advantages", "entropy_of_counts", "policy_loss"]


def _advantages(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)


def _policy_loss(advantages: Tensor, nats: Tensor) -> Tensor:
    return (advantages * nats).mean()


def _entropy_of_counts(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count)


OURS = {"advantages": _advantages, "policy_loss": _policy_loss, "entropy_of_counts": _entropy_of_counts}


@checker
def advantages(answer: Callable[[Tensor], Tensor]) -> None:
    """`answer(rewards)`: (reward - mean) / std of the group, (rows,); 0 where all rewards are equal."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    got = tensor(run(answer, rewards), (8,))
    require(not close(got, rewards - rewards.mean(), rel=1e-2), "Divide by the standard deviation of the group, too.")
    require(not close(got, rewards / rewards.std(), rel=0.1), "Subtract the mean of the group first.")
    require(abs(got.mean()) < 1e-4, "The advantages of a group must add up to 0.")
    require(got[0] > got[1], "A right story has a larger advantage than a wrong one.")
    require(close(got, _advantages(rewards), rel=0.1), "The reward minus the mean, over the standard deviation.")
    for value in (0.0, 1.0):
        got = tensor(run(answer, torch.full((4,), value)), (4,), "The answer for a group with equal rewards")
        require(got.abs().max() < 1e-3, "Where all rewards are equal, every advantage is 0.")


@checker
def policy_loss(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(advantages, nats)`: the mean of advantage times nats."""
    advantage = torch.tensor([2.0, -0.5, -0.5, -1.0])
    nats = torch.tensor([10.0, 12.0, 11.0, 15.0], requires_grad=True)
    got, wanted = tensor(run(answer, advantage, nats), ()), _policy_loss(advantage, nats)
    require(
        not close(got.item(), -wanted.item()), "The sign: nats are minus log p, and a descent makes the loss small."
    )
    require(
        not close(got.item(), 4 * wanted.item()), "Take the mean over the stories, so that the group may be larger."
    )
    require(close(got.item(), wanted.item()), "Weigh the nats of each story with its advantage, and take the mean.")
    require(got.requires_grad, "The loss must depend on the nats, for the gradient.")


@checker
def entropy_of_counts(answer: Callable[[Sequence[int]], float]) -> None:
    """`answer(counts)`: minus the sum of p log p, in nats."""
    for counts in ([1, 1, 1, 1], [5, 3, 2]):
        got, wanted = number(run(answer, counts)), _entropy_of_counts(counts)
        require(not close(got, -wanted), "An entropy is not negative: mind the sign.")
        require(not close(got, wanted / math.log(2)), "These are bits. Use the natural logarithm.")
        require(
            not close(got, math.log(len(counts))) or counts[0] == 1, "The counts differ: weigh each with its share."
        )
        require(close(got, wanted), f"For {counts} it should be {wanted:.3f}. Turn the counts into shares first.")
    require(close(number(run(answer, [7])), 0.0), "A single kind has no entropy.")
    require(close(number(run(answer, [2, 0, 2])), math.log(2)), "A count of 0 adds nothing; 0 log 0 counts as 0.")
