"""Measured results as one picture: a block for each result, what was fair in small print below.

Drawn on white with matplotlib, without its global state (several visitors may ask at once). Names come from
folders of the user's: they are never read as formulas.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.strings.language import texts
from app.ui.chart import COLORS, round_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from app.race.store import Kept
    from diffuapriel.benchmark.result import RaceResult

MARKS = ("o", "D", "s")
INK, QUIET, GRID = "#1f2328", "#57606a", "#d8dee4"
WIDTH, PLOT, LINE = 11.0, 3.4, 0.17  # inches: page, height of the plots, a line of small print
CHARACTERS = 150  # of a line of small print


def draw(kept: Sequence[Kept], path: str | Path) -> None:
    """Write the picture of one result or several to `path` as PNG. ValueError for none."""
    from matplotlib.figure import Figure

    if not kept:
        raise ValueError("there is no result to draw; choose at least one")
    prints = [_small_print(one) for one in kept]
    heights = [PLOT + 0.7 + LINE * len(lines) for lines in prints]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=150, facecolor="white")
    top = 1.0
    for one, lines, height in zip(kept, prints, heights, strict=True):
        share = height / sum(heights)
        _block(figure, one, lines, top, share, height)
        top -= share
    figure.savefig(path, format="png")


def _small_print(kept: Kept) -> list[str]:
    from diffuapriel.benchmark.verdict import verdicts

    said = verdicts(kept.sweep, kept.facts) if kept.sweep else []
    sentences = [*said, *kept.fairness(), kept.measured]
    return [line for sentence in sentences for line in textwrap.wrap(sentence, CHARACTERS)]


def _block(figure: Any, kept: Kept, lines: list[str], top: float, share: float, height: float) -> None:
    """One result between `top` and `top - share` of the figure; `height` is that share in inches."""
    inch = share / height
    figure.text(
        0.02,
        top - 0.12 * inch,
        textwrap.shorten(kept.title, 105, placeholder=" …"),
        va="top",
        size=11,
        weight="bold",
        color=INK,
        parse_math=False,
    )
    bottom = top - (PLOT - 0.1) * inch
    plots = (PLOT - 0.75) * inch
    if kept.race:
        _race(figure.add_axes((0.25, bottom, 0.70, plots)), kept.race)
    else:
        _sweep(figure, kept, bottom, plots)
    figure.text(
        0.02,
        top - (PLOT + 0.45) * inch,
        "\n".join(lines),
        va="top",
        size=7.5,
        color=QUIET,
        linespacing=1.35,
        parse_math=False,
    )


def _race(axes: Axes, race: RaceResult) -> None:
    """Bars of milliseconds per step, fastest first, with least and most of the runs."""
    entries = sorted(race.entries, key=lambda entry: entry.seconds)
    colors = {entry.name: COLORS[i % len(COLORS)] for i, entry in enumerate(race.entries)}
    times = [entry.ms_per_step for entry in entries]
    per_step = [1000 / len(entry.step_ms) for entry in entries]
    spread = [
        [max(0.0, t - entry.seconds_min * f) for t, entry, f in zip(times, entries, per_step)],
        [max(0.0, entry.seconds_max * f - t) for t, entry, f in zip(times, entries, per_step)],
    ]
    rows = list(range(len(entries)))
    axes.barh(
        rows, times, xerr=spread, height=0.55, color=[colors[entry.name] for entry in entries], ecolor=INK
    )
    axes.set_yticks(rows, [textwrap.fill(entry.name, 26) for entry in entries], parse_math=False)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_xlim(0, 1.28 * max(t + more for t, more in zip(times, spread[1])))
    for row, entry in enumerate(entries):
        words = texts.LANE_NOTE.format(ms=entry.ms_per_step, rate=entry.tokens_per_second)
        axes.annotate(
            words,
            (times[row] + spread[1][row], row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=INK,
        )
    _dress(axes, texts.CHART_STEP, "x")


def _sweep(figure: Any, kept: Kept, bottom: float, height: float) -> None:
    """Latency, tokens/s and, where DiffuTran runs, the speed over it, side by side."""
    from diffuapriel.benchmark.verdict import baseline_of

    sweep, baseline = kept.sweep, baseline_of(kept.facts)
    assert sweep is not None, "a result is of a race or of a sweep"
    several = baseline is not None and len(kept.facts) > 1
    wide = 0.26 if several else 0.41
    places = [(0.06 + i * (wide + 0.07), bottom, wide, height) for i in range(3 if several else 2)]
    latency, rate = (figure.add_axes(place) for place in places[:2])
    for i, entry in enumerate(sweep.entries):
        look = {"color": COLORS[i % len(COLORS)], "marker": MARKS[i % len(MARKS)], "markersize": 4}
        points = sorted((p for p in sweep.points if p.entry == entry), key=lambda p: p.length)
        lengths, exponent = [p.length for p in points], sweep.exponents[entry]
        name = entry if exponent is None else texts.CHART_SLOPE.format(entry=entry, slope=exponent)
        low, high = [p.ms - p.ms_min for p in points], [p.ms_max - p.ms for p in points]
        latency.errorbar(lengths, [p.ms for p in points], yerr=[low, high], capsize=2, **look)
        rate.plot(lengths, [p.tokens_per_second for p in points], label=name, **look)
    for cross in sweep.crossovers:
        if cross.length is not None:
            latency.axvline(cross.length, color=QUIET, linestyle=":", linewidth=1)
    times, rates = zip(*((p.ms, p.tokens_per_second) for p in sweep.points))
    for axes, title, values in ((latency, texts.CHART_LATENCY, times), (rate, texts.CHART_RATE, rates)):
        _logarithmic(axes, kept, list(values))
        _dress(axes, title, "y")
    legend = rate.legend(fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    if several:
        assert baseline is not None, "several entries are held against a baseline"
        _ratios(figure.add_axes(places[2]), kept, baseline.name)


def _ratios(axes: Axes, kept: Kept, baseline: str) -> None:
    from diffuapriel.benchmark.verdict import published_ratios, speed_ratios

    assert kept.sweep is not None, "a result is of a race or of a sweep"
    colors: dict[str, str] = {}
    for i, entry in enumerate(kept.facts):
        ratios = speed_ratios(kept.sweep, entry.name, baseline)
        if entry.name == baseline or not ratios:
            continue
        look = {"color": COLORS[i % len(COLORS)], "marker": MARKS[i % len(MARKS)], "markersize": 4}
        axes.plot(list(ratios), list(ratios.values()), **look)
        colors.setdefault(entry.architecture, look["color"])
    axes.axhline(1, color=INK, linewidth=1)
    for line in published_ratios(set(colors)):
        axes.axhline(line.ratio, color=colors[line.architecture], linestyle=":", linewidth=1.2)
        words = texts.CHART_PAPER.format(version=line.version, ratio=line.ratio, entry=line.architecture)
        left = line.version == "v1"  # figures of different versions nearly meet
        place = {"xycoords": ("axes fraction", "data"), "ha": "left" if left else "right"}
        place["va"] = "bottom" if left else "top"
        axes.annotate(words, (0.02 if left else 0.98, line.ratio), size=6.5, color=QUIET, **place)
    low, high = axes.dataLim.intervaly
    _logarithmic(axes, kept, [low, high, *(line.ratio for line in published_ratios(set(colors)))])
    _dress(axes, texts.CHART_RATIO.format(baseline=baseline), "y")


def _logarithmic(axes: Axes, kept: Kept, values: list[float]) -> None:
    """Both axes logarithmic, ticks at the measured lengths and at round values."""
    assert kept.sweep is not None, "a result is of a race or of a sweep"
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(texts.CHART_LENGTH, fontsize=8, color=QUIET)
    lengths = sorted({point.length for point in kept.sweep.points})
    axes.set_xticks(lengths, [f"{n // 1024}K" if n >= 1024 else f"{n}" for n in lengths])
    ticks = round_ticks(values)
    axes.set_yticks(ticks["tickvals"], ticks["ticktext"])
    axes.set_ylim(min(values) / 1.3, max(values) * 1.4)
    axes.minorticks_off()


def _dress(axes: Axes, title: str, along: Any) -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left", parse_math=False)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.grid(axis=along, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
