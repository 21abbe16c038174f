"""A Plotly figure that leaves a plain picture behind.

A saved notebook, an exported page or a viewer without scripts cannot draw a Plotly figure. So `show` gives two
outputs: the figure, and the same curves, bars or squares drawn by matplotlib. Where the figure is drawn, a style
rule hides the picture.

What the picture knows: scatter (lines, markers), bar and heatmap; titles, ranges and log axes; the lines that
`add_hline` and `add_vline` draw, with their annotations.
"""

from __future__ import annotations

import base64
import html
import io
import sys
from contextlib import suppress
from typing import Any, cast

try:
    import matplotlib.pyplot as plt
    import plotly.colors
    import plotly.graph_objects as go
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LinearSegmentedColormap
except ImportError as error:  # the notebooks' extra
    raise ImportError("the lessons need plotly and matplotlib: pip install plotly matplotlib") from error

HEIGHT = 400  # pixels, where a figure does not say
HIDDEN = ".jp-OutputArea:has(.js-plotly-plot) .plain-picture { display: none }"
DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "solid": "-"}


def show(figure: go.Figure, alt: str = "") -> None:
    """Display `figure` and the picture that stands in for it; `alt` says in words what is to be seen.

    Raises ValueError for a kind of trace that the picture does not know.
    """
    from IPython.display import HTML, display

    layout: Any = figure.layout
    if layout.height is None:
        figure.update_layout(height=HEIGHT)
    if layout.margin.t is None:
        figure.update_layout(
            margin_t=60 if _text(layout.title) else 30
        )  # no room for a title that is not there
    png = base64.b64encode(picture(figure)).decode()
    import_jsonschema()
    words = html.escape(alt or describe(figure), quote=True)
    display(figure)
    display(
        HTML(
            f"<style>{HIDDEN}</style>"
            f'<img class="plain-picture" alt="{words}" src="data:image/png;base64,{png}">'
        )
    )


def import_jsonschema() -> None:
    """Import what Plotly imports for its first figure, through nbformat, without waiting for its grammars.

    It would have rfc3987_syntax compile 39 of them, to check international addresses: four seconds, for a check that
    nobody asks for. Where that module is missing, jsonschema does without.
    """
    if "jsonschema" in sys.modules or "rfc3987_syntax" in sys.modules:
        return
    sys.modules["rfc3987_syntax"] = cast(Any, None)  # to import it fails
    try:
        with suppress(ImportError):
            import jsonschema  # noqa: F401
    finally:
        del sys.modules["rfc3987_syntax"]


def describe(figure: go.Figure) -> str:
    """The axes and the names of the curves, for a reader who does not see them."""
    layout: Any = figure.layout
    axes = f"{_text(layout.yaxis.title) or 'y'} against {_text(layout.xaxis.title) or 'x'}"
    names = ", ".join(trace.name for trace in figure.data if trace.name)
    return ": ".join(filter(None, [_text(layout.title), axes, names]))


def picture(figure: go.Figure) -> bytes:
    """The figure as a PNG by matplotlib."""
    layout: Any = figure.layout
    drawn, axes = plt.subplots(figsize=((layout.width or 770) / 110, (layout.height or HEIGHT) / 110))
    try:
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
        file = io.BytesIO()
        drawn.savefig(file, format="png", dpi=90, bbox_inches="tight")
        return file.getvalue()
    finally:
        plt.close(drawn)


def _draw(axes: Axes, trace: Any, bars: int) -> None:
    """One trace; bars: how many traces of them stand side by side at each place."""
    if trace.type == "bar":
        rank, width = sum(len(container) > 0 for container in axes.containers), 0.8 / bars
        places = [i + width * (rank - (bars - 1) / 2) for i in range(len(trace.y))]
        axes.bar(places, list(trace.y), width=width, label=trace.name)
        axes.set_xticks(range(len(trace.x)), [str(x) for x in trace.x])
    elif trace.type == "heatmap":
        image = axes.imshow(
            trace.z,
            aspect="auto",
            origin="lower",
            vmin=trace.zmin,
            vmax=trace.zmax,
            cmap=_colors(trace.colorscale),
        )
        axes.figure.colorbar(image, ax=axes)
        for labels, place in ((trace.x, axes.set_xticks), (trace.y, axes.set_yticks)):
            if labels is not None and len(labels) <= 40:
                place(range(len(labels)), [str(label) for label in labels])
        axes.tick_params(axis="x", labelrotation=90 if trace.x is not None and len(trace.x) > 10 else 0)
    elif trace.type in ("scatter", "scattergl"):
        mode = trace.mode or "lines"
        axes.plot(
            list(range(len(trace.y)) if trace.x is None else trace.x),
            list(trace.y),
            marker="o" if "markers" in mode else None,
            linestyle=DASHES.get(trace.line.dash or "solid", "-") if "lines" in mode else "none",
            color=trace.line.color or trace.marker.color or None,
            label=trace.name,
        )
    else:
        raise ValueError(f"a picture of a {trace.type!r} trace is not known; use scatter, bar or heatmap")


def _colors(scale: Any) -> Colormap:
    """Plotly's color scale, pairs of a share and a color, as matplotlib's; Plotly's default without one."""
    pairs = scale or plotly.colors.get_colorscale("Plasma")
    return LinearSegmentedColormap.from_list("scale", [(share, _color(color)) for share, color in pairs])


def _color(color: str) -> Any:
    """What matplotlib understands: a name, #rrggbb, or the numbers of rgb(...) as shares."""
    if not color.startswith("rgb"):
        return color
    return tuple(float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3])


def _dress(axes: Axes, figure: go.Figure) -> None:
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
        if axis.range is not None:
            limit(*([10**end for end in axis.range] if logarithmic else axis.range))
    for note in layout.annotations:
        if note.text and note.yref == "y" and note.y is not None:
            axes.annotate(
                note.text, (0.99, note.y), xycoords=("axes fraction", "data"), ha="right", va="bottom"
            )
    if any(trace.name and trace.type != "heatmap" for trace in figure.data):
        axes.legend()


def _text(title: Any) -> str:
    return (title.text if title is not None else "") or ""
