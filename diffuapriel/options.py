"""One declaration per option: its type, range, default and help.

A frozen dataclass declares its options as fields and checks itself:

    @dataclass(frozen=True)
    class SamplerConfig:
        steps: int = option(32, least=1, most=65_536, help="denoiser calls at most")

        def __post_init__(self) -> None:
            check_fields(self)

Everything else reads the same declaration: the command line by `add_argument`, and the app, its links and its API
by `options_of(SamplerConfig)["steps"]`. Nothing here imports PyTorch, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Option:
    """What one option may be.

    Attributes:
        kind: int, float, bool or str; `optional` also permits None.
        least, most: the permitted range, both ends included; `above` excludes `least`.
        choices: the permitted values of a string.
        renamed: older spellings of choices -> their present spelling.
        flags: older spellings of the command-line flag, accepted but not listed by --help.
    """

    name: str
    kind: type
    default: Any
    help: str = ""
    least: float | None = None
    most: float | None = None
    above: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def within(self, least: float | None = None, most: float | None = None) -> Option:
        """The same option with a narrower range."""
        low = self.least if least is None else least
        high = self.most if most is None else most
        return dataclasses.replace(self, least=low, most=high, above=self.above and least is None)

    @property
    def permitted(self) -> str:
        """The permitted values in words, e.g. "a whole number from 1 to 65,536"."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return ", ".join(self.choices) or "text"
        noun = "a whole number" if self.kind is int else "a number"
        low, high = _written(self.least), _written(self.most)
        if self.above:
            return f"{noun} above {low} and up to {high}"
        return f"{noun} from {low} to {high}" if self.most is not None else f"{noun}, {low} or more"

    def check(self, value: Any) -> Any:
        """The value as a plain int, float, bool or str, or None where permitted.

        Raises TypeError for another type and ValueError for a value out of range; both name the option, the value
        and what is permitted.
        """
        if value is None and self.optional:
            return None
        if self.kind is str:
            return self._check_text(value)
        wanted = {int: Integral, float: Real, bool: bool}[self.kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and self.kind is not bool):
            raise TypeError(f"{self.name} is {shown(value)}; it must be {self.permitted}")
        if self.kind is bool:
            return value
        try:
            number = self.kind(value)  # a NumPy number becomes a Python one, which JSON can hold
        except OverflowError:
            number = math.inf  # or -inf: out of range either way
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        # Written so that NaN fails every comparison and is refused.
        if not low <= number <= high or (self.above and number == low):
            raise ValueError(f"{self.name} is {shown(number)}; it must be {self.permitted}")
        return number

    def _check_text(self, value: Any) -> str:
        value = self.renamed.get(value, value) if isinstance(value, str) else value
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            wrong = ValueError if self.choices or isinstance(value, str) else TypeError
            raise wrong(f"{self.name} is {shown(value)}; permitted: {self.permitted}")
        check_utf8(self.name, value)
        return value


def option(
    default: Any,
    *,
    help: str = "",
    least: float | None = None,
    most: float | None = None,
    above: bool = False,
    choices: tuple[str, ...] = (),
    renamed: Mapping[str, str] | None = None,
    flags: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that declares an option; see `Option`. The field's annotation gives kind and optional."""
    told = {"help": help, "least": least, "most": most, "above": above, "choices": choices, "flags": flags}
    return dataclasses.field(default=default, metadata={"option": {**told, "renamed": renamed or {}}})


@functools.cache
def options_of(config: type) -> dict[str, Option]:
    """The options that a dataclass declares with `option`, by name."""
    found = {}
    for field in dataclasses.fields(config):
        if "option" in field.metadata:
            kind, _, none = str(field.type).partition(" | ")
            told = {**field.metadata["option"], "optional": none == "None"}
            found[field.name] = Option(field.name, KINDS[kind], field.default, **told)
    return found


def check_fields(config: Any) -> None:
    """Check the declared options of a dataclass instance and store their plain values. Raises as `Option.check`."""
    for name, declared in options_of(type(config)).items():
        object.__setattr__(config, name, declared.check(getattr(config, name)))


def check_least(least: int = 1, **counts: int) -> None:
    """ValueError, which names count and value, for a count below `least`."""
    for name, value in counts.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")


def check_utf8(name: str, text: str) -> None:
    """ValueError for a text from the command line or a folder that is not UTF-8 (PEP 383): no JSON could hold it."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{name} is {shown(text)}, which is not UTF-8")


def add_argument(parser: Any, declared: Option, **changes: Any) -> None:
    """Add the option to a parser or an argument group as `--its-name`, with its type, choices, default and help.

    `changes` replace arguments of `parser.add_argument`. With default=None (a recipe may decide) the help still shows
    the declared default.
    """
    flag = "--" + declared.name.replace("_", "-")
    told: dict[str, Any] = {"dest": declared.name, "default": declared.default}
    told["help"] = declared.help.replace("%", "%%")
    if declared.kind is bool:
        told["action"] = argparse.BooleanOptionalAction if declared.default else "store_true"
    else:
        told["metavar"] = {int: "N", float: "X", str: "NAME"}[declared.kind]
        told["type"] = declared.kind
        if declared.choices:
            told["choices"] = declared.choices
            told["type"] = lambda value: declared.renamed.get(value, value)
            del told["metavar"]
    told |= changes
    if told["default"] is None and declared.default is not None and declared.default is not False:
        told["help"] += f" (default: {declared.default})"
    parser.add_argument(flag, **told)
    if declared.flags:
        parser.add_argument(*declared.flags, **{**told, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS})


def _written(bound: float | None) -> str:
    if bound is None:
        return ""
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


_REPR = reprlib.Repr()
_REPR.maxother = 60


def shown(value: object, most: int = 60) -> str:
    """A value for a message: its repr, cut to `most` characters, also of what is too large or too nested for repr()."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"a number of {value.bit_length()} bits"
    text = repr(value[:most]) if isinstance(value, str) else _REPR.repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
