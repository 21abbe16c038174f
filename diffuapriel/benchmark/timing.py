"""One clock per device: the host's on a CPU, the device's own events on CUDA.

A mark costs next to nothing and nothing waits for the device while a run goes on; `seconds` resolves two
marks afterwards. Everything in this package that says milliseconds was measured by this clock.

Contestants timed in turn, A B A B ..., so that a machine that heats up or gets busy hurts all alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Python's garbage collector waits meanwhile: its pauses would be taken for the model's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Clock:
    """Marks moments on `device` and gives the seconds between two of them."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.kind = {"cuda": "device events", "mps": "host clock after synchronizing"}.get(
            self.device.type, "time.perf_counter"
        )

    def mark(self) -> Any:
        """A moment: after everything queued on the device so far."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; on CUDA this waits until the second has been reached."""
        if self.device.type == "cuda":
            end.synchronize()
            return start.elapsed_time(end) / 1000.0
        return end - start


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
