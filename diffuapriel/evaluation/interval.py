"""95 % confidence intervals: of a ratio of sums, of a rate, of a mean of few values, and of a median."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torch import Tensor

Interval = tuple[float, float]

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
# fmt: off
STUDENT = (  # 97.5 % quantiles of Student's t for 2, 3, ... degrees of freedom
    4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452,
)
# fmt: on


def ratio_interval(numerator: Tensor, denominator: Tensor) -> tuple[float, tuple[float, float]]:
    """sum(numerator) / sum(denominator) over independent units, and its interval.

    numerator, denominator: (units,) float64, with two units or more. The variance is that of the residuals
    numerator - ratio x denominator (Cochran, Sampling Techniques, chapter 6), which weights units of different size
    correctly.
    """
    units = len(numerator)
    ratio = (numerator.sum() / denominator.sum()).item()
    residuals = numerator - ratio * denominator
    error = (residuals.square().sum() / (units * (units - 1))).sqrt().item() / denominator.mean().item()
    return ratio, (ratio - Z * error, ratio + Z * error)


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """The interval of a rate (Wilson 1927), valid also if all or none succeed; (0, 1) without trials.

    Both numbers may be fractions, so that trials that depend on one another can count as fewer.
    """
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    center = rate + Z**2 / (2 * trials)
    spread = Z * math.sqrt(rate * (1 - rate) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean of three or more independent values, and Student's interval."""
    count = len(values)
    if count < 3:
        raise ValueError(f"an interval of a mean needs 3 values or more, not {count}")
    mean = statistics.fmean(values)
    half = student_quantile(count - 1) * statistics.stdev(values, mean) / math.sqrt(count)
    return mean, (mean - half, mean + half)


def median_interval(values: Sequence[float]) -> tuple[float, Interval]:
    """The median of one or more independent values, and the narrowest interval between two of them, equally far from
    both ends of their order, that holds it in 95 % of cases or more (Conover, Practical Nonparametric Statistics,
    section 3.2). Fewer than 6 values have none; their whole range is given.
    """
    ordered, count = sorted(values), len(values)
    outside, below = 0, 1  # values left out at each end; 2^count P(so many values or fewer lie below the median)
    while 40 * below <= 2**count:
        outside += 1
        below += math.comb(count, outside)
    first = max(outside - 1, 0)
    return statistics.median(ordered), (ordered[first], ordered[count - 1 - first])


def student_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t for two degrees of freedom or more."""
    return STUDENT[freedom - 2] if freedom - 2 < len(STUDENT) else Z + (Z**3 + Z) / (4 * freedom)
