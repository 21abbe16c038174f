"""Latency against length: the curves, their exponents, and where a linear backbone overtakes a quadratic one.

One measurement is one denoiser call on canvases with every second position masked, the middle of a generation. At each
length all entries warm up and are then timed interleaved (timing.py). Before a length starts, its memory and time are
predicted from the shorter lengths, or from the configuration; one that does not fit is refused with the figure.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffuapriel.benchmark.entry import Entry, check_counts, distinct_names, half_masked
from diffuapriel.benchmark.memory import PeakMemory, out_of_memory, refusal
from diffuapriel.benchmark.result import read_record, read_schema
from diffuapriel.benchmark.timing import Clock, Spread, interleaved, undisturbed
from diffuapriel.device import device_name

TAIL = 4  # lengths at the long end that the exponent is fitted to


@dataclass(frozen=True)
class Crossover:
    """The last length in tokens at which the faster of entries `a` and `b` changes; None if it never does.

    `faster_above` is the entry that is faster above it (or everywhere, if `length` is None); None for a tie.
    """

    a: str
    b: str
    length: float | None
    ms: float | None  # of both, there
    faster_above: str | None
    message: str


def fit_exponent(lengths: Sequence[float], ms: Sequence[float], tail: int = TAIL) -> float | None:
    """Slope of log(ms) over log(length) at the last `tail` lengths, by least squares: 1 linear, 2 quadratic.

    None with fewer than two lengths. Raises ValueError unless all lengths and times are finite and above 0.
    """
    if len(lengths) != len(ms):
        raise ValueError(f"{len(lengths)} lengths but {len(ms)} times; give one time for each length")
    if any(not value > 0 or math.isinf(value) for value in (*lengths, *ms)):
        raise ValueError("lengths and times must be finite and above 0 to be drawn on log axes")
    points = sorted(zip(lengths, ms, strict=True))[-tail:]
    if len({length for length, _ in points}) < 2:
        return None
    xs, ys = zip(*((math.log(length), math.log(t)) for length, t in points), strict=True)
    return statistics.linear_regression(xs, ys).slope


def crossover(a: str, a_ms: dict[int, float], b: str, b_ms: dict[int, float]) -> Crossover:
    """Where the curves of `a` and `b` (length -> ms) cross last, interpolated on log axes.

    Only lengths of both curves count. The last crossing is taken, because noise near a tie makes several.
    """
    gaps = {n: math.log(a_ms[n] / b_ms[n]) for n in sorted(a_ms.keys() & b_ms.keys())}  # below 0: a is faster
    if not gaps:
        return Crossover(a, b, None, None, None, f"No length was measured for both {a} and {b}.")
    for short, long in reversed(list(itertools.pairwise(gaps))):
        if gaps[short] * gaps[long] < 0 or gaps[short] == 0 != gaps[long]:
            share = gaps[short] / (gaps[short] - gaps[long])
            length, ms = short * (long / short) ** share, a_ms[short] * (a_ms[long] / a_ms[short]) ** share
            above, below = (a, b) if gaps[long] < 0 else (b, a)
            message = f"{above} is faster from about {length:,.0f} tokens on; below, {below} wins."
            return Crossover(a, b, length, ms, above, message)
    lengths = list(gaps)
    span = f", {lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f" ({lengths[0]:,})"
    winner, message = None, f"{a} and {b} are equally fast at every length measured{span}."
    if any(gaps.values()):
        winner = a if max(gaps.values(), key=abs) < 0 else b
        message = f"{winner} is faster at every length measured{span}; the curves do not cross."
    return Crossover(a, b, None, None, winner, message)


LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SCHEMA = "diffuapriel-sweep-result"
VERSION = 2
OLD_KEYS = {"lanes": "entries", "lane": "entry"}  # of version 1
GROWTH_MARGIN = 1.25  # on memory extrapolated from shorter lengths


@dataclass(frozen=True)
class Point:
    """One entry at one length: milliseconds of a forward pass (median, least, most) and what follows from them."""

    entry: str
    length: int
    ms: float
    ms_min: float
    ms_max: float
    tokens_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Refusal:
    """An entry and a length that were not run, and why, with the figure."""

    entry: str
    length: int
    message: str


@dataclass(frozen=True)
class SweepResult:
    """All points so far; exponents and crossovers follow from them."""

    entries: tuple[str, ...]
    points: tuple[Point, ...]
    refusals: tuple[Refusal, ...]
    batch: int
    repeats: int
    machine: str
    threads: int
    memory_method: str

    def curve(self, entry: str) -> dict[int, float]:
        """Length to milliseconds of one entry."""
        return {p.length: p.ms for p in self.points if p.entry == entry}

    @property
    def exponents(self) -> dict[str, float | None]:
        """Exponent of latency over length at the long end, by entry."""
        curves = {entry: self.curve(entry) for entry in self.entries}
        return {entry: fit_exponent(list(curve), list(curve.values())) for entry, curve in curves.items()}

    @property
    def crossovers(self) -> list[Crossover]:
        """One for each pair of entries that have a length in common."""
        curves = {entry: self.curve(entry) for entry in self.entries}
        pairs = itertools.combinations(curves.items(), 2)
        return [crossover(*a, *b) for a, b in pairs if a[1].keys() & b[1].keys()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with exponents and crossovers for readers without this code."""
        crossovers = [dataclasses.asdict(cross) for cross in self.crossovers]
        derived = {"exponents": self.exponents, "crossovers": crossovers}
        return {"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(self), **derived}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SweepResult:
        """The inverse of `to_dict`. Raises ValueError for another schema or version."""
        return read_record(cls, read_schema(values, SCHEMA, VERSION, OLD_KEYS))


@dataclass(frozen=True)
class SweepEvent:
    """Progress of a sweep: `result` holds everything measured so far."""

    fraction: float
    message: str
    result: SweepResult


def sweep(entries: Sequence[Entry], **options: Any) -> SweepResult:
    """Run a sweep to its end, with the arguments and errors of `sweep_events`."""
    *_, last = sweep_events(entries, **options)
    return last.result


def sweep_events(
    entries: Sequence[Entry],
    *,
    lengths: Sequence[int] = LENGTHS,
    batch: int = 1,
    repeats: int = 4,
    max_seconds: float = 60.0,
) -> Iterator[SweepEvent]:
    """Measure each entry at each length, shortest first; yields after each call, so that a caller can stop.

    max_seconds: an entry stops before the first length at which one forward pass is predicted to take longer.
    Raises ValueError for options out of range. A length that does not fit in memory becomes a `Refusal`.
    """
    check_counts("a sweep", entries, batch=batch, repeats=repeats)
    if not lengths:
        raise ValueError("lengths is empty; give at least one")
    for length in lengths:
        check_counts("a sweep", entries, **{"a length": length})
    if not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds!r}; it must be above 0")
    lengths = sorted(set(lengths))
    names = distinct_names(entries)
    probes = [_Probe(name, entry, batch) for name, entry in zip(names, entries, strict=True)]
    refusals: list[Refusal] = []
    device = entries[0].device
    method = PeakMemory(device).method.replace("one step", "one forward pass")
    about = (batch, repeats, device_name(device), torch.get_num_threads(), method)
    work = len(probes) * sum(lengths) * (repeats + 1)
    done = 0

    def event(message: str) -> SweepEvent:
        points = tuple(point for probe in probes for point in probe.points)
        result = SweepResult(tuple(names), points, tuple(refusals), *about)
        return SweepEvent(min(1.0, done / work), message, result)

    for length in lengths:
        for probe in probes:
            probe.stopped = probe.stopped or probe.problem(length, max_seconds) or probe.warm_up(length)
            if probe.stopped:
                refusals.append(Refusal(probe.name, length, probe.stopped))
            done += length * (repeats + 1 if probe.stopped else 1)
            yield event(probe.stopped or f"{probe.name}: warmed up at {length:,} tokens")
        running = [probe for probe in probes if not probe.stopped]
        for turn, probe in enumerate(interleaved(running, repeats)):
            probe.time(length)
            done += length
            yield event(f"{probe.name}: {length:,} tokens, run {turn // len(running) + 1} of {repeats}")
        for entry in entries:
            entry.clear_cache()  # a CUDA graph of one length is of no use at the next
    done = work
    yield event("done")


class _Probe:
    """One entry on its way up the lengths."""

    def __init__(self, name: str, entry: Entry, batch: int) -> None:
        self.name, self.entry, self.batch = name, entry, batch
        self.clock = Clock(entry.device)
        self.stopped: str | None = None  # why this entry goes no further
        self._ms: dict[int, list[float]] = {}
        self._peaks: dict[int, int] = {}

    @property
    def points(self) -> list[Point]:
        found = []
        for length, times in self._ms.items():
            ms, peak = Spread.of(times), self._peaks[length] + self.entry.weight_bytes
            found.append(Point(self.name, length, *ms, 1000.0 * self.batch * length / ms.median, peak))
        return found

    def problem(self, length: int, max_seconds: float) -> str | None:
        """Why `length` must not start; None if it may."""
        what = f"{self.name} at {length:,} tokens"
        needed = GROWTH_MARGIN * extrapolate(self._peaks, length)
        if not self._peaks:
            needed = self.entry.needed_bytes(length, self.batch)
        if problem := refusal(needed, self.entry.device, what):
            return problem
        seconds = extrapolate({n: statistics.median(ms) for n, ms in self._ms.items()}, length) / 1000
        if seconds > max_seconds:
            took = f"{what} would take about {seconds:,.0f} s for one forward pass"
            return f"{took}; the limit is {max_seconds:,.0f} s"
        return None

    def warm_up(self, length: int) -> str | None:
        """One untimed call whose memory is measured. Returns the reason if memory ran out."""
        try:
            with PeakMemory(self.entry.device) as memory:
                self._call(length)
        except torch.OutOfMemoryError:
            return out_of_memory(self.entry.device, f"{self.name} at {length:,} tokens")
        self._peaks[length] = memory.peak
        return None

    def time(self, length: int) -> None:
        with undisturbed():
            start, end = self._call(length)
        self._ms.setdefault(length, []).append(1000.0 * self.clock.seconds(start, end))

    @torch.inference_mode()
    def _call(self, length: int) -> tuple[Any, Any]:
        """One denoiser call between two marks."""
        inputs = half_masked(self.entry.tokenizer, length, self.batch, self.entry.device)
        start = self.clock.mark()
        self.entry.denoiser(*inputs)
        return start, self.clock.mark()


def extrapolate(known: dict[int, float] | dict[int, int], length: int) -> float:
    """The value at `length`, with the growth exponent of the last two known values, clamped to 1..2.

    With one known value the exponent is 2. 0 if nothing is known.
    """
    if not known:
        return 0.0
    *before, last = sorted(known)
    exponent = 2.0
    if before and min(known[before[-1]], known[last]) > 0:
        growth = math.log(known[last] / known[before[-1]]) / math.log(last / before[-1])
        exponent = min(2.0, max(1.0, growth))
    return known[last] * (length / last) ** exponent
