"""The forward pass of the backbone over length, and its peak memory: three architectures and FlashAttention-2.

One call is `Engine.replay`: hidden states at every position, no head. Embedding and final norm are in the time, but not
in the roofline. The first call of a shape compiles, warms up and records; memory is read over it, because replaying a
CUDA graph allocates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.gpu.models import EngineEntry, build_entry, kernels_of, time_entries, warm_up_all
from diffuapriel.benchmark.memory import PeakMemory
from diffuapriel.benchmark.plan import DIFFUTRAN_FLASH_2, ENTRIES, Bench
from diffuapriel.benchmark.report import ForwardRow, MemoryRow, Problem, Row
from diffuapriel.benchmark.roofline import BEST_ATTENTION, FLASH_ATTENTION_2, roofline_seconds


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
        seconds = roofline_seconds(
            self.entry.config, self.length, self.batch, self.bench.peaks.median, attention_share=share
        )
        about = (self.entry.name, self.length, self.batch, ms)
        return ForwardRow(*about, 1000 * seconds, self.peak_bytes, self.kernels)


def measure_memory(bench: Bench) -> Iterator[list[Row | Problem]]:
    """Peak memory of a first pass at the longest length, batch 1, each entry alone on the device."""
    for name in ENTRIES:
        if name != DIFFUTRAN_FLASH_2:  # the same model as DiffuTran
            bench.say(f"memory: {name}, {max(bench.plan.lengths):,} tokens")
            yield [_memory_of(name, bench)]


def _memory_of(name: str, bench: Bench) -> Row | Problem:
    lengths = bench.plan.lengths
    length = max(lengths)
    entry = build_entry(name, bench)
    short, long = _Pass(entry, min(lengths), 1, bench), _Pass(entry, length, 1, bench)

    def measure() -> None:
        short.run()  # what compiling allocates is not the pass's
        entry.clear_cache()
        long.warm_up()

    _, problems = warm_up_all({name: measure}, Problem("memory", length, 1), bench.device)
    return problems[0] if problems else MemoryRow(name, length, 1, (), long.peak_bytes, entry.weight_bytes)
