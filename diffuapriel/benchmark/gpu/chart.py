"""The GPU figures as a chart of two panels: Plotly draws it into one offline HTML file, matplotlib into a PNG.

Left: milliseconds per forward pass over length at batch 1. Right: how many times as long DiffuTran with its best
attention kernel takes, with a batch that fills the card; dotted, the most that the roofline allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffuapriel.benchmark.format import BEST, shapes_of
from diffuapriel.benchmark.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, HYBRID, PURE
from diffuapriel.benchmark.report import BenchReport
from diffuapriel.charts.curves import Curve, Panel
from diffuapriel.charts.palette import series_styles

LABELS = {
    PURE: "DiffuApriel",
    HYBRID: "DiffuApriel-H",
    DIFFUTRAN: "DiffuTran, cuDNN first",
    DIFFUTRAN_FLASH_2: "DiffuTran, FlashAttention-2",
}
STYLES = dict(zip(LABELS, series_styles(list(LABELS)), strict=True))


def latency_curves(report: BenchReport) -> list[Curve]:
    """Milliseconds over length at batch 1, one curve per model."""
    curves = []
    for name, label in LABELS.items():
        if points := [(r.length, r.median_ms) for r in report.forward if (r.entry, r.batch) == (name, 1)]:
            lengths, times = zip(*points, strict=True)
            curves.append(Curve(label, lengths, times, STYLES[name]))
    return curves


def speed_curves(report: BenchReport) -> list[Curve]:
    """DiffuTran's time over that of the two Mamba models with a filling batch, measured and by the roofline."""
    curves = []
    for name in (PURE, HYBRID):
        points = []
        for shape in shapes_of(report.forward, filling=True):
            ours, peer = shape.get(name), shape.get(BEST)
            if ours and peer:
                points.append((shape.length, ours.over(peer).median, peer.roofline_ms / ours.roofline_ms))
        if points:
            lengths, measured, allowed = zip(*points, strict=True)
            curves.append(Curve(LABELS[name], lengths, measured, STYLES[name]))
            roofline = f"{LABELS[name]}, roofline"
            curves.append(Curve(roofline, lengths, allowed, STYLES[name], dash="dot", markers=False))
    return curves


def write_chart(report: BenchReport, file: Path) -> None:
    """Draw the chart into `file`, by its ending. Raises ValueError for another ending, or without a forward part."""
    if file.suffix not in (".html", ".png"):
        raise ValueError(f"the chart is {str(file)!r}; the name must end in .html or .png")
    if not report.forward:
        raise ValueError("there is no forward pass among the figures, so there is nothing to draw")
    file.parent.mkdir(parents=True, exist_ok=True)
    title = f"{report.preset} on one {report.machine.device}, {report.dtype}"
    latency, speed = "Forward pass, batch 1", "Speed over DiffuTran, filling batch"
    panels = (
        Panel("ms", latency_curves(report), latency, hover="%{y:.4~g} ms"),
        Panel("times as long", speed_curves(report), speed, log_y=False, hover="%{y:.2f}x"),
    )
    write = _write_html if file.suffix == ".html" else _write_png
    write(title, panels, file)


def _write_html(title: str, panels: Sequence[Panel], file: Path) -> None:
    try:
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise ImportError("the HTML chart needs plotly: pip install plotly (the PNG does not)") from error
    from diffuapriel.charts.plotly import draw_panel, layout

    titles = [panel.title for panel in panels]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.09)
    for column, (panel, legend) in enumerate(zip(panels, ("legend", "legend2")), start=1):
        draw_panel(figure, panel, row=1, col=column, legend=legend)
    box = {"bgcolor": "rgba(255,255,255,0.8)", "yanchor": "top", "y": 0.98}
    figure.update_layout(
        **{**layout(520), "margin": {"t": 90}, "paper_bgcolor": "white"},
        title={"text": title, "x": 0.01},
        legend2={**box, "x": 0.56},
    )
    figure.update_layout(legend={**box, "x": 0.01, "orientation": "v"})
    figure.write_html(file, include_plotlyjs=True, full_html=True)


def _write_png(title: str, panels: Sequence[Panel], file: Path) -> None:
    from diffuapriel.charts.matplotlib import draw_panel, new_figure, to_png

    figure = new_figure(12, 4.8, dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=13)
    for axes, panel in zip(figure.subplots(1, 2), panels):
        draw_panel(axes, panel)
    file.write_bytes(to_png(figure))
