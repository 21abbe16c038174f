"""Measured results as one picture: one block per result, with the fairness notes in small print below it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.race.charts import latency_panel, rate_panel, ratio_panel
from app.race.outcome import summary
from app.race.store import SavedResult
from app.strings.language import texts
from app.strings.numbers import count, figure
from diffuapriel.charts.matplotlib import draw_panel, dress, new_figure, to_png
from diffuapriel.charts.palette import PRINT_INK, PRINT_QUIET, series_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from diffuapriel.benchmark.result import RaceResult

WIDTH, PLOT, LINE = 11.0, 3.4, 0.17  # inches: page, height of the plots, a line of small print
CHARACTERS = 150  # per line of small print


def draw(results: Sequence[SavedResult], path: str | Path) -> None:
    """Write the picture of the results to `path` as PNG. Raises ValueError for none."""
    if not results:
        raise ValueError("there is no result to draw; choose at least one")
    prints = [_small_print(one) for one in results]
    heights = [PLOT + 0.7 + LINE * len(lines) for lines in prints]
    figure = new_figure(WIDTH, sum(heights), dpi=150)
    top = 1.0
    for one, lines, height in zip(results, prints, heights, strict=True):
        _block(figure, one, lines, top, 1 / sum(heights))
        top -= height / sum(heights)
    Path(path).write_bytes(to_png(figure))


def _small_print(result: SavedResult) -> list[str]:
    sentences = summary(result) if result.sweep else []
    if always := texts.FAIRNESS.get(result.kind):  # a translation, without the facts of this result
        measured = result.race or result.sweep
        assert measured is not None, "a result is that of a race or of a sweep"
        entries = result.race.entries if result.race else result.facts
        counts = ", ".join(f"{entry.name} {count(entry.parameters)}" for entry in entries)
        sentences += [*always, texts.PICTURE_FACTS.format(counts=counts, machine=measured.machine)]
    else:
        sentences += result.fairness()
    sentences.append(result.measured)
    return [line for sentence in sentences for line in textwrap.wrap(sentence, CHARACTERS)]


def _block(figure: Figure, result: SavedResult, lines: list[str], top: float, inch: float) -> None:
    """One result below `top`; `inch` is one inch as a share of the figure's height."""
    title = textwrap.shorten(result.title, 105, placeholder=" …")
    shared = {"va": "top", "parse_math": False}
    figure.text(0.02, top - 0.12 * inch, title, size=11, weight="bold", color=PRINT_INK, **shared)
    bottom, height = top - (PLOT - 0.1) * inch, (PLOT - 0.75) * inch
    if result.race:
        _draw_race(figure.add_axes((0.25, bottom, 0.70, height)), result.race)
    else:
        panels = [latency_panel([result]), rate_panel([result]), ratio_panel(result)]
        panels = [panel for panel in panels if panel is not None]
        width = 0.26 if len(panels) == 3 else 0.41
        for i, panel in enumerate(panels):
            axes = figure.add_axes((0.06 + i * (width + 0.07), bottom, width, height))
            draw_panel(axes, panel, named=i == 0)
            _localize(axes.yaxis)
    place = (0.02, top - (PLOT + 0.45) * inch)
    figure.text(*place, "\n".join(lines), size=7.5, color=PRINT_QUIET, linespacing=1.35, **shared)


def _draw_race(axes: Axes, race: RaceResult) -> None:
    """Bars of milliseconds per step, or per generation where steps differ, fastest first, with their range."""
    styles = series_styles([entry.architecture for entry in race.entries])
    ranked = sorted(zip(race.entries, styles), key=lambda pair: pair[0].seconds)
    entries = [entry for entry, _ in ranked]
    steps = [len(entry.step_ms) if race.equal_steps else 1 for entry in entries]
    times, least, most = (
        [1000 * getattr(entry, name) / count for entry, count in zip(entries, steps)]
        for name in ("seconds", "seconds_min", "seconds_max")
    )
    below = [max(0.0, time - end) for time, end in zip(times, least)]
    above = [max(0.0, end - time) for time, end in zip(times, most)]
    rows = list(range(len(entries)))
    colors = [style.color for _, style in ranked]
    axes.barh(rows, times, xerr=[below, above], height=0.55, color=colors, ecolor=PRINT_INK)
    axes.set_yticks(rows, [textwrap.fill(entry.name, 26) for entry in entries], parse_math=False)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_xlim(0, 1.28 * max(time + more for time, more in zip(times, above)))
    for row, entry in enumerate(entries):
        words = texts.ENTRY_NOTE.format(ms=figure(entry.ms_per_step), rate=entry.tokens_per_second)
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(words, (times[row] + above[row], row), size=8, color=PRINT_INK, **place)
    dress(axes, texts.CHART_STEP if race.equal_steps else texts.CHART_GENERATION, "x")
    _localize(axes.xaxis)


def _localize(axis: Axis) -> None:
    """Write the numbers of an axis as the page's language does."""
    low, high = axis.get_view_interval()
    values = list(axis.get_majorticklocs())
    ticks = zip(values, axis.get_major_formatter().format_ticks(values))
    inside = [(value, texts.figures(label)) for value, label in ticks if low <= value <= high]
    axis.set_ticks([value for value, _ in inside], [label for _, label in inside])
