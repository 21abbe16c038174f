"""Lesson 13: advantages of a group, the clipped gain of a token, surprisals of words, and a divergence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, require, run, tensor

__all__ = ["advantages", "clipped_gain", "divergence", "surprisals"]


def _advantages(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)


def _clipped_gain(new: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    ratio, A = (new - old).exp(), advantages[:, None]
    return torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)


def _surprisals(words: Sequence[str]) -> Tensor:
    counts = Counter(words)
    return -torch.tensor([counts[word] / len(words) for word in words]).log()


def _divergence(new: Tensor, reference: Tensor) -> Tensor:
    return (reference.exp() * (reference - new)).sum(-1)


OURS = {
    "advantages": _advantages,
    "clipped_gain": _clipped_gain,
    "surprisals": _surprisals,
    "divergence": _divergence,
}


@checker
def advantages(answer: Callable[[Tensor], Tensor]) -> None:
    """`answer(rewards)`: (reward - mean) / std of the group, (rows,); 0 where all rewards are equal."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    got = tensor(run(answer, rewards), (8,))
    require(not close(got, rewards - rewards.mean(), rel=1e-2), "Divide by the standard deviation of the group, too.")
    require(abs(got.mean()) < 1e-4, "The advantages of a group must add up to 0: subtract the mean first.")
    require(got[0] > got[1], "A right story has a larger advantage than a wrong one.")
    require(close(got, _advantages(rewards), rel=0.1), "The reward minus the mean, over the standard deviation.")
    for value in (0.0, 1.0):
        got = tensor(run(answer, torch.full((4,), value)), (4,), "The answer for a group with equal rewards")
        require(got.abs().max() < 1e-3, "Where all rewards are equal, every advantage is 0.")


@checker
def clipped_gain(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """`answer(new, old, advantages)`: the smaller one of ratio x A and clipped ratio x A, (rows, length)."""
    ratio = torch.tensor([[0.5, 0.9, 1.1, 2.0], [0.5, 0.9, 1.1, 2.0]])
    old, advantage = torch.tensor([[-1.0, -2.0, -3.0, -4.0]]).repeat(2, 1), torch.tensor([2.0, -0.5])
    new = (old + ratio.log()).requires_grad_()
    got, wanted = tensor(run(answer, new, old, advantage), (2, 4)), _clipped_gain(new, old, advantage)
    A = advantage[:, None]
    require(not close(got, (new - old) * A), "This is a difference of logarithms. The ratio is its exponential.")
    require(not close(got, ratio * A), "Nothing is clipped: a ratio of 2 must not gain more than one of 1.2.")
    require(not close(got, ratio.clamp(0.8, 1.2) * A), "Take the smaller one of the gains with and without the clip.")
    require(
        not close(got, torch.maximum(ratio * A, ratio.clamp(0.8, 1.2) * A)), "Take the smaller one, not the larger."
    )
    require(not close(got, _clipped_gain(old, new, advantage)), "The ratio is new over old, not old over new.")
    require(not close(got, -wanted), "The sign: this is a gain. The lesson turns it into a loss.")
    require(close(got, wanted), "The ratio times A, and the ratio kept within 0.8 and 1.2 times A: the smaller one.")
    require(got.requires_grad, "The gain must depend on the new log-probabilities, for the gradient.")


@checker
def surprisals(answer: Callable[[Sequence[str]], Tensor]) -> None:
    """`answer(words)`: -log of the share of each word, (N,), in nats."""
    words = ["Mia", "Tom", "Mia", "Ann", "Mia", "Tom", "Mia", "Ben"]
    got = run(answer, list(words))
    if isinstance(got, Tensor) and got.numel() in (1, 4):
        require(
            False,
            "One number per story, in the order of the stories. A word that comes four times is there four times.",
        )
    got, wanted = tensor(got, (8,)), _surprisals(words)
    require(not close(got, -wanted), "The sign: a rare word costs more, so take minus the logarithm.")
    require(not close(got, (-wanted).exp()), "These are the shares. Take minus their logarithm.")
    require(not close(got, wanted / torch.tensor(2.0).log()), "These are bits. Use the natural logarithm.")
    require(
        not close(got, wanted * (-wanted).exp()), "Do not multiply by the share: the mean over the stories does it."
    )
    require(close(got, wanted), "Count how often each word comes, divide by N, and take minus the logarithm.")
    got = tensor(run(answer, ["Mia"] * 3), (3,), "The answer for three equal words")
    require(close(got, torch.zeros(3)), "If all words are equal, each costs nothing: all are 0.")


@checker
def divergence(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(new, reference)`: KL(reference || new) at each position, (positions,)."""
    draw = torch.Generator().manual_seed(4)
    new, reference = (torch.randn(5, 7, generator=draw).log_softmax(-1) for _ in range(2))
    got = run(answer, new, reference)
    if isinstance(got, Tensor) and got.shape in ((), (7,)):
        require(False, "Sum over the vocabulary only, the last axis: one number per position.")
    got, wanted = tensor(got, (5,)), _divergence(new, reference)
    require(not close(got, _divergence(reference, new)), "The other direction: the weights are those of the reference.")
    require(not close(got, -wanted), "The sign: a divergence is never negative.")
    require(not close(got, wanted / 7), "Sum over the vocabulary; the weights are the probabilities already.")
    require(
        not close(got, -(reference.exp() * new).sum(-1)),
        "This is the cross-entropy. Subtract the entropy of the reference.",
    )
    require(close(got, wanted), "Weight the difference of the logarithms with the probabilities of the reference.")
