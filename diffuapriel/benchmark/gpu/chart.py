"""The GPU figures as one picture, twice: Plotly for the browser (one HTML file, offline), matplotlib for a PNG.

Left: milliseconds of a forward pass over length at batch 1, log axes. Right: how many times as long DiffuTran with
its best attention kernel takes, with a batch that fills the card, and, dotted, the most that the bound allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffuapriel.benchmark.gpu.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, HYBRID, PURE
from diffuapriel.benchmark.gpu.report import shapes_of
from diffuapriel.benchmark.gpu.results import GpuReport
from diffuapriel.benchmark.gpu.targets import best_diffutran

LABELS = {
    PURE: "DiffuApriel",
    HYBRID: "DiffuApriel-H",
    DIFFUTRAN: "DiffuTran, cuDNN first",
    DIFFUTRAN_FLASH_2: "DiffuTran, FlashAttention-2",
}
COLORS = {PURE: "#1590b4", HYBRID: "#7d6bd6", DIFFUTRAN: "#d9730d", DIFFUTRAN_FLASH_2: "#8a8f98"}
MARKERS = {PURE: "o", HYBRID: "s", DIFFUTRAN: "D", DIFFUTRAN_FLASH_2: "^"}
SYMBOLS = {PURE: "circle", HYBRID: "square", DIFFUTRAN: "diamond", DIFFUTRAN_FLASH_2: "triangle-up"}
TITLES = ("Forward pass, batch 1", "Speed over DiffuTran, filling batch")
INK, GRID = "#24292f", "#e3e6ea"


@dataclass(frozen=True)
class Curve:
    """One line of a panel; `bound` lines are dotted and have no markers."""

    racer: str
    x: tuple[int, ...]
    y: tuple[float, ...]
    bound: bool = False

    @property
    def label(self) -> str:
        """As the legend has it."""
        return f"{LABELS[self.racer]}, bound" if self.bound else LABELS[self.racer]


def latency_curves(report: GpuReport) -> list[Curve]:
    """Milliseconds over length at batch 1, a curve a racer."""
    curves = []
    for racer in LABELS:
        rows = [row for row in report.forward if (row.racer, row.batch) == (racer, 1)]
        if rows:
            curves.append(
                Curve(racer, tuple(row.length for row in rows), tuple(row.median_ms for row in rows))
            )
    return curves


def speed_curves(report: GpuReport) -> list[Curve]:
    """DiffuTran's time over that of the two Mamba models with a filling batch, measured and by the bound."""
    curves = []
    for racer in (PURE, HYBRID):
        points = []
        for length, batch in shapes_of(report.forward, filling=True):
            ours, peer = report.find("forward", racer, length, batch), best_diffutran(report, length, batch)
            if ours and peer:
                points.append((length, ours.over(peer)[0], peer.bound_ms / ours.bound_ms))
        if points:
            lengths, measured, allowed = zip(*points, strict=True)
            curves += [Curve(racer, lengths, measured), Curve(racer, lengths, allowed, bound=True)]
    return curves


def write_chart(report: GpuReport, file: Path) -> None:
    """Draw the chart into `file`, by its ending. Raises ValueError for another ending, or without a forward part."""
    writers: dict[str, Callable[[GpuReport, Path], None]] = {".html": _write_html, ".png": _write_png}
    if file.suffix not in writers:
        raise ValueError(f"the chart is {str(file)!r}; the name must end in .html or .png")
    if not report.forward:
        raise ValueError("there is no forward pass among the figures, so there is nothing to draw")
    file.parent.mkdir(parents=True, exist_ok=True)
    writers[file.suffix](report, file)


def _ticks(curves: list[Curve]) -> tuple[list[int], list[str]]:
    lengths = sorted({x for curve in curves for x in curve.x})
    return lengths, [f"{n:,}" for n in lengths]


def _write_html(report: GpuReport, file: Path) -> None:
    try:
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise ImportError("the HTML chart needs plotly: pip install plotly (the PNG does not)") from error
    figure: Any = make_subplots(rows=1, cols=2, subplot_titles=TITLES, horizontal_spacing=0.09)
    for column, curves in ((1, latency_curves(report)), (2, speed_curves(report))):
        for curve in curves:
            figure.add_scatter(
                row=1,
                col=column,
                x=curve.x,
                y=curve.y,
                name=curve.label,
                legend=f"legend{column}" if column > 1 else "legend",
                mode="lines" if curve.bound else "lines+markers",
                line={"color": COLORS[curve.racer], "width": 2.5, "dash": "dot" if curve.bound else "solid"},
                marker={"symbol": SYMBOLS[curve.racer], "size": 8},
                hovertemplate="%{y:.4~g} ms" if column == 1 else "%{y:.2f}x",
            )
        values, texts = _ticks(curves)
        axis = {"gridcolor": GRID, "linecolor": INK, "ticks": "outside"}
        ticks = {"tickvals": values, "ticktext": texts}
        figure.update_xaxes(type="log", title="length in tokens", row=1, col=column, **axis, **ticks)
        figure.update_yaxes(
            type="log" if column == 1 else "linear",
            title="ms" if column == 1 else "times as long",
            rangemode="tozero" if column == 2 else "normal",
            dtick=1,  # a power of ten, and once as fast
            row=1,
            col=column,
            **axis,
        )
    box = {"bgcolor": "rgba(255,255,255,0.8)", "yanchor": "top", "y": 0.98}
    figure.update_layout(
        template="plotly_white",
        height=520,
        title={"text": _title(report), "x": 0.01},
        font={"family": "system-ui, sans-serif", "color": INK},
        legend={**box, "x": 0.01},
        legend2={**box, "x": 0.56},
    )
    figure.write_html(file, include_plotlyjs=True, full_html=True)


def _write_png(report: GpuReport, file: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the PNG chart needs matplotlib: pip install matplotlib") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    with matplotlib.rc_context({"font.size": 11, "axes.edgecolor": INK, "text.color": INK}):
        figure = Figure(figsize=(12, 4.8), dpi=150, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(_title(report), fontsize=13)
        panels = figure.subplots(1, 2)
        for panel, title, curves in zip(panels, TITLES, (latency_curves(report), speed_curves(report))):
            for curve in curves:
                style: dict[str, Any] = (
                    {"linestyle": ":"} if curve.bound else {"marker": MARKERS[curve.racer]}
                )
                panel.plot(
                    curve.x, curve.y, color=COLORS[curve.racer], linewidth=2, label=curve.label, **style
                )
            values, texts = _ticks(curves)
            panel.set_xscale("log", base=2)
            panel.set_xticks(values, texts)
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_title(title)
            panel.set_xlabel("length in tokens")
            panel.grid(color=GRID)
            panel.set_axisbelow(True)
            if curves:
                panel.legend(frameon=False)
        panels[0].set_yscale("log")
        panels[0].set_ylabel("ms")
        panels[1].set_ylim(bottom=0)
        panels[1].set_ylabel("times as long")
        figure.savefig(file)


def _title(report: GpuReport) -> str:
    return f"{report.preset} on one {report.machine.device}, {report.dtype}"
