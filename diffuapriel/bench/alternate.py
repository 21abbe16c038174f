"""Contestants timed in turn, A B A B ..., so that a machine that heats up or gets busy hurts all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffuapriel.race.clock import Clock, undisturbed

LEAST_ROUNDS = 3


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
    for _ in range(warmup):
        ours()
        peer()
    clock = Clock(device)
    a, b = [], []
    for _ in range(repeats):
        a.append(_milliseconds(ours, clock))
        b.append(_milliseconds(peer, clock))
    ratio, least, most = compare(a, b)
    return Duel(timing(a), timing(b), ratio, least, most, repeats)


def turns(
    contestants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    seconds: float,
    least: int = LEAST_ROUNDS,
    device: torch.device | str = "cpu",
) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each contestant, timed one after the other in rounds; the order turns round with each.

    All have been warmed up by the caller. After `least` rounds they end when `repeats` of them or `seconds` are
    over, so that a quick call is timed often and a slow one is not waited for. Raises ValueError for `repeats` under 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be 1 or more")
    clock = Clock(device)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    began = time.perf_counter()
    for turn in range(repeats):
        if turn >= least and time.perf_counter() - began > seconds:
            break
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(round(_milliseconds(contestants[name], clock), 5))
    return {name: tuple(ms) for name, ms in found.items()}


def compare(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """How many times as long the peer takes, round by round: median, least and most."""
    ratios = [y / x for x, y in zip(ours, peer, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def timing(milliseconds: Sequence[float]) -> Timing:
    """Median, least and most."""
    return Timing(statistics.median(milliseconds), min(milliseconds), max(milliseconds))


def _milliseconds(call: Callable[[], object], clock: Clock) -> float:
    with undisturbed():
        start = clock.mark()
        call()
        return 1000.0 * clock.seconds(start, clock.mark())
