"""Models of blocks with their caches beside full sequences: one pass at a context, and whole generations.

A pass is `Denoiser.hidden_in_place` over one block after `length` tokens, recorded, as in a generation: hidden states
without head and commit, and what depends on the noise level alone is there. What is in the cache is random; the time
does not depend on it. Beside it, entry "... full sequence" is the pass over a text of that length by the same model. In
the roofline the products are those of a block, attention reads context and block, and the cache is read once.

A generation writes `length` tokens by recorded passes (sampling/graphs/blocks.py), with `steps` calls in all, and one
pass per block but the last to commit it; head and sampler are in the time. Two protocols compare it with full
sequences. With as many tokens per pass, a full sequence takes all `steps` calls. With as many passes for the whole text
as a block gets here, it takes `steps` / blocks. Both are computed from the measured full pass, without a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch

from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.gpu.models import EngineEntry, build_entry, time_entries
from diffuapriel.benchmark.plan import DIFFUTRAN, FULL, HYBRID, PURE, Bench
from diffuapriel.benchmark.report import BlockGenerationRow, BlockRow, Problem, Row
from diffuapriel.benchmark.roofline import block_roofline_seconds, roofline_seconds
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.ops.cudagraph import record
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.graphs import blocks as graphs
from diffuapriel.sampling.sampler import Sampler

ENTRIES = (PURE, HYBRID, DIFFUTRAN)
STRATEGY = "low_confidence"
Found = tuple[str, list[Row | Problem]]


def measure_blocks(bench: Bench) -> Iterator[Found]:
    """Passes at every context, then generations, each as (field of the report, rows)."""
    plan, S = bench.plan, bench.plan.shortest_block
    entries = [build_entry(name, bench, block_lengths=(S,)) for name in ENTRIES]
    for context, batch in plan.block_shapes():
        bench.say(f"blocks: a pass over {batch} x {S} tokens after {context:,}")
        passes: dict[str, _CachedPass | _FullPass] = {e.name: _CachedPass(e, context, batch, S, bench) for e in entries}
        if context <= plan.full_most and batch == 1:
            passes |= {e.name + FULL: _FullPass(e, context, bench) for e in entries}
        ms, problems = time_entries(passes, Problem("block_passes", context, batch), bench)
        yield "block_passes", [*(passes[name].row(name, rounds) for name, rounds in ms.items()), *problems]
        for entry in entries:
            entry.clear_cache()
    del passes  # and their caches
    for context in plan.contexts:
        length, calls = context // S * S, plan.calls_of(context)
        bench.say(f"blocks: {length:,} tokens, {calls} calls for each block of {S}")
        timed = {e.name: _BlockGeneration(e, length, S, calls, bench) for e in entries}
        about = Problem("block_generations", length, 1)
        ms, problems = time_entries(timed, about, bench, repeats=3, min_rounds=1)
        yield "block_generations", [*(timed[name].row(rounds) for name, rounds in ms.items()), *problems]
        for entry in entries:
            graphs.clear_cache(entry.engine)


class _CachedPass:
    """A pass over the block behind `context` tokens, of every row."""

    def __init__(self, entry: EngineEntry, context: int, batch: int, block_length: int, bench: Bench) -> None:
        self.entry, self.bench = entry, bench
        self.context, self.batch, self.block_length = context, batch, block_length
        self.run: Callable[[], object] = self._step
        self.cache_bytes = 0

    def warm_up(self) -> None:
        bench, engine = self.bench, self.entry.engine
        self.ids, self.sigma, _ = half_masked(self.entry.config, self.block_length, self.batch, bench.device)
        self.cache = engine.empty_cache(self.batch, self.context + self.block_length)
        for layer in self.cache.layers:
            for tensor in vars(layer).values():
                tensor.normal_()
        self.cache.lengths.fill_(self.context)
        self.cache_bytes = self.cache.bytes
        with torch.no_grad():
            self.level = engine.levels(self.sigma)
            self._step()
            if bench.device.type == "cuda":
                self.run, _ = record(self._step, bench.device)

    @torch.no_grad()
    def _step(self) -> None:
        self.entry.engine.hidden_in_place(self.ids, self.sigma, self.cache, None, level=self.level)

    def row(self, name: str, ms: tuple[float, ...]) -> BlockRow:
        about = self.entry.config, self.block_length, self.context, self.batch
        seconds = block_roofline_seconds(*about, self.bench.peaks.median)
        return BlockRow(name, self.context, self.batch, ms, 1000 * seconds, self.block_length, self.cache_bytes)


class _FullPass:
    """The pass of the same model over a whole text."""

    def __init__(self, entry: EngineEntry, length: int, bench: Bench) -> None:
        ids, sigma, _ = half_masked(entry.config, length, 1, bench.device)
        self.entry, self.length, self.bench = entry, length, bench
        self.run = self.warm_up = partial(entry.engine.replay, ids, sigma)

    def row(self, name: str, ms: tuple[float, ...]) -> BlockRow:
        seconds = roofline_seconds(self.entry.config, self.length, 1, self.bench.peaks.median)
        return BlockRow(name, self.length, 1, ms, 1000 * seconds, self.length, 0)


class _BlockGeneration:
    """One text from nothing."""

    def __init__(self, entry: EngineEntry, length: int, block_length: int, calls: int, bench: Bench) -> None:
        mask_id = entry.config.mask_id
        self.name, self.length, self.block_length = entry.name, length, block_length
        self.steps = length // block_length * min(calls, block_length)
        config = SamplerConfig(strategy=STRATEGY, steps=self.steps, block_length=block_length, block_start="zero")
        self.sampler = Sampler(config, get_schedule("log-linear"), mask_id)
        self.denoiser = CachedDenoiser(entry.engine, block_length)
        ids = torch.full((length,), mask_id, device=bench.device)
        self.canvas = Canvas(ids, ids != mask_id, mask_id)
        self.passes, self.calls = 0, calls

    def warm_up(self) -> None:
        """The first two blocks: all kinds of passes are then recorded."""
        steps = self.denoiser.fill_steps(self.sampler, self.sampler.start(self.canvas))
        for _ in itertools.islice(steps, 2 * (self.calls + 1)):
            pass
        steps.close()

    def run(self) -> None:
        before = self.denoiser.passes
        self.denoiser.fill(self.sampler, self.sampler.start(self.canvas))
        self.passes = self.denoiser.passes - before

    def row(self, ms: tuple[float, ...]) -> BlockGenerationRow:
        counts = self.steps, self.passes, self.block_length, self.denoiser.cache_bytes
        return BlockGenerationRow(self.name, self.length, 1, ms, *counts)
