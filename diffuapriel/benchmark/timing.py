"""The one timing protocol: a clock per device, and the interleaved order of timed runs.

A mark costs next to nothing and does not wait for the device; `seconds` resolves two marks afterwards. Entries are
interleaved, and the order is reversed in each round (A B, B A, A B, ...), so that a machine that heats up or gets busy
affects all of them alike. Ratios are taken round by round.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")
MIN_ROUNDS = 3


@contextmanager
def undisturbed() -> Iterator[None]:
    """Disable Python's garbage collector: its pauses would be counted as the model's."""
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
        kinds = {"cuda": "device events", "mps": "host clock after synchronizing"}
        self.kind = kinds.get(self.device.type, "time.perf_counter")

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


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises statistics.StatisticsError without values."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, unit: str = "", digits: int = 2) -> str:
        """'6.41x (6.38 to 6.45)' for the unit 'x'."""
        median, least, most = (f"{value:,.{digits}f}" for value in self)
        return f"{median}{unit} ({least} to {most})"


def interleaved(entries: Sequence[T], repeats: int) -> list[T]:
    """The entries in the order in which they are timed: A B, then B A, then A B, ..."""
    return [entry for r in range(repeats) for entry in (entries if r % 2 == 0 else entries[::-1])]


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    seconds: float = math.inf,
    min_rounds: int = MIN_ROUNDS,
    device: torch.device | str = "cpu",
) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each call in each round, by name. The caller has warmed all of them up.

    After `min_rounds`, timing ends with `repeats` rounds or after `seconds`, whichever comes first: a quick call is
    timed often, and a slow one is not waited for. Raises ValueError for `repeats` below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be 1 or more")
    clock = Clock(device)
    found: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for turn, name in enumerate(interleaved(list(calls), repeats)):
        round_number, first = divmod(turn, len(calls))
        if not first and round_number >= min_rounds and time.perf_counter() - began > seconds:
            break
        call = calls[name]
        with undisturbed():
            start = clock.mark()
            call()
            elapsed = clock.seconds(start, clock.mark())
        found[name].append(round(1000.0 * elapsed, 5))
    return {name: tuple(ms) for name, ms in found.items()}


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> Spread:
    """How many times as long the peer takes, round by round."""
    return Spread.of([y / x for x, y in zip(ours, peer, strict=True)])
