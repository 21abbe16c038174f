"""What a panel of curves shows, without saying how it is drawn: plotly.py and matplotlib.py draw the same panel.

The x axis holds lengths in tokens and is logarithmic, with a tick at every length measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffuapriel.charts.palette import SeriesStyle


@dataclass(frozen=True)
class Curve:
    """One series. `low` and `high` are the ends of its error bars, as values on the y axis."""

    name: str
    x: Sequence[int]
    y: Sequence[float]
    style: SeriesStyle
    dash: str = "solid"  # as Plotly names it: solid, dash, dot, dashdot, longdash, longdashdot
    markers: bool = True
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    @property
    def spread(self) -> tuple[list[float], list[float]] | None:
        """Lengths of the error bars below and above each point, None for a curve without them."""
        if not self.low:
            return None
        below = [y - low for y, low in zip(self.y, self.low, strict=True)]
        return below, [high - y for y, high in zip(self.y, self.high, strict=True)]


@dataclass(frozen=True)
class Level:
    """A horizontal line with its name above its left end, or below its right one."""

    y: float
    text: str
    color: str
    dash: str = "dot"
    above: bool = True
    left: bool = True


@dataclass(frozen=True)
class Crossing:
    """A vertical line with its name, where two curves cross."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    y_title: str
    curves: Sequence[Curve]
    title: str = ""
    x_title: str = "length in tokens"
    log_y: bool = True  # otherwise the axis begins at 0
    unit: str = ""  # behind each tick of the y axis
    hover: str = "%{y:,.4~r}"  # Plotly's template of a value
    levels: Sequence[Level] = ()
    crossings: Sequence[Crossing] = ()

    @property
    def lengths(self) -> list[int]:
        """All x values, each once."""
        return sorted({x for curve in self.curves for x in curve.x})

    @property
    def values(self) -> list[float]:
        """All y values, those of the levels too."""
        return [*(y for curve in self.curves for y in curve.y), *(level.y for level in self.levels)]


def round_values(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten around the values: the ticks of a logarithmic axis."""
    if not values:
        return []
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
