"""What a visitor asks for in the Race tab, as checked values: two or three entries, and what they are to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.server import limits as check
from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models

NO_ENTRY = ""  # what the page sends for a third entry that is not wanted
MOST_LANES = 3


@dataclass(frozen=True)
class RaceRequest:
    """A race that may start."""

    model_entries: tuple[ModelEntry, ...]  # two or three
    length: int
    steps: int
    strategy: str
    repeats: int
    seed: int


@dataclass(frozen=True)
class SweepRequest:
    """A sweep that may start."""

    model_entries: tuple[ModelEntry, ...]
    lengths: tuple[int, ...]


def read_entries(models: Models, entries: Sequence[Any]) -> tuple[ModelEntry, ...]:
    """Two or three models to race; the third may be left out ("" or None). Raises Refused for a bad one."""
    *first, last = entries
    wanted = [*first, *([] if last in (NO_ENTRY, None) else [last])]
    return tuple(models.find(entry) for entry in wanted)


def read_race(
    models: Models,
    limits: Limits,
    a: Any,
    b: Any,
    c: Any,
    length: Any,
    steps: Any,
    strategy: Any,
    repeats: Any,
    seed: Any,
) -> RaceRequest:
    """Check every value as it came from the page. Raises Refused that names the first bad one."""
    from diffuapriel.sampling.config import STRATEGIES

    return RaceRequest(
        model_entries=read_entries(models, (a, b, c)),
        length=check.whole_number("length", length, 1, limits.race_tokens(models.device)),
        steps=check.whole_number("steps", steps, 1, limits.max_steps),
        strategy=check.choice("strategy", strategy, STRATEGIES),
        repeats=check.whole_number("timed runs", repeats, 1, limits.max_repeats),
        seed=check.whole_number("seed", seed, 0, check.MAX_SEED),
    )


def read_sweep(models: Models, limits: Limits, a: Any, b: Any, c: Any, longest: Any) -> SweepRequest:
    """Check every value as it came from the page. Raises Refused that names the first bad one."""
    from diffuapriel.benchmark.sweep import LENGTHS

    model_entries = read_entries(models, (a, b, c))
    top = check.whole_number("longest length", longest, LENGTHS[0], limits.max_sweep_length)
    return SweepRequest(model_entries, tuple(n for n in LENGTHS if n <= top))


def refuse_too_large(models: Models, model_entries: Sequence[ModelEntry]) -> None:
    """Raises Refused, with the figure, where the random weights of all entries together do not fit in memory.

    Before any is made: building two large models only to refuse the third would take minutes.
    """
    from diffuapriel.benchmark.memory import refusal
    from diffuapriel.config import preset
    from diffuapriel.model.denoiser import count_parameters

    random = [model_entry for model_entry in model_entries if not model_entry.trained]
    needed = sum(4 * count_parameters(preset(*model_entry.source.split("/"))) for model_entry in random)
    names = " and ".join(model_entry.label for model_entry in random)
    if needed and (problem := refusal(needed, models.device, f"loading {names}")):
        raise Refused(problem.replace("a shorter length", "a smaller preset"))


def where_it_runs(device: str) -> str:
    """Where a race runs, in a sentence."""
    import torch

    from diffuapriel.device import machine_name

    if device.startswith("cuda"):
        name = machine_name(torch.device(device))
        return f"The race runs on {name}, in bfloat16; the first run of a model compiles it, half a minute or so."
    if device == "cpu" and not torch.cuda.is_available():
        return "There is no NVIDIA GPU here: the race runs on the CPU."
    return f"The race runs on {'the CPU' if device == 'cpu' else device}."
