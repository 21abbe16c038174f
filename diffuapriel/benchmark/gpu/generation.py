"""Whole generations, and the share of them that is spent outside the backbone.

Entries fill canvases of masks with the same sampler, steps, strategy and seed. A generation is timed from the call of
`generate` to its text, including planning, final norm, head and sampler. For the share, a generation of
DiffuApriel and as many passes of its bare backbone are timed interleaved.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.gpu.models import EngineEntry, build_entry, time_entries
from diffuapriel.benchmark.plan import DIFFUTRAN, PURE, Bench
from diffuapriel.benchmark.report import GenerationRow, Problem, Row, SamplerRow
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler

STRATEGY = "low_confidence"
ROUNDS, MIN_ROUNDS = 5, 2  # few: a generation is an average over its steps already
HIDDEN = "hidden"


def measure_generation(bench: Bench) -> Iterator[list[Row | Problem]]:
    """Pure DiffuApriel against DiffuTran with its best attention kernel."""
    entries = [build_entry(name, bench) for name in (PURE, DIFFUTRAN)]
    for length, batch in bench.plan.generation_shapes():
        steps = bench.plan.steps_of(length, batch)
        bench.say(f"generation: {batch} x {length:,} tokens in {steps} steps")
        timed = {entry.name: _Generation(entry, length, batch, steps, bench) for entry in entries}
        about = Problem("generation", length, batch)
        ms, problems = time_entries(timed, about, bench, repeats=ROUNDS, min_rounds=MIN_ROUNDS)
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
        timed = {PURE: _Generation(*shape), HIDDEN: _Passes(*shape)}
        about = Problem("sampler", length, batch)
        ms, problems = time_entries(timed, about, bench, repeats=ROUNDS, min_rounds=MIN_ROUNDS)
        entry.clear_cache()
        row = [] if problems else [SamplerRow(PURE, length, batch, ms[PURE], steps, ms[HIDDEN])]
        yield [*row, *problems]


class _Generation:
    """`batch` texts of `length` tokens from nothing."""

    def __init__(self, entry: EngineEntry, length: int, batch: int, steps: int, bench: Bench) -> None:
        mask_id = entry.config.mask_id
        config = SamplerConfig(strategy=STRATEGY, steps=steps, seed=0)
        sampler = Sampler(config, get_schedule("log-linear"), mask_id)
        masks = torch.full((batch, length), mask_id, device=bench.device)
        self.run = partial(generate, sampler, entry.engine, masks)
        self.warm_up = self.run  # of the same shape, for which CUDA graphs are recorded


class _Passes:
    """As many passes of the bare backbone as a generation of `steps` steps makes."""

    def __init__(self, entry: EngineEntry, length: int, batch: int, steps: int, bench: Bench) -> None:
        ids, sigma, _ = half_masked(entry.config, length, batch, bench.device)
        self.warm_up = partial(entry.engine.replay, ids, sigma)  # records, if the generation has not
        self.steps = steps

    def run(self) -> None:
        for _ in range(self.steps):
            self.warm_up()
