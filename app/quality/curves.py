"""Steps against quality: what a visitor asks for, as checked values, and how a measurement under way is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.server.limits import Limits, Setting, Settings, read, sampler_settings, setting, several
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from app.ui import render
from diffuapriel.charts.palette import OTHERS
from diffuapriel.charts.plotly import DOTTED, error_bars, in_row, series, stacked
from diffuapriel.options import Option

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from diffuapriel.evaluation.steps_quality import QualityEvent, QualityPoint
    from diffuapriel.sampling.config import SamplerConfig

STEP_CHOICES = (4, 8, 16, 32, 64, 128)
MIN_WINDOWS, MAX_WINDOWS = 4, 64
MOST_LINES = 8  # strategies, and numbers of steps
SHIFT = 1.03  # between points with one number of steps: otherwise their intervals would hide each other
WINDOW = 128  # tokens, of a checkpoint that does not say what it was trained on


@dataclass(frozen=True)
class CurveRequest:
    """The points that a visitor asked for, after every value has been checked."""

    model_entry: ModelEntry
    level: int
    length: int
    windows: int
    configs: list[SamplerConfig]


def curve_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for the curves, in the order of the endpoint."""
    sampler = sampler_settings(limits)
    windows = Option("windows", int, 8, least=MIN_WINDOWS, most=MAX_WINDOWS)
    return {
        "writer": models.setting(writers(models)),
        "strategies": Setting(lambda v: several("strategies", v, MOST_LINES, sampler["strategy"].check)),
        "steps": Setting(lambda v: several("steps", v, MOST_LINES, sampler["steps"].check)),
        "windows": setting(windows),
        "top_p": sampler["top_p"],
        "seed": sampler["seed"],
    }


def read_curves(models: Models, limits: Limits, *values: Any) -> CurveRequest:
    """The checked values of `curve_settings`. Raises Refused, which names the first invalid one."""
    from diffuapriel.evaluation.steps_quality import plan
    from diffuapriel.sampling.config import resolve_blocks

    asked = read(curve_settings(models, limits), values)
    model_entry = asked["writer"]
    level = model_entry.tales_level
    assert level is not None, "only models of tales are offered"
    length = min(model_entry.window or WINDOW, limits.max_tokens)
    known = model_entry.block_lengths
    blocks = resolve_blocks("", None, known=known) if known else {}
    configs = plan(
        list(dict.fromkeys(asked["strategies"])),
        asked["steps"],
        length,
        top_p=None if asked["top_p"] == 1.0 else asked["top_p"],
        seed=asked["seed"],
        **blocks,
    )
    return CurveRequest(model_entry, level, length, asked["windows"], configs)


def writers(models: Models) -> list[str]:
    """Labels of the checkpoints that write tales: what they write can be read by the grammar."""
    return [label for label in models.trained if models.find(label).tales_level is not None]


def drawn(event: QualityEvent, names: Sequence[str], truth: float) -> Any:
    """The chart's update: hidden until there is a point."""
    return gr.update(value=render.localized(quality_chart(event.points, names, truth)), visible=bool(event.points))


def running(event: QualityEvent, seconds: float) -> str:
    """The progress bar, and how long the rest will take at the pace so far."""
    left = seconds * (1 - event.fraction) / event.fraction if event.fraction > 0.02 else None
    line = texts.QUALITY_PROGRESS.format(strategy=event.strategy, steps=event.steps, step=event.step)
    rest = "" if left is None else texts.QUALITY_LEFT.format(seconds=left)
    return render.progress(event.fraction, line + rest)


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
                hovertemplate=texts.QUALITY_HOVER,
                **in_row(row, strategy),
                **series(OTHERS[number], width=2),
            )
    calls = sorted({round(point.calls) for point in points}) or [1, 128]
    level = {"x": [calls[0] / SHIFT**2, calls[-1] * SHIFT**2], "y": [truth, truth], "mode": "lines", "line": DOTTED}
    figure.add_scatter(**level, name=texts.QUALITY_TRUTH, hoverinfo="skip", row=3, col=1)
    figure.update_xaxes(type="log", tickvals=calls, ticktext=[f"{n:,}" for n in calls])
    figure.update_xaxes(title={"text": texts.QUALITY_X}, row=3, col=1)
    for row, title in enumerate(texts.QUALITY_Y, start=1):
        figure.update_yaxes(title={"text": title}, row=row, col=1)
        if row < 3:
            figure.update_yaxes(range=[-4, 104], row=row, col=1)
    return figure
