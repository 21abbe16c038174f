"""The looks of all charts, and the chart of a sweep: latency against length, the spread, the slopes, the crossover."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from diffuapriel.race import SweepResult

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


def sweep_chart(result: SweepResult | None) -> Figure:
    """The figure of what has been measured so far; empty axes for None."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, lane in enumerate(result.lanes if result else ()):
        _add_curve(figure, result, lane, COLORS[number % 3], SYMBOLS[number % 3])
    lengths = sorted({p.length for p in result.points}) if result else []
    for cross in result.crossovers if result else ():
        if cross.length is not None and cross.ms is not None:
            late = cross.length > (lengths[0] * lengths[-1]) ** 0.5  # in the right half: the label goes left
            _add_crossover(figure, cross.length, cross.ms, late)
    times = [p.ms for p in result.points] if result else []
    ticks = {"tickvals": lengths, "ticktext": [f"{n:,}" for n in lengths]} if lengths else {}
    figure.update_layout(
        **quiet_layout(420),
        hovermode="x unified",
        xaxis={"type": "log", "title": {"text": "length in tokens"}, **GRID, **ticks},
        yaxis={"type": "log", "title": {"text": "ms per forward pass"}, **round_ticks(times), **GRID},
    )
    return figure


def round_ticks(values: list[float]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten around the values; Plotly's own leave out what 2 and 5 are times."""
    if not values:
        return {}
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def _add_curve(figure: Any, result: Any, lane: str, color: str, symbol: str) -> None:
    points = sorted((p for p in result.points if p.lane == lane), key=lambda p: p.length)
    exponent = result.exponents[lane]
    figure.add_scatter(
        x=[p.length for p in points],
        y=[p.ms for p in points],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [p.ms_max - p.ms for p in points],
            "arrayminus": [p.ms - p.ms_min for p in points],
            "thickness": 1,
            "width": 3,
        },
        mode="lines+markers",
        name=lane if exponent is None else f"{lane} (slope {exponent:.2f})",
        line={"color": color, "width": 2.5},
        marker={"symbol": symbol, "size": 8},
        hovertemplate="%{y:.3~g} ms",
    )


def _add_crossover(figure: Any, length: float, ms: float, late: bool) -> None:
    figure.add_vline(x=length, line={"color": INK, "dash": "dot", "width": 1.5})
    figure.add_scatter(
        x=[length],
        y=[ms],
        mode="markers+text",
        text=[f" crossover at {length:,.0f} "],
        textposition="bottom left" if late else "bottom right",
        marker={"symbol": "x-thin", "size": 12, "line": {"width": 2, "color": INK}},
        showlegend=False,
        hoverinfo="skip",
    )
