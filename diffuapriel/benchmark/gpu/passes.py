"""Whole models in their engines: forward passes, their peak memory, and generations.

A forward pass is `Engine.replay`: hidden states at every position, no head. Embedding and final norm are in the time,
but not in the roofline. The first call of a shape compiles, warms up and records; memory is read over it, because
replaying a CUDA graph allocates nothing.

A generation fills a canvas of masks and is timed from the call of `generate` to its text, including planning, final
norm, head and sampler. For the share outside the backbone, as many bare passes are timed interleaved with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.gpu.models import EngineEntry, build_entry, kernels_of, time_entries, warm_up_all
from diffuapriel.benchmark.memory import PeakMemory
from diffuapriel.benchmark.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, ENTRIES, PURE, Bench
from diffuapriel.benchmark.report import ForwardRow, GenerationRow, MemoryRow, Problem, Row, SamplerRow
from diffuapriel.benchmark.roofline import BEST_ATTENTION, FLASH_ATTENTION_2, roofline_seconds
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler

STRATEGY = "low_confidence"
FEW: dict[str, Any] = {
    "repeats": 5,
    "min_rounds": 2,
}  # rounds: a generation is an average over its steps already
HIDDEN = "hidden"


def measure_forward(bench: Bench) -> Iterator[list[Row | Problem]]:
    """The rows of each shape, shortest first. FlashAttention-2 runs at batch 1 only, to save time."""
    entries = [build_entry(name, bench) for name in ENTRIES]
    for length, batch in bench.plan.shapes():
        bench.say(f"forward: {batch} x {length:,} tokens")
        passes = {
            entry.name: _Pass(entry, length, batch, bench)
            for entry in entries
            if batch == 1 or entry.name != DIFFUTRAN_FLASH_2
        }
        ms, problems = time_entries(passes, Problem("forward", length, batch), bench)
        for entry in entries:
            entry.clear_cache()
        yield [*(passes[name].row(rounds) for name, rounds in ms.items()), *problems]


def measure_memory(bench: Bench) -> Iterator[list[Row | Problem]]:
    """Peak memory of a first pass at the longest length, batch 1, each entry alone on the device."""
    for name in ENTRIES:
        if name != DIFFUTRAN_FLASH_2:  # the same model as DiffuTran
            bench.say(f"memory: {name}, {max(bench.plan.lengths):,} tokens")
            yield [_memory_of(name, bench)]


def measure_generation(bench: Bench) -> Iterator[list[Row | Problem]]:
    """Pure DiffuApriel against DiffuTran with its best attention kernel."""
    entries = [build_entry(name, bench) for name in (PURE, DIFFUTRAN)]
    for length, batch in bench.plan.generation_shapes():
        steps = bench.plan.steps_of(length, batch)
        bench.say(f"generation: {batch} x {length:,} tokens in {steps} steps")
        timed = {entry.name: _Generation(entry, length, batch, steps, bench) for entry in entries}
        ms, problems = time_entries(timed, Problem("generation", length, batch), bench, **FEW)
        for entry in entries:
            entry.clear_cache()
        yield [*(GenerationRow(name, length, batch, rounds, steps) for name, rounds in ms.items()), *problems]


def measure_sampler(bench: Bench) -> Iterator[list[Row | Problem]]:
    """Generation against bare passes of pure DiffuApriel, at the shortest and longest length, batch 1 and filling."""
    entry = build_entry(PURE, bench)
    for length, batch in bench.plan.shapes():
        if length not in bench.plan.ends():
            continue
        steps = bench.plan.steps_of(length, batch)
        bench.say(f"sampler: {batch} x {length:,} tokens in {steps} steps")
        shape = (entry, length, batch, steps, bench)
        timed = {PURE: _Generation(*shape), HIDDEN: _BarePasses(*shape)}
        ms, problems = time_entries(timed, Problem("sampler", length, batch), bench, **FEW)
        entry.clear_cache()
        row = [] if problems else [SamplerRow(PURE, length, batch, ms[PURE], steps, ms[HIDDEN])]
        yield [*row, *problems]


class _Pass:
    """The forward pass of one entry at one shape."""

    def __init__(self, entry: EngineEntry, length: int, batch: int, bench: Bench) -> None:
        self.entry, self.bench = entry, bench
        self.length, self.batch = length, batch
        ids, sigma, _ = half_masked(entry.config, length, batch, bench.device)
        self.run = partial(entry.engine.replay, ids, sigma)
        self.peak_bytes = 0
        self.kernels: tuple[str, ...] = ()

    def warm_up(self) -> None:
        """The first call, over which memory is read, and one under the profiler."""
        with PeakMemory(self.bench.device) as memory:
            self.run()
        self.peak_bytes = memory.peak + self.entry.weight_bytes
        self.kernels = kernels_of(self.run, self.entry.config, self.bench.device)

    def row(self, ms: tuple[float, ...]) -> ForwardRow:
        share = FLASH_ATTENTION_2 if self.entry.name == DIFFUTRAN_FLASH_2 else BEST_ATTENTION
        shape, peaks = (self.length, self.batch), self.bench.peaks.median
        seconds = roofline_seconds(self.entry.config, *shape, peaks, attention_share=share)
        return ForwardRow(self.entry.name, *shape, ms, 1000 * seconds, self.peak_bytes, self.kernels)


class _Generation:
    """`batch` texts of `length` tokens from nothing."""

    def __init__(self, entry: EngineEntry, length: int, batch: int, steps: int, bench: Bench) -> None:
        mask_id = entry.config.mask_id
        config = SamplerConfig(strategy=STRATEGY, steps=steps, seed=0)
        sampler = Sampler(config, get_schedule("log-linear"), mask_id)
        masks = torch.full((batch, length), mask_id, device=bench.device)
        self.run = partial(generate, sampler, entry.engine, masks)
        self.warm_up = self.run  # of the same shape, for which CUDA graphs are recorded


class _BarePasses:
    """As many passes of the bare backbone as a generation of `steps` steps makes."""

    def __init__(self, entry: EngineEntry, length: int, batch: int, steps: int, bench: Bench) -> None:
        ids, sigma, _ = half_masked(entry.config, length, batch, bench.device)
        self.warm_up = partial(entry.engine.replay, ids, sigma)  # records, if the generation has not
        self.steps = steps

    def run(self) -> None:
        for _ in range(self.steps):
            self.warm_up()


def _memory_of(name: str, bench: Bench) -> Row | Problem:
    shortest, length = min(bench.plan.lengths), max(bench.plan.lengths)
    entry = build_entry(name, bench)
    short, long = _Pass(entry, shortest, 1, bench), _Pass(entry, length, 1, bench)

    def measure() -> None:
        short.run()  # what compiling allocates is not the pass's
        entry.clear_cache()
        long.warm_up()

    _, problems = warm_up_all({name: measure}, Problem("memory", length, 1), bench.device)
    return problems[0] if problems else MemoryRow(name, length, 1, (), long.peak_bytes, entry.weight_bytes)
