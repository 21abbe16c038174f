"""The figures of the Quality tab: the surprisal of every token, and quality against steps."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.strings.language import texts
from app.ui.chart import COLORS, GRID, INK, SYMBOLS, quiet_layout

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from diffuapriel.evaluation.steps_quality import QualityPoint
    from diffuapriel.evaluation.surprisal import TextScore

# Eight strategies are told apart by color and by symbol.
MORE_COLORS = (*COLORS, "#2e9e6b", "#c2528b", "#a08a1e", "#6f8296", "#c8553d")
MORE_SYMBOLS = (*SYMBOLS, "triangle-up", "cross", "x", "star", "hexagon")
APART = 1.03  # points of one number of steps stand side by side, or their intervals would hide each other
Z = 1.96
LABELLED = 40  # tokens: more labels would not fit


def surprisal_chart(score: TextScore, tokens: Sequence[str]) -> Figure:
    """A bar per token: its surprisal in nats, with the interval of the draws so far."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={**quiet_layout(320), "showlegend": False, "bargap": 0.15})
    known = [
        (value or 0.0, Z * (error or 0.0)) for value, error in zip(score.surprisal, score.standard_error)
    ]
    plain = [html.escape(token.strip() or "␣", quote=False) for token in tokens]
    figure.add_bar(
        x=list(range(len(tokens))),
        y=score.surprisal,
        marker={"color": COLORS[0]},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [half for _, half in known],
            "arrayminus": [min(value, half) for value, half in known],  # a surprisal is never below 0
            "color": INK,
            "thickness": 1,
            "width": 2,
        },
        customdata=plain,
        hovertemplate=texts.SURPRISAL_HOVER,
    )
    labels = {"tickvals": list(range(len(tokens))), "ticktext": plain, "tickangle": -60, "automargin": True}
    figure.update_xaxes(
        title={"text": texts.INFLUENCE_X}, **GRID, **(labels if len(tokens) <= LABELLED else {})
    )
    figure.update_yaxes(title={"text": texts.SURPRISAL_Y}, rangemode="tozero", **GRID)
    return figure


def quality_chart(points: Sequence[QualityPoint], strategies: Sequence[str], truth: float) -> Figure:
    """Grammatical, consistent and entropy over denoiser calls, a curve a strategy; `truth`: entropy of true tales."""
    from plotly.subplots import make_subplots

    figure: Any = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for number, strategy in enumerate(strategies):
        mine = [point for point in points if point.strategy == strategy]
        shift = APART ** (number - (len(strategies) - 1) / 2)
        for row, name in enumerate(("grammatical", "consistent", "entropy"), start=1):
            known = [point for point in mine if getattr(point, name) is not None]
            scale = 1 if name == "entropy" else 100
            values = [scale * getattr(point, name) for point in known]
            spans = [getattr(point, f"{name}_ci95") for point in known]
            figure.add_scatter(
                x=[point.calls * shift for point in known],
                y=values,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [scale * high - value for value, (_, high) in zip(values, spans)],
                    "arrayminus": [value - scale * low for value, (low, _) in zip(values, spans)],
                    "thickness": 1,
                    "width": 3,
                },
                customdata=[[point.calls, point.stories] for point in known],
                mode="lines+markers",
                name=strategy,
                legendgroup=strategy,
                showlegend=row == 1,
                line={"color": MORE_COLORS[number], "width": 2},
                marker={"symbol": MORE_SYMBOLS[number], "size": 8},
                hovertemplate=texts.QUALITY_HOVER,
                row=row,
                col=1,
            )
    figure.add_hline(
        y=truth,
        line={"color": INK, "dash": "dot", "width": 1.5},
        row=3,
        col=1,
        annotation_text=texts.QUALITY_TRUTH,
        annotation_position="bottom right",
    )
    figure.update_layout(**quiet_layout(640))
    calls = sorted({round(point.calls) for point in points}) or [1, 128]
    figure.update_xaxes(type="log", tickvals=calls, ticktext=[f"{n:,}" for n in calls], **GRID)
    figure.update_xaxes(title={"text": texts.QUALITY_X}, row=3, col=1)
    figure.update_yaxes(**GRID)
    for row, title in enumerate(texts.QUALITY_Y, start=1):
        figure.update_yaxes(title={"text": title}, row=row, col=1)
        if row < 3:
            figure.update_yaxes(range=[-4, 104], row=row, col=1)
    return figure
