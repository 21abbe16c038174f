"""Two contestants timed in turn, A B A B ..., so that a machine that heats up or gets busy hurts both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffuapriel.race.clock import Clock


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contestant over all repeats."""

    median_ms: float
    min_ms: float
    max_ms: float


@dataclass(frozen=True)
class Duel:
    """Our timing, the peer's, and how many times as long the peer takes: the median of the ratios pair by pair."""

    ours: Timing
    peer: Timing
    ratio: float
    ratio_min: float
    ratio_max: float
    repeats: int


def duel(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    repeats: int = 7,
    warmup: int = 2,
    device: torch.device | str = "cpu",
) -> Duel:
    """Time `ours` and `peer` in turn after `warmup` untimed calls of each.

    Raises ValueError when `repeats` or `warmup` is less than 1.
    """
    if repeats < 1 or warmup < 1:
        raise ValueError(f"repeats is {repeats} and warmup {warmup}; both must be 1 or more")
    clock = Clock(device)
    for _ in range(warmup):
        ours()
        peer()
    a, b = [], []
    for _ in range(repeats):
        a.append(_milliseconds(ours, clock))
        b.append(_milliseconds(peer, clock))
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    return Duel(_timing(a), _timing(b), statistics.median(ratios), min(ratios), max(ratios), repeats)


def _milliseconds(call: Callable[[], object], clock: Clock) -> float:
    start = clock.mark()
    call()
    return 1000.0 * clock.seconds(start, clock.mark())


def _timing(milliseconds: list[float]) -> Timing:
    return Timing(statistics.median(milliseconds), min(milliseconds), max(milliseconds))
