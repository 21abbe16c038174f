"""What a visitor may ask for, checked on the server: every value, whatever the page allows.

Each tab declares its settings once, as `Settings`: the page takes the ranges of its sliders from them, the endpoint
its checks (`read`) and the link both (app/ui/permalink.py). A check returns the value as the type that the code works
with, or raises `Refused` (a ValueError) with a message that names the value and the permitted range. Nothing here
imports Gradio; `app.server.guard` shows a refusal on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.strings.language import texts
from diffuapriel.options import Option, option, options_of, shown
from diffuapriel.sampling.config import SamplerConfig

MAX_SEED = 2**31 - 1  # what a number field of the page holds exactly


class Refused(ValueError):
    """A value outside the permitted range; the message is meant for the visitor."""


@dataclass(frozen=True)
class Limits:
    """The largest work that one visitor may start. The options can be set on the command line.

    Fewer tokens or steps than their ranges permit would hide what the tabs start with; the player draws no more tokens.
    """

    max_tokens: int = option(1024, least=128, most=16_384, help="maximum number of tokens on a canvas")
    max_steps: int = option(256, least=8, most=4096, help="maximum number of steps per run")
    max_waiting: int = option(
        64, least=1, most=1000, help="most visitors in the queue; later ones are turned away at once"
    )
    batch: int = option(16, least=1, most=24, help="runs of the Unmask page that share a pass of the model")
    max_characters: int = 20_000  # in a text with holes
    max_repeats: int = 8  # timed runs per race
    max_sweep_length: int = 65_536
    max_upload_bytes: int = 10_000_000  # of a trace; a longer one is not read (diffuapriel/trace/format.py)
    max_race_tokens: int = 16_384  # on a race's canvas; longer ones take minutes per step on a CPU
    max_race_tokens_on_gpu: int = 65_536

    def race_tokens(self, device: str) -> int:
        """The longest canvas of a race on `device`."""
        return self.max_race_tokens_on_gpu if device.startswith("cuda") else self.max_race_tokens


@dataclass(frozen=True)
class Setting:
    """One setting of a tab: the check of its values, and its option where it is a number or a choice."""

    check: Callable[[Any], Any]
    option: Option | None = None

    @property
    def range(self) -> dict[str, Any]:
        """The arguments that give a slider or a number field its range."""
        assert self.option is not None, "only a number has a range"
        return {"minimum": self.option.least, "maximum": self.option.most}


Settings = dict[str, Setting]  # by the name of the endpoint's parameter, in the endpoint's order


def setting(declared: Option, label: str = "") -> Setting:
    """The setting for a declared option. Messages name it by `label`, by default as the option is named."""
    name = label or declared.name.replace("_", "-")

    def check(value: Any) -> Any:
        if declared.kind is str:
            present = declared.renamed.get(value, value) if isinstance(value, str) else value
            return choice(name, present, declared.choices)
        assert declared.least is not None and declared.most is not None, f"{name} has a range"
        check_number = whole_number if declared.kind is int else number
        return check_number(name, value, declared.least, declared.most)  # pyright: ignore[reportArgumentType]

    return Setting(check, declared)


def text_setting(max_characters: int) -> Setting:
    """The setting for a text with holes."""
    return Setting(lambda value: text("the text", value, max_characters))


def sampler_settings(limits: Limits) -> Settings:
    """The sampler's options, narrowed to what a visitor may ask for; 0 stands for None in `top_k` and `block`."""
    options = options_of(SamplerConfig)
    return {
        "steps": setting(options["steps"].within(most=limits.max_steps)),
        "strategy": setting(options["strategy"]),
        "temperature": setting(options["temperature"].within(most=5.0)),
        "top_k": setting(options["top_k"].within(least=0, most=1000)),
        "top_p": setting(options["top_p"].within(least=0.01)),
        "seed": setting(options["seed"].within(most=MAX_SEED)),
        "block": setting(options["block_length"].within(least=0, most=limits.max_tokens), "block"),
        "block_start": setting(options["block_start"]),
    }


def read(settings: Settings, values: Sequence[Any]) -> dict[str, Any]:
    """The checked values by name. Raises Refused for the first bad one."""
    pairs = zip(settings.items(), values, strict=True)
    return {name: setting.check(value) for (name, setting), value in pairs}


def named(name: str) -> str:
    """A parameter as messages name it."""
    return texts.PARAMETERS.get(name, name)


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int from `low` to `high`. 8.0 is whole; True, NaN, "8" and 8.5 are not."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_whole = is_whole or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
    if not is_whole or not low <= value <= high:
        raise Refused(texts.NOT_WHOLE.format(name=named(name), value=shown(value), low=low, high=high))
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float from `low` to `high`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN is in no range
        raise Refused(texts.NOT_A_NUMBER.format(name=named(name), value=shown(value), low=low, high=high))
    return float(value)


def choice(name: str, value: Any, permitted: Sequence[str]) -> str:
    """`value` where it is one of `permitted`."""
    if not isinstance(value, str) or value not in permitted:
        raise Refused(texts.NOT_PERMITTED.format(name=named(name), value=shown(value), permitted=", ".join(permitted)))
    return value


def switch(name: str, value: Any) -> bool:
    """`value` as true or false."""
    if not isinstance(value, bool):
        raise Refused(texts.NOT_PERMITTED.format(name=named(name), value=shown(value), permitted="true, false"))
    return value


def several(name: str, values: Any, most: int, check: Callable[[Any], Any]) -> list[Any]:
    """A list of one to `most` values, each checked."""
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= most:
        raise Refused(texts.NOT_A_LIST.format(name=named(name), value=shown(values), most=most))
    return [check(value) for value in values]


def text(name: str, value: Any, max_characters: int) -> str:
    """`value` as a string of at most `max_characters` that can be encoded; None counts as empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refused(texts.NOT_TEXT.format(name=named(name), value=shown(value)))
    if len(value) > max_characters:
        raise Refused(texts.TOO_LONG.format(name=named(name), length=len(value), most=max_characters))
    return value.encode("utf-8", errors="replace").decode("utf-8")  # a lone surrogate becomes "?"
