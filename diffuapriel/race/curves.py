"""What a latency curve says: its exponent, and where two curves cross. Plain arithmetic on log axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TAIL = 4  # lengths at the long end that the exponent is fitted to


@dataclass(frozen=True)
class Crossover:
    """Where lane `a` and lane `b` change places for good: `length` in tokens, None where they never do.

    `faster_above` is the lane that wins above it (or everywhere, where `length` is None), None for a tie.
    """

    a: str
    b: str
    length: float | None
    ms: float | None  # of both, there
    faster_above: str | None
    message: str


def fit_exponent(lengths: Sequence[float], ms: Sequence[float], tail: int = TAIL) -> float | None:
    """Slope of log(ms) over log(length) at the last `tail` lengths, by least squares: 1 linear, 2 quadratic.

    None with fewer than two lengths. Raises ValueError where a length or a time is not above 0.
    """
    if len(lengths) != len(ms):
        raise ValueError(f"{len(lengths)} lengths but {len(ms)} times; give one time for each length")
    if any(not value > 0 or math.isinf(value) for value in (*lengths, *ms)):
        raise ValueError("lengths and times must be finite and above 0 to be drawn on log axes")
    points = sorted(zip(lengths, ms, strict=True))[-tail:]
    if len({length for length, _ in points}) < 2:
        return None
    xs, ys = [math.log(length) for length, _ in points], [math.log(t) for _, t in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum(
        (x - mean_x) ** 2 for x in xs
    )


def crossover(a: str, a_ms: dict[int, float], b: str, b_ms: dict[int, float]) -> Crossover:
    """Where the curves of `a` and `b` (length -> ms) cross last, interpolated on log axes.

    Only lengths that both measured count. The last crossing is taken, because near a tie noise makes more.
    """
    lengths = sorted(a_ms.keys() & b_ms.keys())
    if not lengths:
        return Crossover(a, b, None, None, None, f"No length was measured for both {a} and {b}.")
    gaps = [math.log(a_ms[n] / b_ms[n]) for n in lengths]  # below 0: a is faster
    span = (
        f"every length measured ({lengths[0]:,})"
        if len(lengths) == 1
        else f"every length measured, {lengths[0]:,} to {lengths[-1]:,}"
    )
    last = next(
        (i for i in range(len(gaps) - 1, 0, -1) if gaps[i - 1] * gaps[i] < 0 or gaps[i - 1] == 0 != gaps[i]),
        None,
    )
    if last is None:
        if all(gap == 0 for gap in gaps):
            return Crossover(a, b, None, None, None, f"{a} and {b} are equally fast at {span}.")
        winner = a if min(gaps, key=lambda gap: -abs(gap)) < 0 else b
        return Crossover(a, b, None, None, winner, f"{winner} is faster at {span}; the curves do not cross.")
    share = gaps[last - 1] / (gaps[last - 1] - gaps[last])
    between = math.log(lengths[last - 1]) + share * math.log(lengths[last] / lengths[last - 1])
    ms = math.exp((1 - share) * math.log(a_ms[lengths[last - 1]]) + share * math.log(a_ms[lengths[last]]))
    above, below = (a, b) if gaps[last] < 0 else (b, a)
    length = math.exp(between)
    return Crossover(
        a, b, length, ms, above, f"{above} is faster from about {length:,.0f} tokens on; below, {below} wins."
    )
