"""The fair race: the same work for every entry, timed one entry after the other.

The protocol, and nothing of it lives anywhere else:

1. Every entry gets the same canvas length, steps, strategy, temperature and seed.
2. Every entry warms up at that very shape: whole steps of denoiser and sampler, not timed. The last of them
   is where peak memory is read.
3. Timed runs follow one after the other, never two at once, in an order that turns round with every repeat
   (A B, B A, A B, ...), so that a machine that heats up or gets busy hurts both alike.
4. Time is taken by `Clock` around each step only: what the caller does between two events of `race_events`
   (drawing a progress bar, say) is in no figure.
5. A entry's figures are medians over the repeats; the spread is given beside them.

Tokens are counted as masks filled, never by encoding the text again.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from diffuapriel.benchmark.entry import Entry, distinct_names
from diffuapriel.benchmark.memory import PeakMemory, estimate_bytes, out_of_memory, refusal
from diffuapriel.benchmark.timing import Clock, undisturbed
from diffuapriel.device import machine_name
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frames import StepFrame
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.trace.trace import Trace

SCHEMA = "diffuapriel-race-result"
VERSION = 1


@dataclass(frozen=True)
class Run:
    """One timed generation. `started` and `ended` are seconds since the race began, on the host's clock."""

    entry: str
    repeat: int
    started: float
    ended: float
    step_ms: tuple[float, ...]
    denoiser_ms: float  # of the whole run: the part of it spent inside the denoiser


@dataclass(frozen=True)
class EntryResult:
    """What one entry did: medians over the repeats. `trace` is the first timed run with the
    median times, for a replay."""

    name: str
    architecture: str
    tokenizer: str
    parameters: int
    weights: str
    dtype: str
    device: str
    attention: str
    seconds: float  # of one generation
    seconds_min: float
    seconds_max: float
    step_ms: tuple[float, ...]
    ms_per_step: float
    tokens: int  # masks filled
    tokens_per_second: float
    forward_passes: int
    denoiser_share: float  # of the generation's time, 0 to 1
    peak_memory_bytes: int
    scan: str = "none"
    form: str = ""  # how the denoiser ran, in words
    trace: Trace | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class RaceResult:
    """The whole race. `order` names the entries as they were timed; `fairness()` says in words what was fair."""

    entries: tuple[EntryResult, ...]
    length: int
    steps: int
    strategy: str
    temperature: float
    seed: int
    repeats: int
    warmup_steps: int
    order: tuple[str, ...]
    runs: tuple[Run, ...]
    machine: str
    threads: int
    clock: str
    memory_method: str
    torch_version: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the traces are left out: each has a file format of its own."""
        entries = [{k: v for k, v in vars(entry).items() if k != "trace"} for entry in self.entries]
        return {
            "schema": SCHEMA,
            "version": VERSION,
            **dataclasses.asdict(replace(self, entries=())),
            "entries": entries,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RaceResult:
        """The inverse of `to_dict`. ValueError for another schema or version."""
        found = (values.get("schema"), values.get("version")) if isinstance(values, dict) else (None, None)
        if found != (SCHEMA, VERSION):
            raise ValueError(
                f"this is schema {found[0]!r} version {found[1]!r}; permitted: {SCHEMA!r} version {VERSION}"
            )
        rest = {k: v for k, v in values.items() if k not in ("schema", "version")}
        rest["entries"] = tuple(
            EntryResult(**{**entry, "step_ms": tuple(entry["step_ms"])}) for entry in rest["entries"]
        )
        rest["runs"] = tuple(Run(**{**run, "step_ms": tuple(run["step_ms"])}) for run in rest["runs"])
        return cls(**{**rest, "order": tuple(rest["order"])})

    def fairness(self) -> list[str]:
        """Sentences: what was the same, how it was timed, and what was not matched."""
        from diffuapriel.benchmark.result import fairness

        return fairness(self)


@dataclass(frozen=True)
class RaceEvent:
    """One moment of a race in progress; the last one holds the result."""

    phase: str  # "warm-up", "timed" or "done"
    entry: str
    repeat: int
    step: int
    fraction: float  # of all steps of the race, 0 to 1
    result: RaceResult | None = None


def race(entries: Sequence[Entry], length: int, steps: int, **options: Any) -> RaceResult:
    """Run a race to its end. Arguments, defaults and errors are those of `race_events`."""
    for event in race_events(entries, length, steps, **options):
        if event.result is not None:
            return event.result
    raise AssertionError("a race ends with its result")


def race_events(
    entries: Sequence[Entry],
    length: int,
    steps: int,
    *,
    strategy: str = "confidence",
    temperature: float = 1.0,
    seed: int = 0,
    repeats: int = 4,
    warmup_steps: int = 2,
    text: str = "",
) -> Iterator[RaceEvent]:
    """Race the entries; yields after every step, so that a caller can show progress or stop (close the iterator).

    length: canvas tokens; `text` (with holes) stands at its start and the rest is masks. steps: sampler steps.
    Raises ValueError for options out of range, MemoryError (with the figure) where a entry would not fit.
    """
    _check(entries, repeats, warmup_steps)
    config = SamplerConfig(strategy=strategy, steps=steps, temperature=temperature, seed=seed)
    names = distinct_names(list(entries))
    racers = [_Racer(name, entry, config, length, text) for name, entry in zip(names, entries, strict=True)]
    order = alternating(len(racers), repeats)
    total = len(racers) * warmup_steps + len(order) * steps
    done = 0
    for racer in racers:
        for step in racer.warm_up(warmup_steps):
            done += 1
            yield RaceEvent("warm-up", racer.name, 0, step, min(1.0, done / total))
    began = time.perf_counter()
    for turn, index in enumerate(order):
        racer, repeat = racers[index], turn // len(racers)
        for step in racer.timed_run(repeat, began):
            done += 1
            yield RaceEvent("timed", racer.name, repeat, step, min(1.0, done / total))
    result = RaceResult(
        entries=tuple(racer.result() for racer in racers),
        length=length,
        steps=steps,
        strategy=strategy,
        temperature=temperature,
        seed=seed,
        repeats=repeats,
        warmup_steps=warmup_steps,
        order=tuple(names[i] for i in order),
        runs=tuple(sorted((run for racer in racers for run in racer.runs), key=lambda run: run.started)),
        machine=machine_name(entries[0].device),
        threads=torch.get_num_threads(),
        clock=Clock(entries[0].device).kind,
        memory_method=PeakMemory(entries[0].device).method,
        torch_version=torch.__version__,
    )
    yield RaceEvent("done", "", repeats - 1, steps, 1.0, result)


def alternating(entries: int, repeats: int) -> list[int]:
    """Entry numbers in the order they are timed: 0 1, then 1 0, then 0 1, ..."""
    return [i for r in range(repeats) for i in (range(entries) if r % 2 == 0 else reversed(range(entries)))]


def _check(entries: Sequence[Entry], repeats: int, warmup_steps: int) -> None:
    if len(entries) < 1:
        raise ValueError("a race needs at least one entry")
    devices = {str(entry.device) for entry in entries}
    if len(devices) > 1:
        raise ValueError(
            f"the entries are on {', '.join(sorted(devices))}; a fair race has them on one device"
        )
    for name, value in (("repeats", repeats), ("warmup_steps", warmup_steps)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 or more")


class _Racer:
    """One entry on its canvas: warms up, runs, and remembers what the runs took."""

    def __init__(self, name: str, entry: Entry, config: SamplerConfig, length: int, text: str) -> None:
        self.name, self.entry = name, entry
        if entry.config is not None:
            needed = estimate_bytes(entry.config, length, bytes_per_value=entry.bytes_per_value)
            if problem := refusal(needed, entry.device, f"{name} at {length} tokens"):
                raise MemoryError(problem)
        canvas = (
            Canvas.from_text(text, entry.tokenizer, length) if text else Canvas.masks(length, entry.tokenizer)
        )
        if not canvas.masked.any():
            raise ValueError("the text has no [MASK] and fills the canvas: there is nothing to race for")
        self.canvas = canvas.to(entry.device)
        self.sampler = Sampler(config, get_schedule("log-linear"), entry.tokenizer.mask_id)
        self.clock = Clock(entry.device)
        self.runs: list[Run] = []
        self.frames: tuple[StepFrame, ...] = ()
        self.peak_memory_bytes = 0

    def warm_up(self, steps: int) -> Iterator[int]:
        """Whole steps, not timed; memory is read over the last, when what is made once has been made.

        On CUDA over all: a step that is recorded in the first and replayed in the others allocates in the first.
        """
        for step in range(1, steps + 1):
            with self._told_when_full(), PeakMemory(self.entry.device) as memory:
                stream = self.sampler.stream(self.entry.denoiser, self.canvas)
                list(islice(stream, 2))  # the start, then one step
            before = self.peak_memory_bytes if self.entry.device.type == "cuda" else 0
            self.peak_memory_bytes = max(before, memory.peak + self.entry.weight_bytes)
            yield step

    def timed_run(self, repeat: int, began: float) -> Iterator[int]:
        """One whole generation; yields the number of each step after its time has been taken."""
        stream = self.sampler.stream(self.entry.denoiser, self.canvas)
        frames, marks = [next(stream)], []
        started = time.perf_counter() - began
        while True:
            with self._told_when_full(), undisturbed():
                start = self.clock.mark()
                frame = next(stream, None)
                marks.append((start, self.clock.mark()))
            if frame is None:
                break
            frames.append(frame)
            yield len(frames) - 1
        step_ms = tuple(1000.0 * self.clock.seconds(*pair) for pair in marks[:-1])
        denoiser_ms = sum(frame.denoiser_ms for frame in frames)
        ended = time.perf_counter() - began
        self.runs.append(Run(self.name, repeat, started, ended, step_ms, denoiser_ms))
        self.frames = self.frames or tuple(frames)

    @contextmanager
    def _told_when_full(self) -> Iterator[None]:
        """A GPU that is full although the estimate said otherwise is a MemoryError with the figure."""
        try:
            yield
        except torch.OutOfMemoryError:
            what = f"{self.name} at {len(self.canvas)} tokens"
            raise MemoryError(out_of_memory(self.entry.device, what)) from None

    def result(self) -> EntryResult:
        totals = [sum(run.step_ms) / 1000.0 for run in self.runs]
        step_ms = tuple(
            statistics.median(times) for times in zip(*(run.step_ms for run in self.runs), strict=True)
        )
        seconds = statistics.median(totals)
        tokens = int(self.canvas.masked.sum())
        return EntryResult(
            name=self.name,
            architecture=self.entry.architecture,
            tokenizer=self.entry.tokenizer.name,
            parameters=self.entry.parameters,
            weights=self.entry.weights,
            dtype=self.entry.dtype,
            device=str(self.entry.device),
            attention=self.entry.attention,
            seconds=seconds,
            seconds_min=min(totals),
            seconds_max=max(totals),
            step_ms=step_ms,
            ms_per_step=1000.0 * seconds / len(step_ms),
            tokens=tokens,
            tokens_per_second=tokens / seconds,
            forward_passes=self.frames[-1].nfe,
            denoiser_share=statistics.median(run.denoiser_ms / sum(run.step_ms) for run in self.runs),
            peak_memory_bytes=self.peak_memory_bytes,
            scan=self.entry.scan,
            form=self.entry.form,
            trace=self._trace(step_ms),
        )

    def _trace(self, step_ms: tuple[float, ...]) -> Trace:
        """The first timed run, each step with its median time: what a replay shows."""
        timed = [replace(frame, ms=ms) for frame, ms in zip(self.frames[1:], step_ms, strict=True)]
        about = {"model": self.name, "architecture": self.entry.architecture}
        return Trace.of(
            [self.frames[0], *timed], self.canvas, self.entry.tokenizer, self.sampler.config, **about
        )
