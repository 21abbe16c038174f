"""The share of a generation spent outside the denoiser: choosing positions, drawing tokens, recording.

Measured by a race with one entry (benchmark/generation.py): the bundled checkpoint, or random weights in a clone
without checkpoints; the speed does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.generation import race
from diffuapriel.benchmark.plan import PURE, Bench
from diffuapriel.benchmark.report import SamplerRow
from diffuapriel.checkpoint import bundled

CHECKPOINT = "tales-diffuapriel"


def measure_generation(bench: Bench) -> Iterator[list[SamplerRow]]:
    bench.say("generation: time outside the denoiser")
    yield time_generations(default_entry(bench.plan.preset), steps=bench.plan.generation_steps)


def time_generations(
    entry: Entry, *, length: int = 256, steps: Sequence[int] = (32, 64), repeats: int = 3
) -> list[SamplerRow]:
    """Generate `length` tokens from nothing with the `low_confidence` strategy, once for each number of steps."""
    rows = []
    for count in steps:
        result = race([entry], length, count, repeats=repeats)
        whole = tuple(sum(run.step_ms) for run in result.runs)
        denoiser = tuple(run.denoiser_ms for run in result.runs)
        rows.append(SamplerRow(entry.name, length, 1, whole, count, denoiser))
    return rows


def default_entry(preset: str = "nano") -> Entry:
    """The bundled DiffuApriel, or random weights of `preset` in a clone without checkpoints."""
    if CHECKPOINT in bundled():
        return Entry.from_checkpoint(CHECKPOINT)
    return Entry.random(preset, PURE)
