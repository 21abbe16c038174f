"""The fair race: whole generations, the same work for each entry, one entry at a time.

1. All entries get the same canvas length, steps, strategy, temperature and seed. An entry with a rule of its own
   (`Entry.with_own_rule`), e.g. a model distilled to few passes, takes strategy and block length from that.
2. Each entry warms up at that shape: whole steps of denoiser and sampler, untimed. Peak memory is read then.
3. Timed runs are interleaved (timing.py), never two at once; figures are medians over the repeats, with their spread.
4. `_RacingEntry.timed_run` times each step alone: what the caller of `race_events` does between events is excluded,
   and so is what is recorded for the replay. Where the whole step runs on a GPU (sampling/generate.py, of long texts
   in blocks sampling/graphs/blocks.py), canvases are gathered there and read after the run, so that nothing waits for
   the host.
5. Tokens per second counts filled masks; no text is re-encoded.

A model of blocks races with its context cache, at its own block length (`Entry.in_blocks`). Each run begins with an
empty cache, and finished blocks are committed within the timed steps; on a GPU a commit is a step of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from diffuapriel.benchmark.entry import Entry, check_counts
from diffuapriel.benchmark.memory import PeakMemory, out_of_memory, refusal
from diffuapriel.benchmark.result import EntryFacts, EntryResult, RaceResult, Run
from diffuapriel.benchmark.timing import Clock, Spread, interleaved, time_interleaved, undisturbed
from diffuapriel.device import device_name
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.ops.cudagraph import record
from diffuapriel.sampling.blocks import CachedDenoiser, denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frames import StepFrame, frame_of
from diffuapriel.sampling.generate import SCORED, DeviceDenoiser, fill_steps, unsupported_reason
from diffuapriel.sampling.graphs.blocks import InPlaceModel
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.state import State
from diffuapriel.trace.recording import Recorder
from diffuapriel.trace.trace import Trace

COMMITS = 8  # passes that fill the cache before memory is read, an eighth of the canvas each
MOST_GATHERED = 2**24  # tokens of canvases that stay on the device before they are read
TRACED = 1024  # tokens: a longer canvas is recorded without a trace, which would take hundreds of megabytes


@dataclass(frozen=True)
class RaceEvent:
    """Progress of a race; the last event holds the result."""

    phase: str  # "warm-up", "timed" or "done"
    entry: str
    repeat: int
    step: int
    fraction: float  # of all steps of the race, 0 to 1
    result: RaceResult | None = None


def race(entries: Sequence[Entry], length: int, steps: int, **options: Any) -> RaceResult:
    """Run a race to its end, with the arguments, defaults and errors of `race_events`."""
    *_, last = race_events(entries, length, steps, **options)
    assert last.result is not None, "a race ends with its result"
    return last.result


def race_events(
    entries: Sequence[Entry],
    length: int,
    steps: int,
    *,
    strategy: str = "low_confidence",
    temperature: float = 1.0,
    seed: int = 0,
    repeats: int = 4,
    warmup_steps: int = 2,
    text: str = "",
    block_length: int | None = None,
    top_p: float | None = None,
) -> Iterator[RaceEvent]:
    """Race the entries; yields after every step, so that a caller can show progress or stop (close the iterator).

    Args:
        length: tokens of the canvas; it starts with `text` (which may have holes), and the rest is masks.
        steps: steps of the sampler.
        block_length: blocks of this many tokens are filled from left to right; None: the whole canvas at once. A model
            of blocks takes it if it knows it and no other was chosen by `Entry.in_blocks`.
        top_p: tokens are drawn from the most probable ones with this share; None: from all.

    Raises ValueError for options out of range and MemoryError, with the figure, if an entry would not fit.
    """
    check_counts("a race", entries, repeats=repeats, warmup_steps=warmup_steps)
    if len(devices := {str(entry.device) for entry in entries}) > 1:
        raise ValueError(f"the entries are on {', '.join(sorted(devices))}; a fair race has them on one device")
    entries = [_racing(entry, block_length) for entry in entries]
    options = {"temperature": temperature, "seed": seed, "block_length": block_length, "top_p": top_p}
    config = SamplerConfig(strategy=strategy, steps=steps, **options)
    facts = EntryFacts.of(entries)
    racing = [_RacingEntry(*about, config, length, text) for about in zip(facts, entries, strict=True)]
    total = len(racing) * (warmup_steps + repeats * steps)
    done = 0
    for entry in racing:
        for step in entry.warm_up(warmup_steps):
            done += 1
            yield RaceEvent("warm-up", entry.name, 0, step, min(1.0, done / total))
    began = time.perf_counter()
    order = interleaved(racing, repeats)
    for turn, entry in enumerate(order):
        repeat = turn // len(racing)
        for step in entry.timed_run(repeat, began):
            done += 1
            yield RaceEvent("timed", entry.name, repeat, step, min(1.0, done / total))
    result = RaceResult(
        entries=tuple(entry.result() for entry in racing),
        length=length,
        steps=steps,
        strategy=strategy,
        temperature=temperature,
        seed=seed,
        repeats=repeats,
        warmup_steps=warmup_steps,
        order=tuple(entry.name for entry in order),
        runs=tuple(sorted((run for entry in racing for run in entry.runs), key=lambda run: run.started)),
        machine=device_name(entries[0].device),
        threads=torch.get_num_threads(),
        clock=Clock(entries[0].device).kind,
        memory_method=PeakMemory(entries[0].device).method,
        torch_version=torch.__version__,
        block_length=block_length,
        top_p=top_p,
    )
    yield RaceEvent("done", "", repeats - 1, steps, 1.0, result)


def _racing(entry: Entry, block_length: int | None) -> Entry:
    """The entry; one of a model of blocks at the given block length, or at its default."""
    known = entry.config.block_lengths if entry.config else ()
    if not known or entry.block_length is not None:
        return entry
    return entry.in_blocks(block_length if block_length in known else None)


class _RacingEntry:
    """One entry on its canvas: warms up, runs, and keeps what the runs took."""

    def __init__(self, facts: EntryFacts, entry: Entry, config: SamplerConfig, length: int, text: str) -> None:
        self.facts, self.name, self.entry = facts, facts.name, entry
        if problem := refusal(entry.needed_bytes(length), entry.device, f"{self.name} at {length} tokens"):
            raise MemoryError(problem)
        canvas = Canvas.from_text(text, entry.tokenizer, length) if text else Canvas.masks(length, entry.tokenizer)
        if not canvas.masked.any():
            raise ValueError("the text has no [MASK] and fills the canvas: there is nothing to race for")
        self.canvas = canvas.to(entry.device)
        config = replace(config, **facts.own_options)
        self.sampler = Sampler(config, get_schedule("log-linear"), entry.tokenizer.mask_id)
        self.clock = Clock(entry.device)
        self.runs: list[Run] = []
        self.recorder = Recorder(length, entry.tokenizer.mask_id)
        self.frames: list[StepFrame] = []  # of the first run, on a short canvas
        self.passes, self.pass_ms = 0, 0.0
        self.peak_memory_bytes = self.cache_bytes = 0
        # The trace of a short canvas has a frame per step of the host, which may be a call that reveals nothing.
        denoiser, long = self._new_denoiser(), length > TRACED
        if isinstance(denoiser, CachedDenoiser):
            self.on_device = long and denoiser.unsupported_reason(config, self.sampler.start(self.canvas)) is None
        else:
            plain = unsupported_reason(config, entry.denoiser, entry.device) is None
            self.on_device = plain and (long or config.strategy in SCORED)

    def warm_up(self, steps: int) -> Iterator[int]:
        """Whole untimed steps. Memory is read over the last one, after everything that is built once.

        With a cache that is the first step of the last block, when the cache is largest and a block is committed. On
        CUDA it is read over all of them: a CUDA graph recorded in the first step allocates there.
        """
        for step in range(1, steps + 1):
            with self._out_of_memory_explained():
                if self.on_device:
                    self._warm_up_on_device(last=step == steps)
                else:
                    self._warm_up_step(last=step == steps)
            yield step

    def _warm_up_step(self, last: bool) -> None:
        denoiser = self._new_denoiser()
        state = self.sampler.start(self.canvas)
        if last and isinstance(denoiser, CachedDenoiser):
            state = self._last_block(denoiser)
        held = getattr(denoiser, "cache_bytes", 0) + self.entry.weight_bytes
        with PeakMemory(self.entry.device) as memory:
            self.sampler.advance(denoiser, state)
        before = self.peak_memory_bytes if self.entry.device.type == "cuda" else 0
        self.peak_memory_bytes = max(before, memory.peak + held)

    def _warm_up_on_device(self, last: bool) -> None:
        """The first step, which records the graph; at last the denoiser alone is timed, without its head."""
        denoiser, device = self._new_denoiser(), self.entry.device
        state = self.sampler.start(self.canvas)
        with PeakMemory(device) as memory, closing(self._device_steps(denoiser, state)) as steps:
            next(steps)
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory.peak + self.entry.weight_bytes)
        if not last:
            return
        with torch.no_grad():
            alone = self._alone(denoiser, state)
            replay = record(alone, device)[0] if device.type == "cuda" else alone
            self.pass_ms = statistics.median(time_interleaved({"": replay}, repeats=3, device=device)[""])

    def _device_steps(self, denoiser: Any, state: State) -> Generator[Tensor, None, Any]:
        if isinstance(denoiser, CachedDenoiser):
            return denoiser.fill_steps(self.sampler, state)
        return fill_steps(self.sampler, cast(DeviceDenoiser, denoiser), state)

    def _alone(self, denoiser: Any, state: State) -> Callable[[], object]:
        """A pass of the denoiser without its head; of a model of blocks, in the middle of the text."""
        if not isinstance(denoiser, CachedDenoiser):
            ids, sigma, _ = self.sampler.model_inputs(state)
            return partial(denoiser.hidden, ids, sigma)
        model, size, length = cast(InPlaceModel, denoiser.model), denoiser.block_length, len(self.canvas)
        cache = model.empty_cache(1, length)
        cache.lengths.fill_(length // size // 2 * size)
        ids = self.canvas.ids[None, :size].clone()
        sigma, commit = torch.ones(1, device=ids.device), torch.zeros(1, dtype=torch.bool, device=ids.device)
        return partial(model.hidden_in_place, ids, sigma, cache, commit, length)

    def _new_denoiser(self) -> Any:
        """What a run calls: the entry's denoiser, of a model of blocks with an empty cache that holds one text."""
        return denoiser_for(self.entry.denoiser, self.sampler.config, kept_bytes=0)

    def _last_block(self, denoiser: CachedDenoiser) -> State:
        """The state in which only the last block is masked; all blocks but the one before it are in the cache."""
        size, length = denoiser.block_length, len(self.canvas)
        last = (length - 1) // size  # number of the last block
        ends = sorted({part * (last - 1) // COMMITS for part in range(1, COMMITS + 1)} | {last})
        state = self.sampler.start(self.canvas)
        for end in (end * size for end in ends if end > 0):
            ids = self.canvas.ids.where(torch.arange(length, device=self.entry.device) >= end, self.canvas.mask_id - 1)
            state = self.sampler.start(replace(self.canvas, ids=ids))
            if end < last * size:
                denoiser(*self.sampler.model_inputs(state))
        return state

    def timed_run(self, repeat: int, began: float) -> Iterator[int]:
        """One whole generation; yields the number of each step after timing it."""
        marks: list[tuple[Any, Any]] = []
        started, denoiser_ms = time.perf_counter() - began, 0.0
        for ms in (self._steps_on_device if self.on_device else self._steps)(marks, keep=repeat == 0):
            denoiser_ms += ms
            yield len(marks)
        step_ms = tuple(1000.0 * self.clock.seconds(*pair) for pair in marks)
        ended = time.perf_counter() - began
        self.runs.append(Run(self.name, repeat, started, ended, step_ms, denoiser_ms))

    def _steps(self, marks: list[tuple[Any, Any]], keep: bool) -> Iterator[float]:
        """A generation; appends the marks of each step and yields the denoiser's ms. keep: for the replay."""
        state, denoiser, ms = self.sampler.start(self.canvas), self._new_denoiser(), 0.0
        while True:
            if keep:
                self.recorder.add(state.ids[0])
                if len(self.canvas) <= TRACED:
                    self.frames.append(frame_of(state, denoiser_ms=ms))
            if self.sampler.done(state):
                break
            with self._out_of_memory_explained(), undisturbed():
                start = self.clock.mark()
                state, ms = self.sampler.advance_timed(denoiser, state)
                marks.append((start, self.clock.mark()))
            yield ms
        self.passes, self.cache_bytes = int(state.nfe[0]), getattr(denoiser, "cache_bytes", 0)

    def _steps_on_device(self, marks: list[tuple[Any, Any]], keep: bool) -> Iterator[float]:
        """As `_steps`, without waiting for the device. The canvases for the replay are read at the end."""
        denoiser, state = self._new_denoiser(), self.sampler.start(self.canvas)
        canvases = [self.canvas.ids.to(torch.int32)]
        with closing(self._device_steps(denoiser, state)) as steps:
            while True:
                with self._out_of_memory_explained(), undisturbed():
                    start = self.clock.mark()
                    ids = next(steps, None)
                    if ids is None:
                        break
                    marks.append((start, self.clock.mark()))
                if keep:
                    canvases.append(ids[0].to(torch.int32))  # a copy
                    if len(canvases) * len(self.canvas) > MOST_GATHERED:
                        self._read(canvases)
                yield self.pass_ms
        self.passes, self.cache_bytes = len(marks), getattr(denoiser, "cache_bytes", 0)
        if keep:
            self._read(canvases)
            if len(self.canvas) <= TRACED:
                self.frames.extend(self.sampler.stream(self._new_denoiser(), self.canvas))

    def _read(self, canvases: list[Tensor]) -> None:
        """Move canvases from the device into the recording."""
        for ids in torch.stack(canvases).cpu().numpy():
            self.recorder.add(ids)
        canvases.clear()

    @contextmanager
    def _out_of_memory_explained(self) -> Iterator[None]:
        """A GPU that is full in spite of the estimate raises MemoryError with the figure."""
        try:
            yield
        except torch.OutOfMemoryError:
            what = f"{self.name} at {len(self.canvas)} tokens"
            raise MemoryError(out_of_memory(self.entry.device, what)) from None

    def result(self) -> EntryResult:
        seconds = Spread.of([sum(run.step_ms) / 1000.0 for run in self.runs])
        step_ms = tuple(map(statistics.median, zip(*(run.step_ms for run in self.runs), strict=True)))
        tokens = int(self.canvas.masked.sum())
        times = (0.0, *step_ms)
        frames = [replace(frame, ms=ms) for frame, ms in zip(self.frames, times)]
        about = {"model": self.name, "architecture": self.facts.architecture}
        return EntryResult(
            **vars(self.facts),
            seconds=seconds.median,
            seconds_min=seconds.min,
            seconds_max=seconds.max,
            step_ms=step_ms,
            ms_per_step=1000.0 * seconds.median / len(step_ms),
            tokens=tokens,
            tokens_per_second=tokens / seconds.median,
            forward_passes=self.passes,
            denoiser_share=min(1.0, statistics.median(run.denoiser_ms / sum(run.step_ms) for run in self.runs)),
            peak_memory_bytes=self.peak_memory_bytes,
            cache_bytes=self.cache_bytes,
            trace=Trace.of(frames, self.canvas, self.entry.tokenizer, self.sampler.config, **about) if frames else None,
            recording=self.recorder.recording(times),
        )
