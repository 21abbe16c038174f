"""Steps against quality: what a visitor asks for, as checked values, and how a measurement under way is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.quality import charts
from app.server import limits as check
from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models
from app.strings import en as texts
from app.ui import render

if TYPE_CHECKING:
    from diffuapriel.evaluation.steps_quality import QualityEvent
    from diffuapriel.sampling.config import SamplerConfig

STEP_CHOICES = (4, 8, 16, 32, 64, 128)
MIN_WINDOWS, MAX_WINDOWS = 4, 64
WINDOW = 128  # tokens, of a checkpoint that does not say what it was trained on


@dataclass(frozen=True)
class CurveRequest:
    """The points that a visitor asked for, after every value has been checked."""

    model_entry: ModelEntry
    level: int
    length: int
    windows: int
    configs: list[SamplerConfig]


def read_curves(
    models: Models,
    limits: Limits,
    model: Any,
    strategies: Any,
    steps: Any,
    windows: Any,
    top_p: Any,
    seed: Any,
) -> CurveRequest:
    """Check every value as it came from the page. Raises Refused that names the first bad one."""
    from diffuapriel.evaluation.steps_quality import plan
    from diffuapriel.sampling.config import STRATEGIES

    model_entry = models.find(model, writers(models))
    level = model_entry.tales_level
    assert level is not None, "only models of tales are offered"
    kinds = [check.choice("strategy", s, STRATEGIES) for s in _several("strategies", strategies)]
    counts = [check.whole_number("steps", n, 1, limits.max_steps) for n in _several("steps", steps)]
    share = check.number("top-p", top_p, 0.01, 1.0)
    length = min(model_entry.window or WINDOW, limits.max_tokens)
    return CurveRequest(
        model_entry=model_entry,
        level=level,
        length=length,
        windows=check.whole_number("windows", windows, MIN_WINDOWS, MAX_WINDOWS),
        configs=plan(
            list(dict.fromkeys(kinds)),
            counts,
            length,
            top_p=None if share == 1.0 else share,
            seed=check.whole_number("seed", seed, 0, check.MAX_SEED),
        ),
    )


def _several(name: str, values: Any) -> Sequence[Any]:
    if not isinstance(values, list) or not 1 <= len(values) <= 8:
        raise Refused(f"{name} are {check.shown(values)}; choose one to eight")
    return values


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
