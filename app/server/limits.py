"""What a visitor may ask for, checked on the server: every value, whatever the page allows.

Each check returns the value as the type the code works with or raises `Refused` (a ValueError) whose message
names the value and the permitted range. Nothing here knows Gradio; `app.server.guard` shows a refusal as a message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.strings import en as texts

MAX_SEED = 2**31 - 1

# What whoever starts the app may set, from and to. Less than the first hides what the tabs begin with; the player
# draws no more tokens than the second.
MOST_TOKENS = (128, 16_384)
MOST_STEPS = (8, 4096)
MOST_QUEUE = (1, 1000)


class Refused(ValueError):
    """A value outside what is permitted; the message is meant for the visitor."""


@dataclass(frozen=True)
class Limits:
    """The largest work one visitor may start."""

    max_characters: int = 20_000  # of the text with holes
    max_tokens: int = 1024  # of one canvas
    max_steps: int = 256  # of one generation
    max_repeats: int = 8  # of a race
    max_sweep_length: int = 65_536
    max_upload_bytes: int = 50_000_000  # of a trace to load
    max_tokens_on_gpu: int = 8192  # of a race's canvas: on a GPU the lengths begin to tell where a CPU's end
    max_waiting: int = 64  # visitors in the queue; more are told so at once

    def race_tokens(self, device: str) -> int:
        """The longest canvas of a race on `device`."""
        return self.max_tokens_on_gpu if device.startswith("cuda") else self.max_tokens


def of_room(*, max_tokens: int, max_steps: int, max_waiting: int) -> Limits:
    """The limits that a teacher sets for a room. A longest canvas that was changed holds for a race on a GPU too."""
    usual = Limits()
    on_gpu = usual.max_tokens_on_gpu if max_tokens == usual.max_tokens else max_tokens
    return Limits(
        max_tokens=max_tokens, max_steps=max_steps, max_waiting=max_waiting, max_tokens_on_gpu=on_gpu
    )


def shown(value: object) -> str:
    """A value as it appears in a message: short whatever was sent."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print a whole number of more than 4,300 digits
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= 60 else text[:57] + "..."


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int from `low` to `high`. 8.0 is whole; True, NaN, "8" and 8.5 are not."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_whole = is_whole or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
    if not is_whole or not low <= value <= high:
        raise Refused(texts.NOT_WHOLE.format(name=name, value=shown(value), low=f"{low:,}", high=f"{high:,}"))
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float from `low` to `high`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN is in no range
        raise Refused(
            texts.NOT_A_NUMBER.format(name=name, value=shown(value), low=f"{low:g}", high=f"{high:g}")
        )
    return float(value)


def choice(name: str, value: Any, permitted: Sequence[str]) -> str:
    """`value` where it is one of `permitted`."""
    if not isinstance(value, str) or value not in permitted:
        raise Refused(
            texts.NOT_PERMITTED.format(name=name, value=shown(value), permitted=", ".join(permitted))
        )
    return value


def text(name: str, value: Any, max_characters: int) -> str:
    """`value` as a string of at most `max_characters` that can be encoded; None counts as empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refused(texts.NOT_TEXT.format(name=name, value=shown(value)))
    if len(value) > max_characters:
        length, most = f"{len(value):,}", f"{max_characters:,}"
        raise Refused(texts.TOO_LONG.format(name=name, length=length, most=most))
    return value.encode("utf-8", errors="replace").decode("utf-8")  # a lone surrogate becomes "?"
