"""The charts of sweeps: latency and tokens/s against length, and the speed over DiffuTran beside the paper's figures.

An entry has the color and the marker of its architecture; of several sweeps in one chart, each has its own dash.
Dotted lines without markers are figures of the paper, not measured here, and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from app.race.store import SavedResult
from app.strings.language import texts
from diffuapriel.charts.curves import Crossing, Curve, Level, Panel
from diffuapriel.charts.palette import ARCHITECTURES, INK, series_styles

if TYPE_CHECKING:
    from diffuapriel.benchmark.sweep import Point

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def latency_panel(results: Sequence[SavedResult]) -> Panel:
    """Milliseconds per forward pass over length, with the slopes and, for one sweep, the crossovers."""
    curves = _curves(results, lambda point: (point.ms, point.ms_min, point.ms_max), slopes=True)
    crossings = [
        Crossing(cross.length, cross.ms, texts.CHART_CROSSOVER.format(length=cross.length))
        for one in results
        if one.sweep and len(results) == 1
        for cross in one.sweep.crossovers
        if cross.length is not None and cross.ms is not None
    ]
    return _panel(texts.CHART_LATENCY, curves, hover="%{y:,.3~r} ms", crossings=crossings)


def rate_panel(results: Sequence[SavedResult]) -> Panel:
    """Tokens per second of a forward pass over length."""
    curves = _curves(results, lambda point: (point.tokens_per_second,))
    return _panel(texts.CHART_RATE, curves, hover="%{y:,.4~r} tokens/s")


def ratio_panel(result: SavedResult) -> Panel | None:
    """How many times as fast as DiffuTran each entry is, and the paper's figures; None where no DiffuTran runs."""
    from diffuapriel.benchmark.verdict import baseline_of, published_ratios, speed_ratios

    baseline = baseline_of(result.facts)
    others = {entry.architecture for entry in result.facts if baseline and entry.name != baseline.name}
    if baseline is None or result.sweep is None or not others:
        return None
    curves = []
    for entry, style in zip(result.facts, _styles(result)):
        ratios = speed_ratios(result.sweep, entry.name, baseline.name)
        if entry.name != baseline.name and ratios:
            curves.append(Curve(entry.name, list(ratios), list(ratios.values()), style))
    equal = texts.CHART_EQUAL.format(baseline=baseline.name)
    levels = [Level(1.0, equal, INK, dash="solid", above=False)]
    for line in published_ratios(others):
        words = texts.CHART_PAPER.format(version=line.version, ratio=line.ratio, entry=line.architecture)
        left = line.version == "v1"  # figures of different versions nearly meet
        color = ARCHITECTURES[line.architecture].color
        levels.append(Level(line.ratio, words, color, above=left, left=left))
    title = texts.CHART_RATIO.format(baseline=baseline.name)
    return _panel(title, curves, hover="%{y:.2f}×", unit="×", levels=levels)


def _panel(title: str, curves: Sequence[Curve], **parts: Any) -> Panel:
    return Panel(title, curves, x_title=texts.CHART_LENGTH, **parts)


def _styles(result: SavedResult) -> Sequence[Any]:
    return series_styles([entry.architecture for entry in result.facts])


def _curves(
    results: Sequence[SavedResult], values: Callable[[Point], tuple[float, ...]], slopes: bool = False
) -> list[Curve]:
    """One curve per entry of each sweep. `values` of a point: the value, then the ends of its error bar, if any."""
    curves = []
    for one, dash in zip(results, DASHES * len(results)):
        assert one.sweep is not None, "only sweeps have curves"
        exponents, tag = one.sweep.exponents, f"{one.number}. " if len(results) > 1 else ""
        for entry, style in zip(one.sweep.entries, _styles(one), strict=True):
            points = sorted((p for p in one.sweep.points if p.entry == entry), key=lambda p: p.length)
            name, slope = entry, exponents[entry]
            if slopes and slope is not None:
                name = texts.CHART_SLOPE.format(entry=entry, slope=slope)
            y, *ends = zip(*map(values, points)) if points else ((),)
            curves.append(Curve(tag + name, [p.length for p in points], y, style, dash, True, *ends))
    return curves
