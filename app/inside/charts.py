"""The figures of the Inside tab: schedule, influence, memory, attention, modulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.inside.view import Looked
from app.strings.language import texts
from app.ui.chart import COLORS, GRID, INK, SYMBOLS, quiet_layout

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from app.inside.request import Question
    from diffuapriel.interpret.half_life import LayerMemory

LABELLED = 32  # tokens: a longer axis shows positions, the tokens stand in the hover
MEMORY_TICKS = (1, 10, 100, 1000)
LEAST_SHARE = 1e-5  # of an influence: below it lies the rounding of the arithmetic


def shown(figure: Figure) -> Any:
    """The update of a chart's place on the page, which is hidden until it has one."""
    import gradio as gr

    return gr.update(value=figure, visible=True)


def _figure(height: int, **layout: Any) -> Any:
    import plotly.graph_objects as go

    return go.Figure(layout={**quiet_layout(height), **layout})


def _say(figure: Any, text: str) -> Figure:
    """An empty figure with one sentence in its middle."""
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.update_layout(height=110, margin={"t": 8, "b": 8})


def schedule_chart(t: float) -> Figure:
    """Masked share and noise level over time for every schedule, with a mark at `t` on the one in use."""
    import torch
    from plotly.subplots import make_subplots

    from diffuapriel.config import SCHEDULES
    from diffuapriel.diffusion.schedule import get_schedule

    figure: Any = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    colors, dashes = (*COLORS, INK), ("solid", "dash", "dot", "dashdot")
    for name, color, dash in zip(SCHEDULES, colors, dashes, strict=True):
        schedule = get_schedule(name)
        line = {"color": color, "width": 2.5, "dash": dash}
        curves = (1 - schedule.alpha(times), schedule.sigma(times))
        for row, curve in enumerate(curves, start=1):
            figure.add_scatter(
                x=times.tolist(),
                y=curve.tolist(),
                name=name,
                line=line,
                legendgroup=name,
                showlegend=row == 1,
                row=row,
                col=1,
                hovertemplate="t = %{x:.2f}: %{y:.2f}",
            )
    now = torch.tensor([t], dtype=torch.float64)
    used = get_schedule()
    for row, value in enumerate((1 - used.alpha(now).item(), used.sigma(now).item()), start=1):
        figure.add_vline(
            x=t,
            line={"color": INK, "dash": "dot", "width": 1.5},
            row=row,
            col=1,
            annotation_text=texts.SCHEDULE_MARKS[row - 1].format(value=value),
            annotation_position="bottom left" if t > 0.5 else "top right",  # where no curve is
        )
        marker = {"color": COLORS[0], "size": 11, "line": {"width": 2, "color": INK}}
        figure.add_scatter(
            x=[t],
            y=[value],
            mode="markers",
            marker=marker,
            showlegend=False,
            hoverinfo="skip",
            row=row,
            col=1,
        )
    figure.update_layout(**quiet_layout(400))
    figure.update_xaxes(**GRID).update_yaxes(**GRID)
    figure.update_yaxes(title={"text": texts.SCHEDULE_SHARE}, range=[-0.04, 1.12], row=1, col=1)
    figure.update_yaxes(title={"text": texts.SCHEDULE_SIGMA}, row=2, col=1)
    figure.update_xaxes(title={"text": texts.SCHEDULE_TIME}, row=2, col=1)
    return figure


def influence_chart(looked: Sequence[Looked], question: Question) -> Figure:
    """Each model's influence over the positions, as a share of its sum, on a logarithmic axis."""
    figure = _figure(380, hovermode="x unified")
    for number, one in enumerate(looked):
        share = [
            s if s > LEAST_SHARE else None for s in one.influence.share.tolist()
        ]  # NaN is not above either
        share[question.position] = None
        figure.add_scatter(
            x=list(range(len(share))),
            y=share,
            mode="lines+markers",
            name=one.label,
            line={"color": COLORS[number % 3], "width": 1.5},
            marker={"symbol": SYMBOLS[number % 3], "size": 7},
            hovertemplate="%{y:.3~p}",
        )
    figure.add_vline(x=question.position, line={"color": INK, "dash": "dot", "width": 1.5})
    figure.update_xaxes(title={"text": texts.INFLUENCE_X}, **GRID, **_token_axis(question.tokens))
    figure.update_yaxes(title={"text": texts.INFLUENCE_Y}, type="log", tickformat=".2~p", dtick=1, **GRID)
    return figure


def _token_axis(tokens: Sequence[str]) -> dict[str, Any]:
    """Tokens as tick labels while they fit; positions otherwise."""
    if len(tokens) > LABELLED:
        return {}
    shown = [_plain(token.strip() or "␣") for token in tokens]
    return {"tickvals": list(range(len(tokens))), "ticktext": shown, "tickangle": -60, "automargin": True}


def _plain(text: str) -> str:
    """Text as Plotly shows it literally: it reads tags and entities in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def memory_chart(layers: Sequence[LayerMemory], kinds: Sequence[str], length: int) -> Figure:
    """A row per layer, a mark per head: forward memory to the left of the middle, reverse memory to the right."""
    figure = _figure(150 + 34 * len(kinds))
    if not layers:
        return _say(figure, texts.MEMORY_NONE)
    for direction, (name, sign) in enumerate(zip(texts.MEMORY_NAMES, (-1, 1))):
        x, y, told = [], [], []
        for memory in layers:
            half_lives = memory.half_life[direction].tolist()
            for head, tokens in enumerate(half_lives):
                x.append(sign * _stretch(tokens))
                y.append(memory.layer + 1 + 0.62 * ((head + 0.5) / len(half_lives) - 0.5))
                told.append(texts.MEMORY_HOVER.format(layer=memory.layer + 1, head=head + 1, tokens=tokens))
        figure.add_scatter(
            x=x,
            y=y,
            text=told,
            name=name,
            mode="markers",
            marker={"color": COLORS[direction], "symbol": SYMBOLS[direction], "size": 7, "opacity": 0.85},
            hovertemplate="%{text}<extra></extra>",
        )
    for layer, kind in enumerate(kinds):
        if kind == "attention":
            figure.add_annotation(x=0, y=layer + 1, text=texts.MEMORY_ATTENTION, showarrow=False)
    for edge in (-_stretch(length), _stretch(length)):
        figure.add_vline(x=edge, line={"color": INK, "dash": "dot", "width": 1.5})
    figure.add_vline(x=0, line={"color": INK, "width": 1.5})
    far = max(abs(value) for trace in figure.data for value in (*trace.x, _stretch(length)))
    ticks = [n for n in MEMORY_TICKS if _stretch(n) <= far + 0.1]
    figure.update_xaxes(
        title={"text": texts.MEMORY_X},
        range=[-1.06 * far, 1.06 * far],
        tickvals=[-_stretch(n) for n in reversed(ticks)] + [0] + [_stretch(n) for n in ticks],
        ticktext=[f"{n:,}" for n in reversed(ticks)] + ["0"] + [f"{n:,}" for n in ticks],
        **GRID,
    )
    names = [texts.LAYER.format(layer=layer + 1) for layer in range(len(kinds))]
    figure.update_yaxes(
        range=[len(kinds) + 0.6, 0.4], tickvals=list(range(1, len(kinds) + 1)), ticktext=names, **GRID
    )
    return figure


def _stretch(tokens: float) -> float:
    """An axis that begins at 0 and grows by decades."""
    return math.log10(1 + tokens)


def attention_chart(weights: Tensor | None, tokens: Sequence[str], title: str) -> Figure:
    """Where each position (a row) looks (a column); `weights` (length, length), None for a model without attention."""
    figure = _figure(520, title={"text": title, "x": 0, "xref": "paper", "font": {"size": 14}})
    if weights is None:
        return _say(figure, texts.ATTENTION_NONE)
    figure.add_heatmap(
        z=weights.tolist(),
        zmin=0,
        colorscale=[[0, "rgba(21,144,180,0)"], [1, "rgba(21,144,180,1)"]],
        colorbar={"title": {"text": texts.ATTENTION_WEIGHT}, "thickness": 12, "outlinewidth": 0},
        customdata=[[f"{_plain(a)} → {_plain(b)}" for b in tokens] for a in tokens],
        hovertemplate="%{customdata}: %{z:.2~p}<extra></extra>",
    )
    figure.update_xaxes(title={"text": texts.ATTENTION_X}, **GRID, **_token_axis(tokens))
    vertical = {**_token_axis(tokens), "tickangle": 0}
    figure.update_yaxes(title={"text": texts.ATTENTION_Y}, autorange="reversed", **GRID, **vertical)
    return figure


def modulation_chart(sizes: Tensor, times: Sequence[float], t: float) -> Figure:
    """Shift, scale and gate over time, a line per layer; `sizes` (layers, 3, times), with a mark at `t`."""
    from plotly.subplots import make_subplots

    figure: Any = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    layers = len(sizes)
    for layer in range(layers):
        color = _between(COLORS[0], COLORS[1], layer / max(1, layers - 1))
        name = texts.LAYER.format(layer=layer + 1)
        for kind in range(3):
            figure.add_scatter(
                x=list(times),
                y=sizes[layer, kind].tolist(),
                name=name,
                legendgroup=name,
                showlegend=kind == 0 and layer in (0, layers - 1),
                line={"color": color, "width": 1.75},
                row=kind + 1,
                col=1,
                hovertemplate="t = %{x:.2f}: %{y:.3f}",
            )
    figure.update_layout(**quiet_layout(560))
    figure.add_vline(x=t, line={"color": INK, "dash": "dot", "width": 1.5})
    figure.update_xaxes(**GRID).update_yaxes(rangemode="tozero", **GRID)
    for kind, title in enumerate(texts.MODULATIONS, start=1):
        figure.update_yaxes(title={"text": title}, row=kind, col=1)
    figure.update_xaxes(title={"text": texts.SCHEDULE_TIME}, row=3, col=1)
    return figure


def _between(first: str, last: str, share: float) -> str:
    """A color on the way from one to the other, `share` from 0 to 1."""
    a, b = (tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in (first, last))
    return "#" + "".join(f"{round(x + (y - x) * share):02x}" for x, y in zip(a, b))
