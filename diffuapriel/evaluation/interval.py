"""Confidence intervals at 95 %: of a ratio of sums, and of a rate."""

from __future__ import annotations

import math

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


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The interval of a rate; sensible also when all or none succeed (Wilson 1927). (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    center = rate + Z**2 / (2 * trials)
    spread = Z * math.sqrt(rate * (1 - rate) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)
