"""Colors and markers of all charts. Series differ in both, so that no chart relies on color alone.

An architecture has one color everywhere; series of anything else take other ones, those of OTHERS.
The colors are readable on white and on near black, and the color-blind can tell the first three apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

INK = "#7f8793"  # lines and text on any background: Gradio shows one figure in both themes
PRINT_INK, PRINT_QUIET, PRINT_GRID = "#1f2328", "#57606a", "#d8dee4"  # on white paper


class SeriesStyle(NamedTuple):
    """How one series looks: its color, and its marker as Plotly and as matplotlib name it."""

    color: str
    symbol: str
    marker: str


SERIES = (
    SeriesStyle("#1590b4", "circle", "o"),
    SeriesStyle("#d9730d", "diamond", "D"),
    SeriesStyle("#7d6bd6", "square", "s"),
    SeriesStyle("#2e9e6b", "triangle-up", "^"),
    SeriesStyle("#c2528b", "cross", "P"),
    SeriesStyle("#a08a1e", "x", "X"),
    SeriesStyle("#6f8296", "star", "*"),
    SeriesStyle("#c8553d", "hexagon", "h"),
    SeriesStyle("#4a5fb8", "triangle-down", "v"),
    SeriesStyle("#8d6e63", "pentagon", "p"),
    SeriesStyle("#00897b", "triangle-right", ">"),
)
OTHERS = SERIES[3:]
ARCHITECTURES = {"diffuapriel": SERIES[0], "diffuapriel-h": SERIES[2], "diffutran": SERIES[1]}
COLORS = {name: style.color for name, style in ARCHITECTURES.items()}


def series_styles(architectures: Sequence[str]) -> list[SeriesStyle]:
    """A style for each series: that of its architecture, or a free one where that is taken or unknown."""
    free = [style for style in SERIES if all(ARCHITECTURES.get(name) != style for name in architectures)]
    styles: list[SeriesStyle] = []
    for name in architectures:
        own = ARCHITECTURES.get(name)
        if own is None or own in styles:
            own = free[0]
            free = [*free[1:], own]  # after the last free style the first one comes again
        styles.append(own)
    return styles


def faded(color: str, alpha: float) -> str:
    """A color of the form '#rrggbb' with an opacity, as CSS and Plotly read it."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def blend(first: str, last: str, share: float) -> str:
    """The color between two of the form '#rrggbb': `first` at share 0, `last` at share 1."""
    a, b = (tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in (first, last))
    return "#" + "".join(f"{round(x + (y - x) * share):02x}" for x, y in zip(a, b))
