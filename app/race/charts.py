"""The charts of sweeps: latency and tokens/s against length, and the speed over DiffuTran beside the paper's figures.

One figure serves both themes. Lanes differ in color and in the shape of their points; of several sweeps in one
chart, each has its own dash. What was not measured here is dotted, has no points and says whose it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.strings.language import texts
from app.ui.chart import COLORS, GRID, INK, SYMBOLS, quiet_layout, round_ticks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from diffuapriel.benchmark.result import EntryFacts
    from diffuapriel.benchmark.sweep import Crossover, Point, SweepResult

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
HEIGHT = 400


def latency_chart(sweeps: Sequence[SweepResult], tags: Sequence[str] = ("",)) -> Figure:
    """Milliseconds of a forward pass over the length, with the spread, the slopes and, of one sweep, the crossovers.

    tags: for each sweep what stands before its entries' names.
    """
    figure = _figure(sweeps, texts.CHART_LATENCY, [p.ms for sweep in sweeps for p in sweep.points])
    for number, (sweep, tag) in enumerate(zip(sweeps, tags, strict=True)):
        for index, entry in enumerate(sweep.entries):
            points = _points(sweep, entry)
            spread = {
                "type": "data",
                "symmetric": False,
                "array": [p.ms_max - p.ms for p in points],
                "arrayminus": [p.ms - p.ms_min for p in points],
                "thickness": 1,
                "width": 3,
            }
            exponent = sweep.exponents[entry]
            name = entry if exponent is None else texts.CHART_SLOPE.format(entry=entry, slope=exponent)
            _add(figure, points, [p.ms for p in points], tag + name, index, number, "%{y:.3~g} ms", spread)
    if len(sweeps) == 1:
        _mark_crossovers(figure, sweeps[0])
    return figure


def rate_chart(sweeps: Sequence[SweepResult], tags: Sequence[str] = ("",)) -> Figure:
    """Tokens per second of a forward pass over the length."""
    rates = [p.tokens_per_second for sweep in sweeps for p in sweep.points]
    figure = _figure(sweeps, texts.CHART_RATE, rates)
    for number, (sweep, tag) in enumerate(zip(sweeps, tags, strict=True)):
        for index, entry in enumerate(sweep.entries):
            points = _points(sweep, entry)
            rates = [p.tokens_per_second for p in points]
            _add(figure, points, rates, tag + entry, index, number, "%{y:,.4~g} tokens/s")
    return figure


def ratio_chart(sweep: SweepResult, facts: Sequence[EntryFacts]) -> Figure | None:
    """How many times as fast as DiffuTran each entry is, and the paper's figures; None where no DiffuTran runs."""
    from diffuapriel.benchmark.verdict import baseline_of, published_ratios, speed_ratios

    baseline = baseline_of(facts)
    others = [entry for entry in facts if baseline and entry.name != baseline.name]
    if baseline is None or not others:
        return None
    measured = {entry.name: speed_ratios(sweep, entry.name, baseline.name) for entry in others}
    paper = published_ratios({entry.architecture for entry in others})
    values = [1.0, *(figure.ratio for figure in paper), *(r for m in measured.values() for r in m.values())]
    figure = _figure([sweep], texts.CHART_RATIO.format(baseline=baseline.name), values, unit="×")
    for index, entry in enumerate(facts):
        if ratios := measured.get(entry.name):
            points = [p for p in _points(sweep, entry.name) if p.length in ratios]
            _add(figure, points, list(ratios.values()), entry.name, index, 0, "%{y:.2f}×")
    _add_level(figure, 1, INK, "solid", texts.CHART_EQUAL.format(baseline=baseline.name), above=False)
    for line in paper:
        color = COLORS[
            next(i for i, f in enumerate(facts) if f.architecture == line.architecture) % len(COLORS)
        ]
        words = texts.CHART_PAPER.format(version=line.version, ratio=line.ratio, entry=line.architecture)
        left = line.version == "v1"  # figures of different versions nearly meet
        _add_level(figure, line.ratio, color, "dot", words, above=left, right=not left)
    figure.update_yaxes(range=[math.log10(min(values) / 1.6), math.log10(max(values) * 1.6)])
    return figure


def _add_level(
    figure: Figure, value: float, color: str, dash: str, text: str, *, above: bool = True, right: bool = False
) -> None:
    """A line across the plot with its name at one end. Annotations on a logarithmic axis are in powers of ten."""
    figure.add_hline(y=value, line={"color": color, "dash": dash, "width": 1.5})
    figure.add_annotation(
        text=text,
        x=0.995 if right else 0.005,
        xref="x domain",
        xanchor="right" if right else "left",
        y=math.log10(value),
        yanchor="bottom" if above else "top",
        showarrow=False,
        font={"size": 11, "color": INK},
    )


def _points(sweep: SweepResult, entry: str) -> list[Point]:
    return sorted((p for p in sweep.points if p.entry == entry), key=lambda p: p.length)


def _figure(sweeps: Sequence[SweepResult], title: str, values: list[float], *, unit: str = "") -> Figure:
    """Empty logarithmic axes with round ticks around the values."""
    import plotly.graph_objects as go

    lengths = sorted({p.length for sweep in sweeps for p in sweep.points})
    ticks = {"tickvals": lengths, "ticktext": [f"{n:,}" for n in lengths]} if lengths else {}
    upright = round_ticks(values)
    if unit and upright:
        upright["ticktext"] = [f"{text}{unit}" for text in upright["ticktext"]]
    figure = go.Figure()
    figure.update_layout(
        **quiet_layout(HEIGHT),
        hovermode="x unified",
        xaxis={"type": "log", "title": {"text": texts.CHART_LENGTH}, **GRID, **ticks},
        yaxis={"type": "log", "title": {"text": title}, **upright, **GRID},
    )
    return figure


def _add(
    figure: Figure,
    points: Sequence[Point],
    values: Sequence[float],
    name: str,
    entry: int,
    sweep: int,
    hover: str,
    spread: dict[str, Any] | None = None,
) -> None:
    figure.add_scatter(
        x=[p.length for p in points],
        y=list(values),
        error_y=spread,
        mode="lines+markers",
        name=name,
        line={"color": COLORS[entry % len(COLORS)], "width": 2.5, "dash": DASHES[sweep % len(DASHES)]},
        marker={"symbol": SYMBOLS[entry % len(SYMBOLS)], "size": 8},
        hovertemplate=hover,
        showlegend=True,
    )


def _mark_crossovers(figure: Figure, sweep: SweepResult) -> None:
    """A dotted line and a label where two curves change places for good."""
    lengths = sorted({p.length for p in sweep.points})
    for cross in sweep.crossovers:
        if cross.length is not None and cross.ms is not None:
            late = cross.length > (lengths[0] * lengths[-1]) ** 0.5  # in the right half: the label goes left
            _mark(figure, cross, cross.length, late)


def _mark(figure: Figure, cross: Crossover, length: float, late: bool) -> None:
    figure.add_vline(x=length, line={"color": INK, "dash": "dot", "width": 1.5})
    figure.add_scatter(
        x=[length],
        y=[cross.ms],
        mode="markers+text",
        text=[texts.CHART_CROSSOVER.format(length=length)],
        textposition="bottom left" if late else "bottom right",
        marker={"symbol": "x-thin", "size": 12, "line": {"width": 2, "color": INK}},
        showlegend=False,
        hoverinfo="skip",
    )
