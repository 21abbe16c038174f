"""Confidence intervals at 95 %: of a ratio of sums, of a rate, and of a mean of few values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def ratio_interval(numerator: Tensor, denominator: Tensor) -> tuple[float, tuple[float, float]]:
    """sum(numerator) / sum(denominator) over independent units, and its interval.

    numerator, denominator: (units,) float64. The spread is that of the residuals numerator - ratio x
    denominator (Cochran, Sampling Techniques, chapter 6), so units of different size are weighted rightly.
    At least two units are needed.
    """
    units = len(numerator)
    ratio = (numerator.sum() / denominator.sum()).item()
    residuals = numerator - ratio * denominator
    error = (residuals.square().sum() / (units * (units - 1))).sqrt().item() / denominator.mean().item()
    return ratio, (ratio - Z * error, ratio + Z * error)


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """The interval of a rate; sensible also when all or none succeed (Wilson 1927). (0, 1) without trials.

    Trials that depend on one another count as fewer: both numbers may be fractions.
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
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_quantile(count - 1) * math.sqrt(variance / count)
    return mean, (mean - half, mean + half)


def student_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t, within 1 % from two degrees of freedom on (Abramowitz and Stegun, 26.7.5)."""
    z, n = Z, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n ** (power + 1) for power, term in enumerate(terms))
