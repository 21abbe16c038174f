"""The looks of all charts: one ink and grid for both themes, colors that the color-blind tell apart, round ticks."""

from __future__ import annotations

import math
from typing import Any

COLORS = ("#1590b4", "#d9730d", "#7d6bd6")  # told apart in light, in dark and by the color-blind
SYMBOLS = ("circle", "diamond", "square")
INK = "#7f8793"  # readable on white and on near black: Gradio shows one figure in both themes
GRID = {
    "gridcolor": "rgba(127,135,147,0.22)",
    "zeroline": False,
    "linecolor": INK,
    "ticks": "outside",
    "tickcolor": INK,
}


def quiet_layout(height: int) -> dict[str, Any]:
    """What every figure's layout begins with: no paper, one ink, the legend above the plot."""
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 76, "r": 16, "t": 48, "b": 64},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }


def round_ticks(values: list[float]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten around the values; Plotly's own leave out what 2 and 5 are times."""
    if not values:
        return {}
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}
