"""Lesson 06: exponents, crossovers and rooflines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from diffuapriel.benchmark.sweep import crossover, fit_exponent
from diffuapriel.lessons.check.verdict import checker, number, require, run

__all__ = ["attention_multiply_adds", "crossing", "exponent"]


@checker
def exponent(answer: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """`answer(lengths, ms)`: least-squares slope of log(ms) over log(length)."""
    lengths = [100, 300, 900, 2_700]
    for k in (1.0, 2.0, 0.5):
        ms = [7.0 * n**k for n in lengths]
        got = number(run(answer, list(lengths), ms))
        require(
            abs(got - 1 / k) > 1e-3 or k == 1,
            f"For times that grow as length^{k:g} you get {got:.3f}, which is the slope of length over time.",
        )
        require(
            abs(got - k) < 1e-3,
            f"For times of exactly 7 · length^{k:g} the exponent is {k:g}; yours is {got:.3f}. "
            "Did you take logarithms with the same base of both lists, and subtract both means?",
        )
    for lengths, ms in (
        ([128, 256, 512, 4_096], [3.0, 5.0, 9.0, 200.0]),
        ([10, 20, 40, 80, 160], [9.0, 4.0, 30.0, 31.0, 100.0]),
        ([1_000, 2_000, 50], [10.0, 28.0, 1.0]),
    ):
        got = number(run(answer, list(lengths), list(ms)))
        wanted = fit_exponent(lengths, ms, tail=len(lengths))
        assert wanted is not None
        require(
            abs(got - wanted) < 1e-3,
            f"For points that are not on a line, your slope is {got:.3f} instead of {wanted:.3f}. "
            "Every point counts in least squares, not only the first and the last.",
        )


CURVES = (  # lengths, a, b; they cross once
    ([100, 400, 1_600], [4.0, 9.0, 20.0], [2.0, 8.0, 40.0]),
    ([128, 256, 512, 1_024], [10.0, 11.0, 13.0, 20.0], [30.0, 20.0, 12.0, 11.0]),
    ([16, 64, 1_024, 2_048], [1.0, 5.0, 90.0, 300.0], [2.0, 7.0, 60.0, 61.0]),
)


@checker
def crossing(answer: Callable[[Sequence[float], Sequence[float], Sequence[float]], float]) -> None:
    """`answer(lengths, a, b)`: length at which two curves cross, interpolated on log axes."""
    for lengths, a, b in CURVES:
        wanted = crossover("a", dict(zip(lengths, a)), "b", dict(zip(lengths, b))).length
        assert wanted is not None
        got = number(run(answer, list(lengths), list(a), list(b)))
        before = max(n for n in lengths if n < wanted)
        after = min(n for n in lengths if n > wanted)
        require(
            before <= got <= after,
            f"For lengths {lengths} with times {a} and {b} the faster one changes between {before} and {after}; "
            f"your crossing is at {got:.1f}.",
        )
        require(
            got not in (before, after),
            f"{got:g} is a measured length. The curves cross between {before} and {after}: draw the line.",
        )
        require(
            abs(got / wanted - 1) < 1e-4,
            f"Between {before} and {after} is right, but {got:.1f} is not where the line on log axes crosses zero. "
            "Did you take logarithms of lengths and times? Is the share measured from the shorter length?",
        )


@checker
def attention_multiply_adds(answer: Callable[[int, int], int]) -> None:
    """`answer(d, L)`: multiply-adds per token in a Transformer block, 12 d^2 + 2 L d."""
    for d, L in ((64, 1_000), (10, 7), (512, 65_536), (3, 1)):
        grows = number(run(answer, d, L + 1)) - number(run(answer, d, L))
        require(
            math.isclose(grows, 2 * d),
            f"One more token in the text adds one key and one value: at d = {d} that is 2 d = {2 * d} "
            f"multiply-adds per token. Yours adds {grows:g}."
            + (" Count for one token, not for all of them." if grows > 4 * d else ""),
        )
        matrices = (number(run(answer, d, L)) - 2 * L * d) / d**2
        require(
            math.isclose(matrices, 12, rel_tol=1e-6),
            f"The attention itself is right. Your matrices come to {matrices:g} d². How many are d by d, and how large "
            "are the two matrices of an MLP that is 4 times as wide inside?",
        )
