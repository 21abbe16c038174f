"""Steps against quality: what a visitor asks for, as checked values, and how a measurement under way is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.quality import charts
from app.server.limits import Limits, Setting, Settings, read, sampler_settings, setting, several
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from app.ui import render
from diffuapriel.options import Option

if TYPE_CHECKING:
    from diffuapriel.evaluation.steps_quality import QualityEvent
    from diffuapriel.sampling.config import SamplerConfig

STEP_CHOICES = (4, 8, 16, 32, 64, 128)
MIN_WINDOWS, MAX_WINDOWS = 4, 64
MOST_LINES = 8  # strategies, and numbers of steps
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

    asked = read(curve_settings(models, limits), values)
    model_entry = asked["writer"]
    level = model_entry.tales_level
    assert level is not None, "only models of tales are offered"
    length = min(model_entry.window or WINDOW, limits.max_tokens)
    configs = plan(
        list(dict.fromkeys(asked["strategies"])),
        asked["steps"],
        length,
        top_p=None if asked["top_p"] == 1.0 else asked["top_p"],
        seed=asked["seed"],
    )
    return CurveRequest(model_entry, level, length, asked["windows"], configs)


def writers(models: Models) -> list[str]:
    """Labels of the checkpoints that write tales: what they write can be read by the grammar."""
    return [label for label in models.trained if models.find(label).tales_level is not None]


def drawn(event: QualityEvent, names: Sequence[str], truth: float) -> Any:
    """The chart's update: hidden until there is a point."""
    return gr.update(value=charts.quality_chart(event.points, names, truth), visible=bool(event.points))


def running(event: QualityEvent, seconds: float) -> str:
    """The progress bar, and how long the rest will take at the pace so far."""
    left = seconds * (1 - event.fraction) / event.fraction if event.fraction > 0.02 else None
    line = texts.QUALITY_PROGRESS.format(strategy=event.strategy, steps=event.steps, step=event.step)
    rest = "" if left is None else texts.QUALITY_LEFT.format(seconds=left)
    return render.progress(event.fraction, line + rest)
