"""Whole generations, and the share of them that is spent outside the backbone.

Both racers fill canvases of masks alone, with the same sampler, steps, strategy and seed. A generation is timed from
the call of `generate` to its text: planning, final norm, head and sampler included. For the share, a
generation of DiffuApriel and as many bare passes of its backbone take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.gpu.models import Racer, build_racer, survivors
from diffuapriel.benchmark.gpu.plan import DIFFUTRAN, PURE, GpuPlan
from diffuapriel.benchmark.gpu.results import GenerationRow, Problem, Row, SamplerRow
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler

STRATEGY = "confidence"
ROUNDS, LEAST_ROUNDS = 5, 2  # a generation is many steps: its time is an average already

Device = torch.device | str
Say = Callable[[str], None]


def measure_generation(plan: GpuPlan, device: Device, say: Say) -> Iterator[list[Row | Problem]]:
    """Pure DiffuApriel against DiffuTran with its best kernel, the rows of one shape after the other."""
    racers = [build_racer(name, plan, device) for name in (PURE, DIFFUTRAN)]
    for length, batch in plan.generation_shapes():
        steps = plan.generation_steps(length, batch)
        say(f"generation: {batch} x {length:,} tokens in {steps} steps")
        calls, problems = _ready(racers, Problem("generation", length, batch), steps, device)
        ms = time_interleaved(
            calls, repeats=ROUNDS, min_rounds=LEAST_ROUNDS, seconds=plan.seconds, device=device
        )
        for racer in racers:
            racer.forget()
        yield [*(GenerationRow(name, length, batch, ms[name], steps) for name in calls), *problems]


def measure_sampler(plan: GpuPlan, device: Device, say: Say) -> Iterator[list[Row | Problem]]:
    """Generation against bare passes of pure DiffuApriel, at both ends of the lengths, batch 1 and filling."""
    racer = build_racer(PURE, plan, device)
    for length, batch in plan.shapes():
        if length not in plan.ends():
            continue
        steps = plan.generation_steps(length, batch)
        say(f"sampler: {batch} x {length:,} tokens in {steps} steps")
        calls, problems = _ready([racer], Problem("sampler", length, batch), steps, device)
        if not problems:
            inputs = half_masked(racer.config, length, batch, device)
            _passes(racer, inputs, 1)  # records, if the generation has not
            calls["hidden"] = partial(_passes, racer, inputs, steps)
            ms = time_interleaved(
                calls, repeats=ROUNDS, min_rounds=LEAST_ROUNDS, seconds=plan.seconds, device=device
            )
            yield [SamplerRow(PURE, length, batch, ms[PURE], steps, ms["hidden"])]
        racer.forget()
        yield problems


def _ready(
    racers: list[Racer], about: Problem, steps: int, device: Device
) -> tuple[dict[str, Callable[[], object]], list[Row | Problem]]:
    """The racers' generations, warmed up by one of just that kind, for a recording is of one size; and the failed."""
    shape = (about.length, about.batch)
    calls = {racer.name: partial(_texts, racer, *shape, steps, device) for racer in racers}
    names, problems = survivors(calls, about, device)
    return {name: calls[name] for name in names}, problems


def _texts(racer: Racer, length: int, batch: int, steps: int, device: Device) -> torch.Tensor:
    """(batch, length): `batch` texts from nothing."""
    config = racer.config
    sampler = Sampler(
        SamplerConfig(strategy=STRATEGY, steps=steps, seed=0), get_schedule("log-linear"), config.mask_id
    )
    return generate(sampler, racer.engine, torch.full((batch, length), config.mask_id, device=device))


def _passes(racer: Racer, inputs: tuple[torch.Tensor, ...], steps: int) -> None:
    """As many passes of the backbone as a generation of `steps` steps makes."""
    ids, sigma, _ = inputs
    for _ in range(steps):
        racer.engine.replay(ids, sigma)
