"""The share of a generation that is spent outside the denoiser: choosing positions, drawing tokens, recording.

Measured by the fair race with one entry (`diffuapriel.benchmark`), on the bundled checkpoint where there is one and
on random weights of the same architecture otherwise; the speed does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.generation import race

TARGET_SHARE = 0.10  # of the generation's time
CHECKPOINT = "tales-diffuapriel"


@dataclass(frozen=True)
class GenerationResult:
    """One generation: medians over the repeats. `outside_share` is 1 minus the denoiser's share of the time."""

    model: str
    length: int
    steps: int
    seconds: float
    outside_share: float
    target_share: float = TARGET_SHARE


def measure_generation(
    entry: Entry, *, length: int = 256, steps: Sequence[int] = (32, 64), repeats: int = 3
) -> list[GenerationResult]:
    """Generate `length` tokens from nothing with the `confidence` strategy, once for each number of steps."""
    results = []
    for count in steps:
        (lap,) = race([entry], length, count, repeats=repeats).entries
        results.append(GenerationResult(lap.name, length, count, lap.seconds, 1.0 - lap.denoiser_share))
    return results


def default_entry(preset: str = "nano") -> Entry:
    """The bundled DiffuApriel, or random weights of `preset` in a clone without checkpoints."""
    from diffuapriel.checkpoint import bundled

    if CHECKPOINT in bundled():
        return Entry.from_checkpoint(CHECKPOINT)
    return Entry.random(preset, "diffuapriel")
