"""The figures of the Quality tab: the surprisal of every token, and quality against steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.strings.language import texts
from diffuapriel.charts.palette import INK, SERIES
from diffuapriel.charts.plotly import DOTTED, GRID, error_bars, layout, series, stacked, token_axis

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from diffuapriel.evaluation.steps_quality import QualityPoint
    from diffuapriel.evaluation.surprisal import TextScore

SHIFT = 1.03  # between points with one number of steps: otherwise their intervals would hide each other
Z = 1.96
LABELLED = 40  # tokens: more labels would not fit


def surprisal_chart(score: TextScore, tokens: Sequence[str]) -> Figure:
    """One bar per token: its surprisal in nats, with the interval of the draws so far."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={**layout(320), "showlegend": False, "bargap": 0.15})
    half = [Z * (error or 0.0) for error in score.standard_error]
    below = [
        min(value or 0.0, bar) for value, bar in zip(score.surprisal, half)
    ]  # a surprisal is never below 0
    labels = token_axis(tokens)
    figure.add_bar(
        x=list(range(len(tokens))),
        y=score.surprisal,
        marker={"color": SERIES[0].color},
        error_y=error_bars(below, half, color=INK, width=2),
        customdata=labels["ticktext"],
        hovertemplate=texts.SURPRISAL_HOVER,
    )
    figure.update_xaxes(
        title={"text": texts.INFLUENCE_X}, **GRID, **(labels if len(tokens) <= LABELLED else {})
    )
    return figure.update_yaxes(title={"text": texts.SURPRISAL_Y}, rangemode="tozero", **GRID)


def quality_chart(points: Sequence[QualityPoint], strategies: Sequence[str], truth: float) -> Figure:
    """Grammatical, consistent and entropy over denoiser calls, one curve per strategy; truth: entropy of true tales."""
    figure = stacked(3, 640)
    for number, strategy in enumerate(strategies):
        mine = [point for point in points if point.strategy == strategy]
        shift = SHIFT ** (number - (len(strategies) - 1) / 2)
        for row, name in enumerate(("grammatical", "consistent", "entropy"), start=1):
            known = [point for point in mine if getattr(point, name) is not None]
            scale = 1 if name == "entropy" else 100
            values = [scale * getattr(point, name) for point in known]
            ends = [getattr(point, f"{name}_ci95") for point in known]
            below = [value - scale * low for value, (low, _) in zip(values, ends)]
            above = [scale * high - value for value, (_, high) in zip(values, ends)]
            figure.add_scatter(
                x=[point.calls * shift for point in known],
                y=values,
                error_y=error_bars(below, above),
                customdata=[[point.calls, point.stories] for point in known],
                mode="lines+markers",
                name=strategy,
                legendgroup=strategy,
                showlegend=row == 1,
                hovertemplate=texts.QUALITY_HOVER,
                row=row,
                col=1,
                **series(SERIES[number], width=2),
            )
    note = {"annotation_text": texts.QUALITY_TRUTH, "annotation_position": "bottom right"}
    figure.add_hline(y=truth, line=DOTTED, row=3, col=1, **note)
    calls = sorted({round(point.calls) for point in points}) or [1, 128]
    figure.update_xaxes(type="log", tickvals=calls, ticktext=[f"{n:,}" for n in calls])
    figure.update_xaxes(title={"text": texts.QUALITY_X}, row=3, col=1)
    for row, title in enumerate(texts.QUALITY_Y, start=1):
        figure.update_yaxes(title={"text": title}, row=row, col=1)
        if row < 3:
            figure.update_yaxes(range=[-4, 104], row=row, col=1)
    return figure
