"""Curves drawn by Plotly. One figure serves a light and a dark page: no paper, and one ink for both."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffuapriel.charts.curves import Curve, Panel, round_values
from diffuapriel.charts.palette import INK, SeriesStyle

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

GRID = {
    "gridcolor": "rgba(127,135,147,0.22)",
    "zeroline": False,
    "linecolor": INK,
    "ticks": "outside",
    "tickcolor": INK,
}
DOTTED = {"color": INK, "dash": "dot", "width": 1.5}


def layout(height: int) -> dict[str, Any]:
    """What the layout of every figure begins with; the legend is above the plot."""
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 76, "r": 16, "t": 48, "b": 64},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }


def stacked(rows: int, height: int) -> Any:
    """Empty axes one below the other with a common x axis."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.2 / rows)
    return figure.update_layout(**layout(height)).update_xaxes(**GRID).update_yaxes(**GRID)


def in_row(row: int, name: str) -> dict[str, Any]:
    """The arguments of a trace in a row of `stacked`: one entry of the legend for the traces of all rows."""
    return {"name": name, "legendgroup": name, "showlegend": row == 1, "row": row, "col": 1}


def series(style: SeriesStyle, dash: str = "solid", width: float = 2.5, size: int = 8) -> dict[str, Any]:
    """The arguments of a scatter trace that give it its look."""
    return {
        "line": {"color": style.color, "width": width, "dash": dash},
        "marker": {"symbol": style.symbol, "size": size},
    }


def error_bars(below: Sequence[float], above: Sequence[float], **look: Any) -> dict[str, Any]:
    """The `error_y` of a trace: lengths of the bars below and above each point."""
    ends = {"symmetric": False, "arrayminus": list(below), "array": list(above)}
    return {"type": "data", "thickness": 1, "width": 3, **ends, **look}


def token_axis(tokens: Sequence[str]) -> dict[str, Any]:
    """The options of an axis of positions that shows tokens, as many as there is room for; x values are `places`."""
    labels = dict(zip(places(tokens), token_labels(tokens)))
    shown = {"type": "category", "categoryorder": "array", "categoryarray": list(labels), "labelalias": labels}
    return {**shown, "tickangle": -60, "automargin": True, "tickfont": {"size": 11}}


def places(tokens: Sequence[str]) -> list[str]:
    """The categories of `token_axis`: positions as text, since a token may occur several times."""
    return [f"#{position}" for position in range(len(tokens))]


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Tokens as labels. Plotly reads tags and entities: they are escaped."""
    return [html.escape(token.strip() or "␣", quote=False) for token in tokens]


def draw(panel: Panel, height: int = 400) -> Figure:
    """A figure of one panel."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={**layout(height), "hovermode": "x unified"})
    draw_panel(figure, panel)
    for level in panel.levels:
        figure.add_hline(y=level.y, line={"color": level.color, "dash": level.dash, "width": 1.5})
        figure.add_annotation(
            text=level.text,
            x=0.005 if level.left else 0.995,
            xref="x domain",
            xanchor="left" if level.left else "right",
            y=math.log10(level.y) if panel.log_y else level.y,  # a logarithmic axis takes powers of ten here
            yanchor="bottom" if level.above else "top",
            showarrow=False,
            font={"size": 11, "color": INK},
        )
    for number, crossing in enumerate(panel.crossings):
        in_right_half = crossing.x > (panel.lengths[0] * panel.lengths[-1]) ** 0.5
        figure.add_vline(x=crossing.x, line=DOTTED)
        figure.add_annotation(
            text=crossing.text,
            x=math.log10(crossing.x),
            xanchor="right" if in_right_half else "left",
            yref="y domain",
            y=0.01 + 0.07 * number,  # each on a line of its own: crossings may be close to each other
            yanchor="bottom",
            showarrow=False,
            font={"size": 11, "color": INK},
        )
    return figure


def draw_panel(figure: Figure, panel: Panel, **place: Any) -> None:
    """Add the curves and axes of a panel to a figure; `place`: row, col and legend, where there are several."""
    for curve in panel.curves:
        _add_curve(figure, curve, panel.hover, place)
    at = {key: place[key] for key in ("row", "col") if key in place}
    lengths = panel.lengths
    x_ticks = {"tickvals": lengths, "ticktext": [f"{n:,}" for n in lengths]} if lengths else {}
    figure.update_xaxes(type="log", title={"text": panel.x_title}, **GRID, **x_ticks, **at)
    figure.update_yaxes(title={"text": panel.y_title}, **GRID, **at)
    if not panel.log_y:
        figure.update_yaxes(rangemode="tozero", ticksuffix=panel.unit, **at)
        return
    ticks = round_values(panel.values)
    labels = [f"{tick:,.10g}{panel.unit}" for tick in ticks]
    figure.update_yaxes(type="log", **({"tickvals": ticks, "ticktext": labels} if ticks else {}), **at)
    if panel.levels:  # Plotly makes room for traces only
        low, high = min(panel.values) / 1.6, max(panel.values) * 1.6
        figure.update_yaxes(range=[math.log10(low), math.log10(high)], **at)


def _add_curve(figure: Figure, curve: Curve, hover: str, place: dict[str, Any]) -> None:
    figure.add_scatter(
        x=list(curve.x),
        y=list(curve.y),
        error_y=error_bars(*curve.spread) if curve.spread else None,
        mode="lines+markers" if curve.markers else "lines",
        name=curve.name,
        hovertemplate=hover,
        showlegend=True,
        **series(curve.style, curve.dash),
        **place,
    )
