"""Which settings of each tab stand in its link, and the check that each passes: those of the tab's own endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from app.server import limits as check
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.ui.permalink import Field

Checks = dict[str, Callable[[Any], Any]]


def unmask_fields(models: Models, limits: Limits, components: Sequence[Any]) -> list[Field]:
    """The settings of the Unmask tab, in the order of its endpoint: text, model, length, steps, ..."""
    from app.unmask.request import MAX_TEMPERATURE, MAX_TOP_K, MIN_TOP_P
    from diffuapriel.sampling.config import STRATEGIES

    checks: Checks = {
        "text": lambda v: check.text("the text", v, limits.max_characters),
        "model": lambda v: models.find(v, models.trained).label,
        "length": lambda v: check.whole_number("length", v, 0, limits.max_tokens),
        "steps": lambda v: check.whole_number("steps", v, 1, limits.max_steps),
        "strategy": lambda v: check.choice("strategy", v, STRATEGIES),
        "temperature": lambda v: check.number("temperature", v, 0.0, MAX_TEMPERATURE),
        "top_k": lambda v: check.whole_number("top-k", v, 0, MAX_TOP_K),
        "top_p": lambda v: check.number("top-p", v, MIN_TOP_P, 1.0),
        "seed": lambda v: check.whole_number("seed", v, 0, check.MAX_SEED),
        "block": lambda v: check.whole_number("block", v, 0, limits.max_tokens),
    }
    return named(checks, components)


def race_fields(models: Models, limits: Limits, components: Sequence[Any]) -> list[Field]:
    """The settings of the Race tab: the entries, length, steps, strategy, timed runs, seed, and the longest length."""
    from app.race.request import NO_ENTRY
    from app.race.sweep import LENGTHS
    from diffuapriel.sampling.config import STRATEGIES

    def longest(value: Any) -> int:
        number = check.whole_number("longest length", value, 1, limits.max_sweep_length)
        if number not in LENGTHS:
            raise Refused(f"longest length is {number}; permitted: {', '.join(map(str, LENGTHS))}")
        return number

    checks: Checks = {
        "a": lambda v: models.find(v).label,
        "b": lambda v: models.find(v).label,
        "c": lambda v: v if v == NO_ENTRY else models.find(v).label,
        "length": lambda v: check.whole_number("length", v, 1, limits.race_tokens(models.device)),
        "steps": lambda v: check.whole_number("steps", v, 1, limits.max_steps),
        "strategy": lambda v: check.choice("strategy", v, STRATEGIES),
        "repeats": lambda v: check.whole_number("timed runs", v, 1, limits.max_repeats),
        "seed": lambda v: check.whole_number("seed", v, 0, check.MAX_SEED),
        "longest": longest,
    }
    return named(checks, components)


def inside_fields(models: Models, limits: Limits, components: Sequence[Any]) -> list[Field]:
    """Text, models, time and method of the Inside tab. Not the position: it follows the text."""
    from app.inside.request import METHODS, read_models

    checks: Checks = {
        "text": lambda v: check.text("the text", v, limits.max_characters),
        "models": lambda v: [model_entry.label for model_entry in read_models(models, v)],
        "t": lambda v: check.number("t", v, 0.0, 1.0),
        "method": lambda v: check.choice("method", v, METHODS),
    }
    return named(checks, components)


def quality_fields(models: Models, limits: Limits, components: Sequence[Any]) -> list[Field]:
    """Text, model and rounds of the score; model, strategies, steps, windows, top-p and seed of the curves.

    What is permitted is what the page offers, as its components were made on the server.
    """
    _, _, rounds, writer, strategies, steps, windows, *_ = components
    checks: Checks = {
        "text": lambda v: check.text("the text", v, limits.max_characters),
        "model": lambda v: models.find(v, models.trained).label,
        "rounds": lambda v: check.whole_number("rounds", v, 1, rounds.maximum),
        "writer": lambda v: models.find(v, offered(writer)).label,
        "strategies": lambda v: several("strategies", v, offered(strategies)),
        "steps": lambda v: several("steps", v, offered(steps)),
        "windows": lambda v: check.whole_number("windows", v, windows.minimum, windows.maximum),
        "top_p": lambda v: check.number("top-p", v, 0.01, 1.0),
        "seed": lambda v: check.whole_number("seed", v, 0, check.MAX_SEED),
    }
    return named(checks, components)


def offered(component: Any) -> list[Any]:
    """The values that a component lets choose."""
    return [value for _, value in component.choices]


def several(name: str, values: Any, permitted: Sequence[Any]) -> list[Any]:
    """A list of different values, each one of `permitted`."""
    if not isinstance(values, list) or not 1 <= len(values) <= len(permitted):
        raise Refused(f"{name} are {check.shown(values)}; choose one to {len(permitted)}")
    for value in values:
        if isinstance(value, list | dict) or value not in permitted:
            raise Refused(f"{name} holds {check.shown(value)}; permitted: {', '.join(map(str, permitted))}")
    return list(dict.fromkeys(values))


def named(checks: Checks, components: Sequence[Any]) -> list[Field]:
    """The fields, in one order with their components."""
    return [Field(name, part, one) for (name, one), part in zip(checks.items(), components, strict=True)]
