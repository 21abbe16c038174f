"""Lesson 11: an associative memory, attention as a look-up, and the rate of each row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, require, run, tensor

__all__ = ["look_up", "remember", "row_rates"]


def _remember(keys: Tensor, values: Tensor) -> Tensor:
    return values.T @ keys


def _look_up(questions: Tensor, keys: Tensor, values: Tensor, beta: float) -> Tensor:
    return (beta * questions @ keys.T).softmax(-1) @ values


def _row_rates(logits: Tensor, answers: Tensor) -> Tensor:
    return (logits.argmax(-1) == answers).float().mean(1)


OURS = {"remember": _remember, "look_up": _look_up, "row_rates": _row_rates}


@checker
def remember(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(keys, values)`: the sum of the outer products, (P, N)."""
    draw = torch.Generator().manual_seed(1)
    keys, values = torch.randn(5, 4, generator=draw), torch.randn(5, 3, generator=draw)
    got, wanted = run(answer, keys, values), _remember(keys, values)
    if isinstance(got, Tensor) and got.shape == (4, 3):
        require(not close(got, wanted.T), "The state is (P, N): values along the rows, keys along the columns.")
    got = tensor(got, (3, 4))
    require(not close(got, wanted / 5), "The pairs are added, not averaged.")
    require(not close(got, torch.outer(values[-1], keys[-1])), "Only the last pair is left. Add to what is there.")
    require(not close(got, torch.outer(values.sum(0), keys.sum(0))), "First the product of each pair, then the sum.")
    require(close(got, wanted), "For every pair, add the outer product of its value and its key.")


@checker
def look_up(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """`answer(questions, keys, values, beta)`: the softmax-weighted mean of the values, (q, P)."""
    draw = torch.Generator().manual_seed(2)
    questions, keys, values = (torch.randn(n, m, generator=draw) for n, m in ((2, 4), (5, 4), (5, 3)))
    got, wanted = tensor(run(answer, questions, keys, values, 2.0), (2, 3)), _look_up(questions, keys, values, 2.0)
    scores = 2.0 * questions @ keys.T
    require(not close(got, scores @ values), "The weights of a question must be positive and sum to 1: the softmax.")
    require(not close(got, scores.softmax(0) @ values), "The softmax goes over the pairs, not over the questions.")
    require(
        not close(got, _look_up(questions, keys, values, 1.0)), "beta has no effect: it multiplies the similarities."
    )
    require(not close(got, values[scores.argmax(1)]), "This takes the best pair alone. Take the weighted mean.")
    require(close(got, wanted), "Similarities times beta, softmax over the pairs, then the mean of the values.")


@checker
def row_rates(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(logits, answers)`: the share of right answers of each row, (rows,)."""
    draw = torch.Generator().manual_seed(3)
    logits, answers = torch.randn(6, 5, 4, generator=draw), torch.randint(4, (6, 5), generator=draw)
    logits[0] = torch.nn.functional.one_hot(answers[0], 4).float()  # all right
    got = run(answer, logits, answers)
    if (isinstance(got, Tensor) and got.dim() == 0) or isinstance(got, float):
        require(False, "This is one number for all rows. Keep the rows apart: they are the units of the interval.")
    if isinstance(got, Tensor) and got.shape == (5,):
        require(False, "This is a rate per question. Take the mean within each row, over axis 1.")
    got, wanted = tensor(got, (6,)), _row_rates(logits, answers)
    probable = logits.softmax(-1).gather(2, answers[..., None])[..., 0].mean(1)
    require(
        not close(got, probable), "This is the mean probability of the right value. Count where it is the best one."
    )
    require(not close(got, wanted * 5), "This counts right answers. A rate is their share of all questions.")
    require(close(got, wanted), "Compare the most probable value with the answer, and average within each row.")
