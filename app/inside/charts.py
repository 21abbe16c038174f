"""The figures of the Inside tab: schedule, influence, half-lives, attention, modulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.inside.view import InspectedModel
from app.strings.language import texts
from app.ui import render
from diffuapriel.charts.palette import ARCHITECTURES, INK, OTHERS, SeriesStyle, blend, faded, series_styles
from diffuapriel.charts.plotly import DOTTED, GRID, in_row, layout, places, series, stacked, token_axis, token_labels

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from app.inside.request import InspectRequest
    from diffuapriel.interpret.half_life import LayerHalfLives

HALF_LIFE_TICKS = (1, 10, 100, 1000)
LEAST_SHARE = 1e-5  # of the influence: smaller ones are rounding errors


def shown(figure: Figure) -> Any:
    """The update that shows a chart; its place on the page is hidden until it has one."""
    return render.chart(figure)


def style_of(architecture: str) -> SeriesStyle:
    """The color and marker of an architecture."""
    return ARCHITECTURES.get(architecture, OTHERS[0])


def _figure(height: int, **more: Any) -> Any:
    import plotly.graph_objects as go

    return go.Figure(layout={**layout(height), **more}).update_xaxes(**GRID).update_yaxes(**GRID)


def _say(figure: Figure, text: str) -> Figure:
    """An empty figure with one sentence in its middle."""
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.update_layout(height=110, margin={"t": 8, "b": 8})


def schedule_chart(t: float) -> Figure:
    """Masked share and noise level over time for every schedule, with a mark at `t` on the one in use."""
    import torch

    from diffuapriel.config import SCHEDULES
    from diffuapriel.diffusion.schedule import get_schedule

    figure = stacked(2, 400)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    now = torch.tensor([t], dtype=torch.float64)
    colors = [*(style.color for style in OTHERS[:4]), INK]
    looks = zip(colors, ("solid", "dash", "longdash", "dot", "dashdot"), strict=True)
    for name, (color, dash) in zip(SCHEDULES, looks, strict=True):
        schedule, line = get_schedule(name), {"color": color, "width": 2.5, "dash": dash}
        for row, curve in enumerate((1 - schedule.alpha(times), schedule.sigma(times)), start=1):
            trace = {"x": times.tolist(), "y": curve.tolist(), "line": line, **in_row(row, name)}
            figure.add_scatter(**trace, hovertemplate="t = %{x:.2f}: %{y:.2f}")
    used = get_schedule()
    marker = {"color": OTHERS[0].color, "size": 11, "line": {"width": 2, "color": INK}}
    for row, value in enumerate((1 - used.alpha(now).item(), used.sigma(now).item()), start=1):
        text = texts.SCHEDULE_MARKS[row - 1].format(value=value)
        place = "bottom left" if t > 0.5 else "top right"  # where no curve is
        figure.add_vline(x=t, line=DOTTED, row=row, col=1, annotation_text=text, annotation_position=place)
        quiet = {"mode": "markers", "showlegend": False, "hoverinfo": "skip"}
        figure.add_scatter(x=[t], y=[value], marker=marker, row=row, col=1, **quiet)
    figure.update_yaxes(title={"text": texts.SCHEDULE_SHARE}, range=[-0.04, 1.12], row=1, col=1)
    figure.update_yaxes(title={"text": texts.SCHEDULE_SIGMA}, row=2, col=1)
    return figure.update_xaxes(title={"text": texts.SCHEDULE_TIME}, row=2, col=1)


def influence_chart(models: Sequence[InspectedModel], asked: InspectRequest) -> Figure:
    """Each model's influence over the positions, as a share of its sum, on a logarithmic axis."""
    figure = _figure(380, hovermode="x unified")
    for one, style in zip(models, series_styles([one.architecture for one in models])):
        shares = one.influence.share.tolist()
        y = [share if share > LEAST_SHARE else None for share in shares]  # NaN becomes None too
        y[asked.position] = None
        figure.add_scatter(
            x=places(asked.tokens),
            y=y,
            mode="lines+markers",
            name=one.label,
            customdata=token_labels(asked.tokens),
            hovertemplate="%{customdata}: %{y:.2~p}",
            **series(style, width=1.5, size=7),
        )
    figure.add_vline(x=asked.position, line=DOTTED)
    figure.update_xaxes(title={"text": texts.INFLUENCE_X}, **token_axis(asked.tokens))
    return figure.update_yaxes(title={"text": texts.INFLUENCE_Y}, type="log", tickformat=".2~p", dtick=1)


def half_life_chart(
    layers: Sequence[LayerHalfLives], kinds: Sequence[str], length: int, architecture: str = ""
) -> Figure:
    """One row per layer, one mark per head: half-lives of forward heads to the left, of reverse heads to the right."""
    figure = _figure(150 + 34 * len(kinds))
    if not layers:
        return _say(figure, texts.HALF_LIFE_NONE)
    for direction, (name, sign) in enumerate(zip(texts.HALF_LIFE_NAMES, (-1, 1))):
        x, y, hover = [], [], []
        for memory in layers:
            half_lives = memory.half_life[direction].tolist()
            for head, tokens in enumerate(half_lives):
                x.append(sign * _decades(tokens))
                y.append(memory.layer + 1 + 0.62 * ((head + 0.5) / len(half_lives) - 0.5))
                about = {"layer": memory.layer + 1, "head": head + 1, "tokens": tokens}
                hover.append(texts.HALF_LIFE_HOVER.format(**about))
        symbol = ("circle", "circle-open")[direction]
        marker = {"color": style_of(architecture).color, "symbol": symbol, "size": 7, "opacity": 0.85}
        said = {"text": hover, "hovertemplate": "%{text}<extra></extra>"}
        figure.add_scatter(x=x, y=y, name=name, mode="markers", marker=marker, **said)
    for layer, kind in enumerate(kinds):
        if kind == "attention":
            figure.add_annotation(x=0, y=layer + 1, text=texts.HALF_LIFE_ATTENTION, showarrow=False)
    for edge in (-_decades(length), _decades(length)):
        figure.add_vline(x=edge, line=DOTTED)
    figure.add_vline(x=0, line={"color": INK, "width": 1.5})
    far = max(abs(value) for trace in figure.data for value in (*trace.x, _decades(length)))
    right = [n for n in HALF_LIFE_TICKS if _decades(n) <= far + 0.1]
    ticks = [*(-n for n in reversed(right)), 0, *right]
    figure.update_xaxes(
        title={"text": texts.HALF_LIFE_X},
        range=[-1.06 * far, 1.06 * far],
        tickvals=[math.copysign(_decades(abs(n)), n) for n in ticks],
        ticktext=[f"{abs(n):,}" for n in ticks],
    )
    names = [texts.LAYER.format(layer=layer + 1) for layer in range(len(kinds))]
    return figure.update_yaxes(range=[len(kinds) + 0.6, 0.4], tickvals=list(range(1, len(kinds) + 1)), ticktext=names)


def _decades(tokens: float) -> float:
    """A logarithmic axis that starts at 0."""
    return math.log10(1 + tokens)


def attention_chart(weights: Tensor | None, tokens: Sequence[str], title: str, architecture: str = "") -> Figure:
    """Which positions (columns) each position (row) attends to. weights: (length, length), None without attention."""
    figure = _figure(520, title={"text": title, "x": 0, "xref": "paper", "font": {"size": 14}})
    if weights is None:
        return _say(figure, texts.ATTENTION_NONE)
    labels, at, color = token_labels(tokens), places(tokens), style_of(architecture).color
    figure.add_heatmap(
        x=at,
        y=at,
        z=weights.tolist(),
        zmin=0,
        colorscale=[[0, faded(color, 0)], [1, faded(color, 1)]],
        colorbar={"title": {"text": texts.ATTENTION_WEIGHT}, "thickness": 12, "outlinewidth": 0},
        customdata=[[f"{a} → {b}" for b in labels] for a in labels],
        hovertemplate="%{customdata}: %{z:.2~p}<extra></extra>",
    )
    figure.update_xaxes(title={"text": texts.ATTENTION_X}, **token_axis(tokens))
    vertical = {**token_axis(tokens), "tickangle": 0}
    return figure.update_yaxes(title={"text": texts.ATTENTION_Y}, autorange="reversed", **vertical)


def modulation_chart(sizes: Tensor, times: Sequence[float], t: float, architecture: str = "") -> Figure:
    """Shift, scale and gate over time, one line per layer; `sizes` (layers, 3, times), with a mark at `t`."""
    figure = stacked(3, 560)
    layers = len(sizes)
    for layer in range(layers):
        color = blend(style_of(architecture).color, INK, layer / max(1, layers - 1))
        name = texts.LAYER.format(layer=layer + 1)
        for kind in range(3):
            place = in_row(kind + 1, name)
            place["showlegend"] &= layer in (0, layers - 1)
            trace = {"x": list(times), "y": sizes[layer, kind].tolist(), **place}
            line = {"color": color, "width": 1.75}
            figure.add_scatter(**trace, line=line, hovertemplate="t = %{x:.2f}: %{y:.3f}")
    figure.add_vline(x=t, line=DOTTED)
    figure.update_yaxes(rangemode="tozero")
    for kind, title in enumerate(texts.MODULATIONS, start=1):
        figure.update_yaxes(title={"text": title}, row=kind, col=1)
    return figure.update_xaxes(title={"text": texts.SCHEDULE_TIME}, row=3, col=1)
