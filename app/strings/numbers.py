"""Numbers as people write them, in the language of the page."""

from __future__ import annotations

import math

from app.strings.language import texts


def figure(value: float) -> str:
    """A number to three digits, as people write it: '0.0412', '4.12', '41.2', '412', '4,123'."""
    if abs(value) >= 100 or value == 0:
        return texts.number(value, ",.0f")
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return texts.number(value, f".{decimals}f")


def count(value: int) -> str:
    """A number of parameters: '870,000', '6.8M', '35M', '1.3B'."""
    if value < 1_000_000:
        return texts.number(value, ",")
    if value < 1_000_000_000:
        return texts.number(value / 1e6, ".0f" if value >= 10_000_000 else ".1f") + "M"
    return texts.number(value / 1e9, ".1f") + "B"
