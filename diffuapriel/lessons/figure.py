"""A Plotly figure with a plain picture beside it.

A saved notebook, an exported page or a viewer without scripts cannot draw a Plotly figure. So `show` gives two
outputs: the figure, and the same traces drawn by matplotlib. Where the figure is drawn, a style rule hides the
picture.

The picture knows scatter (lines, markers), bar and heatmap traces with their error bars; titles, ranges and log axes;
the lines of `add_hline` and `add_vline`, and annotations.

All figures share one look: an architecture has its own color and marker everywhere, other curves take other colors; a
logarithmic axis has its ticks where something was measured; curves that end apart are labeled where they end; a matrix
has its first row at the top; a percentage goes from 0 to 100.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

try:
    import plotly.colors
    import plotly.graph_objects as go
    import plotly.io
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
except ImportError as error:  # the notebooks' extra
    raise ImportError("the lessons need plotly and matplotlib: pip install plotly matplotlib") from error

from diffuapriel.charts.matplotlib import DASHES, new_figure, to_png
from diffuapriel.charts.palette import ARCHITECTURES, OTHERS

HEIGHT = 400  # pixels, where a figure does not say
HIDDEN = ".jp-OutputArea:has(.js-plotly-plot) .plain-picture { display: none }"
JUPYTER = "plotly_mimetype"  # Plotly's renderer in JupyterLab
MOST_TICKS = 10  # of a logarithmic axis, at what was measured
LABELS = 45  # characters below a picture, from which on they are slanted
APART = 0.07  # of the axis: curves whose ends are that far apart are labeled there


def error_bars(values: Sequence[float], intervals: Sequence[tuple[float, float]], scale: float = 1.0) -> dict:
    """`error_y` of a trace: the bars from each interval's lower end to its upper end; both times `scale`."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, scale * high - value) for value, (_, high) in zip(values, intervals)],
        "arrayminus": [max(0.0, value - scale * low) for value, (low, _) in zip(values, intervals)],
        "thickness": 1.2,
        "width": 3,
    }


def side_by_side(
    matrices: dict[str, Sequence[Sequence[float]]], rows: Sequence, columns: Sequence, **how: Any
) -> go.Figure:
    """Matrices of the same size beside each other, each below its name; `how` goes to the heatmap."""
    width = len(columns) + 1  # with a gap
    z = [[value for part in matrices.values() for value in (*part[r], math.nan)][:-1] for r in range(len(rows))]
    figure = go.Figure(go.Heatmap(z=z, y=[str(row) for row in rows], **how))
    at = [i for i in range(len(z[0])) if i % width < len(columns)]
    figure.update_xaxes(tickvals=at, ticktext=[str(columns[i % width]) for i in at], showgrid=False)
    figure.update_yaxes(showgrid=False).update_layout(plot_bgcolor="rgba(0,0,0,0)")
    for i, name in enumerate(matrices):
        figure.add_annotation(x=i * width - 0.5, y=-0.75, text=name, showarrow=False, xanchor="left")
    return figure


def show(figure: go.Figure, alt: str = "") -> None:
    """Display `figure` and its plain picture; `alt` describes it for readers who see neither.

    Raises ValueError for a kind of trace that the picture does not know.
    """
    from IPython.display import HTML, display

    layout: Any = figure.layout
    if layout.height is None:
        figure.update_layout(height=HEIGHT)
    if layout.margin.t is None:
        figure.update_layout(margin_t=60 if _text(layout.title) else 30)  # no room for a missing title
    _dress_alike(figure)
    png = base64.b64encode(picture(figure)).decode()
    words = html.escape(alt or describe(figure), quote=True)
    if plotly.io.renderers.default == JUPYTER:
        # The renderer's own `display` imports nbformat first, which takes a second.
        display({"application/vnd.plotly.v1+json": json.loads(str(figure.to_json()))}, raw=True)
    else:
        display(figure)
    image = f'<img class="plain-picture" alt="{words}" src="data:image/png;base64,{png}">'
    display(HTML(f"<style>{HIDDEN}</style>{image}"))


def _dress_alike(figure: go.Figure) -> None:
    """The common look, where the figure does not say otherwise."""
    figure.update_layout(colorway=[style.color for style in OTHERS])
    curves = [trace for trace in figure.data if trace.type in ("scatter", "scattergl", "bar")]
    for trace in curves:
        style = ARCHITECTURES.get((trace.name or "").split(",")[0])
        if style is None:
            continue
        if trace.marker.color is None and (trace.type == "bar" or trace.line.color is None):
            trace.update(marker_color=style.color)
            if trace.type != "bar":
                trace.update(line_color=style.color, marker_symbol=style.symbol)
    layout: Any = figure.layout
    if any(trace.type == "heatmap" for trace in figure.data) and layout.yaxis.autorange is None:
        figure.update_yaxes(autorange="reversed")
    if _text(layout.yaxis.title).startswith("% ") and layout.yaxis.range is None:
        figure.update_yaxes(range=[-3, 105])
    measured = sorted({x for trace in curves if trace.x is not None for x in trace.x if isinstance(x, (int, float))})
    if layout.xaxis.type == "log" and layout.xaxis.tickvals is None and 2 <= len(measured) <= MOST_TICKS:
        figure.update_xaxes(tickvals=measured, ticktext=[f"{x:,g}" if x < 1e6 else f"{x:.0e}" for x in measured])

    for note in layout.annotations:  # Plotly places lines by their value, but their texts by its logarithm
        if note.yref == "y" and layout.yaxis.type == "log" and note.y is not None and note.y > 0:
            note.y = math.log10(note.y)
    _label_ends(figure)


def _label_ends(figure: go.Figure) -> None:
    """Labels at the right ends of curves instead of a legend, where all traces are curves whose ends are apart."""
    layout: Any = figure.layout
    curves = [trace for trace in figure.data if trace.name and trace.type == "scatter" and trace.x is not None]
    if not 2 <= len(curves) <= 6 or len(curves) < len(figure.data) or layout.showlegend is not None:
        return
    if any(len(trace.y) < 2 or "lines" not in (trace.mode or "lines") for trace in curves):
        return
    if any(isinstance(trace.x[-1], str) for trace in curves):
        return
    logs = [axis.type == "log" for axis in (layout.xaxis, layout.yaxis)]
    values = [value for trace in curves for value in trace.y if value is not None]
    if (logs[1] and min(values) <= 0) or min(values) == max(values):
        return
    scaled = (lambda value: math.log10(value)) if logs[1] else float
    span = scaled(max(values)) - scaled(min(values))
    heights = sorted(scaled(trace.y[-1]) for trace in curves)
    if any(upper - lower < APART * span for lower, upper in pairwise(heights)):
        return
    for trace in curves:
        x = math.log10(trace.x[-1]) if logs[0] else trace.x[-1]
        color = {"color": trace.line.color} if trace.line.color else {}
        style = {"showarrow": False, "xanchor": "left", "xshift": 6, "font": color}
        figure.add_annotation(x=x, y=scaled(trace.y[-1]), text=trace.name, **style)
    figure.update_layout(showlegend=False, margin_r=130)


def describe(figure: go.Figure) -> str:
    """The axes and the names of the curves, for a reader who does not see them."""
    layout: Any = figure.layout
    axes = f"{_text(layout.yaxis.title) or 'y'} against {_text(layout.xaxis.title) or 'x'}"
    names = ", ".join(trace.name for trace in figure.data if trace.name)
    return ": ".join(filter(None, [_text(layout.title), axes, names]))


def picture(figure: go.Figure) -> bytes:
    """The figure as a PNG by matplotlib."""
    return to_png(redrawn(figure), bbox_inches="tight")


def redrawn(figure: go.Figure) -> Figure:
    """The figure as matplotlib draws it."""
    layout: Any = figure.layout
    drawn = new_figure((layout.width or 770) / 110, (layout.height or HEIGHT) / 110, dpi=90)
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if layout.colorway:
        axes.set_prop_cycle(color=list(layout.colorway))
    bars = sum(trace.type == "bar" for trace in figure.data)
    for trace in figure.data:
        _draw(axes, trace, bars)
    for shape in layout.shapes:
        style = {"linestyle": DASHES.get(shape.line.dash, "-"), "color": "gray", "linewidth": 1}
        if shape.y0 == shape.y1:
            axes.axhline(shape.y0, **style)
        elif shape.x0 == shape.x1:
            axes.axvline(shape.x0, **style)
    _dress(axes, figure)
    return drawn


def _draw(axes: Axes, trace: Any, bars: int) -> None:
    """One trace; `bars`: how many bar traces share each position."""
    if trace.type == "bar":
        rank, width = sum(isinstance(drawn, BarContainer) for drawn in axes.containers), 0.8 / bars
        left = [i + width * (rank - (bars - 1) / 2) for i in range(len(trace.y))]
        axes.bar(left, list(trace.y), width=width, label=trace.name, color=trace.marker.color, yerr=_errors(trace))
        labels = [str(x) for x in trace.x]
        slanted = {"rotation": 25, "ha": "right"} if sum(map(len, labels)) > LABELS else {}
        axes.set_xticks(range(len(labels)), labels, **slanted)
    elif trace.type == "heatmap":
        scale = trace.colorscale or plotly.colors.get_colorscale("Plasma")
        stops = [(share, _color(color)) for share, color in scale]
        colors = LinearSegmentedColormap.from_list("scale", stops)
        limits = {"vmin": trace.zmin, "vmax": trace.zmax}
        image = axes.imshow(trace.z, aspect="auto", origin="lower", cmap=colors, **limits)
        axes.figure.colorbar(image, ax=axes)
        for labels, set_ticks in ((trace.x, axes.set_xticks), (trace.y, axes.set_yticks)):
            if labels is not None and len(labels) <= 40:
                set_ticks(range(len(labels)), [str(label) for label in labels])
        axes.tick_params(axis="x", labelrotation=90 if trace.x is not None and len(trace.x) > 10 else 0)
    elif trace.type in ("scatter", "scattergl"):
        mode = trace.mode or "lines"
        x, y = list(range(len(trace.y)) if trace.x is None else trace.x), list(trace.y)
        (line,) = axes.plot(
            x,
            y,
            marker="o" if "markers" in mode else None,
            linestyle=DASHES.get(trace.line.dash or "solid", "-") if "lines" in mode else "none",
            color=trace.line.color or trace.marker.color or None,
            label=trace.name,
        )
        if (errors := _errors(trace)) is not None:
            axes.errorbar(x, y, yerr=errors, fmt="none", color=line.get_color(), linewidth=1)
    else:
        raise ValueError(f"a picture of a {trace.type!r} trace is not known; use scatter, bar or heatmap")


def _errors(trace: Any) -> list[list[float]] | None:
    """The error bars of a trace, below and above, or None."""
    bars = trace.error_y
    if bars.array is None:
        return None
    return [list(bars.array if bars.arrayminus is None else bars.arrayminus), list(bars.array)]


def _color(color: str) -> Any:
    """What matplotlib understands: a name, #rrggbb, or the numbers of rgb(...) as shares."""
    if not color.startswith("rgb"):
        return color
    return tuple(float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3])


def _dress(axes: Axes, figure: go.Figure) -> None:
    """Titles, scales, ranges, annotations and legend."""
    layout: Any = figure.layout
    axes.set(xlabel=_text(layout.xaxis.title), ylabel=_text(layout.yaxis.title), title=_text(layout.title))
    for axis, scale, limit, invert in (
        (layout.xaxis, axes.set_xscale, axes.set_xlim, axes.invert_xaxis),
        (layout.yaxis, axes.set_yscale, axes.set_ylim, axes.invert_yaxis),
    ):
        logarithmic = axis.type == "log"
        if logarithmic:
            scale("log")
        if axis.autorange == "reversed":
            invert()
        if axis.tickvals is not None and (logarithmic or axis.ticktext):
            which = axes.xaxis if axis is layout.xaxis else axes.yaxis
            which.set_ticks(list(axis.tickvals), labels=list(axis.ticktext or map(str, axis.tickvals)))
            which.set_ticks([], minor=True)
            if not logarithmic and sum(map(len, axis.ticktext)) > LABELS:
                axes.tick_params(axis="x", labelrotation=25)
        if axis.range is not None:
            limit(*([10**end for end in axis.range] if logarithmic else axis.range))
    for note in layout.annotations:
        if not note.text or note.y is None or note.yref not in (None, "y"):
            continue
        y = 10**note.y if layout.yaxis.type == "log" else note.y
        if note.xref in (None, "x"):  # at the end of a curve
            x = 10**note.x if layout.xaxis.type == "log" else note.x
            near = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
            axes.annotate(note.text, (x, y), color=note.font.color or "black", **near)
        else:
            place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            axes.annotate(note.text, (0.99, y), bbox=ground, **place)
    if layout.showlegend is not False and any(trace.name and trace.type != "heatmap" for trace in figure.data):
        axes.legend()


def _text(title: Any) -> str:
    return (title.text if title is not None else "") or ""
