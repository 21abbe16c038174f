"""Curves drawn by matplotlib on white paper, without its global state: several threads may draw at once.

Names of series come from folders of the user: they are never read as formulas.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from diffuapriel.charts.curves import Panel, round_values
from diffuapriel.charts.palette import PRINT_GRID, PRINT_INK, PRINT_QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = {"solid": "-", "dash": "--", "longdash": "--", "dot": ":", "dashdot": "-.", "longdashdot": "-."}


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure, its size in inches. Raises ImportError, with the command to install it, without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("this picture needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), facecolor="white", **{"dpi": 120, **options})
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, **options: Any) -> bytes:
    """The figure as a PNG. The same figure gives the same bytes with any version of matplotlib."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None}, **options)
    return file.getvalue()


def dress(axes: Axes, title: str = "", grid: Any = "both") -> None:
    """The common look: title at the left, a light grid behind the curves, no frame."""
    axes.set_title(title, fontsize=9, color=PRINT_INK, loc="left", parse_math=False)
    axes.tick_params(labelsize=8, colors=PRINT_QUIET)
    axes.grid(axis=grid, color=PRINT_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(axes: Axes) -> None:
    """A legend without a frame, where something has a name."""
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(fontsize=7, frameon=False).get_texts():
            text.set_parse_math(False)


def draw_panel(axes: Axes, panel: Panel, *, named: bool = True) -> None:
    """Draw a panel on `axes`. Without a title of its own, the name of its y axis is the title. named: with a legend."""
    for curve in panel.curves:
        axes.errorbar(
            curve.x,
            curve.y,
            yerr=curve.spread,
            label=curve.name,
            color=curve.style.color,
            marker=curve.style.marker if curve.markers else None,
            markersize=4,
            capsize=2,
            linestyle=DASHES[curve.dash],
        )
    for level in panel.levels:
        axes.axhline(level.y, color=level.color, linestyle=DASHES[level.dash], linewidth=1.2)
        axes.annotate(
            level.text,
            (0.02 if level.left else 0.98, level.y),
            xycoords=("axes fraction", "data"),
            ha="left" if level.left else "right",
            xytext=(0, 2.5 if level.above else -2.5),  # off the line
            textcoords="offset points",
            va="bottom" if level.above else "top",
            size=6.5,
            color=PRINT_QUIET,
            parse_math=False,
        )
    for number, crossing in enumerate(panel.crossings):
        axes.axvline(crossing.x, color=PRINT_QUIET, linestyle=":", linewidth=1)
        in_right_half = crossing.x > (panel.lengths[0] * panel.lengths[-1]) ** 0.5
        axes.annotate(
            crossing.text,
            (crossing.x, 0.02 + 0.07 * number),
            xycoords=("data", "axes fraction"),
            ha="right" if in_right_half else "left",
            size=6.5,
            color=PRINT_QUIET,
            parse_math=False,
        )
    dress(axes, panel.title or panel.y_title, "y")
    axes.set_xlabel(panel.x_title, fontsize=8, color=PRINT_QUIET)
    if panel.title:
        axes.set_ylabel(panel.y_title, fontsize=8, color=PRINT_QUIET)
    axes.set_xscale("log")
    lengths, values = panel.lengths, panel.values
    axes.set_xticks(lengths, [f"{n // 1024}K" if n % 1024 == 0 else f"{n}" for n in lengths])
    if panel.log_y and values:
        ticks = round_values(values)
        axes.set_yscale("log")
        axes.set_yticks(ticks, [f"{tick:,.10g}{panel.unit}" for tick in ticks])
        axes.set_ylim(min(values) / 1.3, max(values) * 1.4)
    elif values:
        axes.set_ylim(0, 1.08 * max(values))
    axes.minorticks_off()
    if named:
        legend(axes)
