"""Lesson 10: an exact likelihood, a paired interval, and a hole filled by Bayes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor

__all__ = ["exact_nats", "paired_interval", "posterior"]


def _exact_nats(logp: Tensor, ids: Tensor) -> Tensor:
    return -logp.gather(2, ids[..., None])[..., 0].sum(1)


def _paired_interval(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    d = a - b
    mean, half = d.mean().item(), 1.96 * d.std().item() / len(d) ** 0.5
    return mean, mean - half, mean + half


def _posterior(nats: Tensor) -> Tensor:
    return (-nats).softmax(-1)


OURS = {"exact_nats": _exact_nats, "paired_interval": _paired_interval, "posterior": _posterior}


@checker
def exact_nats(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(logp, ids)`: minus the sum of the log-probabilities of the tokens that are there, (rows,)."""
    draw = torch.Generator().manual_seed(1)
    logp = torch.randn(3, 5, 7, generator=draw).log_softmax(-1)
    ids = torch.randint(7, (3, 5), generator=draw)
    got, wanted = tensor(run(answer, logp, ids), (3,)), _exact_nats(logp, ids)
    require(not close(got, -wanted), "These are log-probabilities, which are negative. Nats are minus their sum.")
    require(not close(got, wanted / 5), "This is the mean per token. A story costs the sum.")
    require(not close(got, -logp.amax(2).sum(1)), "Take the token that stands there, not the most probable one.")
    require(close(got, wanted), "Pick the log-probability of each token that is there, add them, and change the sign.")


@checker
def paired_interval(answer: Callable[[Tensor, Tensor], tuple[float, float, float]]) -> None:
    """`answer(a, b)`: mean of a - b, and the ends of its 95 % interval."""
    draw = torch.Generator().manual_seed(2)
    b = 10 + 3 * torch.randn(50, generator=draw)
    a = b + 0.5 + 0.2 * torch.randn(50, generator=draw)
    got = run(answer, a, b)
    require(isinstance(got, tuple | list) and len(got) == 3, "Return three numbers: mean, lower end, upper end.")
    mean, low, high = (number(value) for value in got)
    wanted, wanted_low, wanted_high = _paired_interval(a, b)
    require(not close(mean, -wanted), "This is b - a; the question is by how much a is larger.")
    require(close(mean, wanted), "The first number is the mean of the differences.")
    require(low < high, "The second number is the lower end, the third the upper end.")
    width, right = high - low, wanted_high - wanted_low
    apart = 2 * 1.96 * ((a.var() + b.var()) / 50).sqrt().item()
    require(
        not close(width, apart, rel=0.03),
        "This is the interval of two separate groups. The stories are the same, so use the differences.",
    )
    require(not close(width, right * 50**0.5, rel=0.03), "The interval of a mean shrinks with n: divide by its root.")
    require(not close(width, right / 2, rel=0.03), "The interval reaches 1.96 standard errors to *each* side.")
    require(close(width, right, rel=0.03), "The half width is 1.96 standard deviations of the differences over root n.")
    require(close(low + high, 2 * mean, rel=1e-3), "The mean is in the middle of the interval.")


@checker
def posterior(answer: Callable[[Tensor], Tensor]) -> None:
    """`answer(nats)`: the probability of each name given the rest, (rows, names)."""
    nats = torch.tensor([[12.0, 13.0, 15.0], [14.0, 11.0, 11.0]])
    got, wanted = tensor(run(answer, nats), (2, 3)), _posterior(nats)
    require(not close(got, nats.softmax(-1)), "Many nats are a *small* probability. Mind the sign.")
    require(not close(got, (-nats).softmax(0)), "Each row must sum to 1: normalize over the names, not over the rows.")
    require(not close(got, torch.exp(-nats)), "These are the probabilities of whole stories. Divide by their sum.")
    require(close(got.sum(1), torch.ones(2)), "Each row must sum to 1.")
    require(close(got, wanted), "p is proportional to exp(-nats).")
    far = tensor(run(answer, nats + 300), (2, 3), "The answer for very unlikely stories")
    require(close(far, wanted), "Right for likely stories, wrong for very unlikely ones: exp(-300) is 0 in float32.")
