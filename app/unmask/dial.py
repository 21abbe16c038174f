"""The dial of passes: the points of a model's recorded frontier as stops of a slider, each with its quality in words.

A stop sets strategy, value and block length. The dial stands at the stop whose options the page has, however they came
to be set, and at none for a rule that was not measured. dial.js draws it and sends {"stop": n} as an input event.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gradio as gr

from app.server import limits as check
from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from app.ui.events import SKIP
from app.ui.inputs import scripted
from app.unmask.request import STEPS, UnmaskRequest, read_request
from diffuapriel.sampling.config import ADAPTIVE, STRATEGIES
from diffuapriel.sampling.frontier import Frontier, Measure, TunePoint

SCRIPT = Path(__file__).with_name("dial.js")
SETS = ("strategy", "block", *ADAPTIVE, "steps")  # of `unmask_settings`
SHARES = ("consistent", "grammatical", "distinct", "distinct-3")  # figures of `tune` that are shares of 1


class Dial:
    """The handlers."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits

    def arguments(self, model: ModelEntry) -> dict[str, Any]:
        """Arguments of a `gr.HTML` that is the dial, at the rule that the page proposes for a model."""
        at = None
        if frontier := model.frontier:  # at the rule that the card records
            rules = [frontier.rule(point) for point in stops(frontier)]
            at = next((i for i, rule in enumerate(rules) if rule == dict(model.generation)), None)
        return {**scripted(SCRIPT, value=message(model, at)), "elem_id": "unmask-dial"}

    def follow(self, *values: Any) -> str:
        """The message for the settings on the page, the values of `unmask_settings`."""
        model = self.models.find(values[1], self.models.trained)
        if model.frontier is None:
            return ""
        try:
            asked = read_request(self.models, self.limits, *values)
        except Refused:  # the status line says why when the text or the run is refused
            return message(model, None)
        return message(model, stop_of(asked), differs=differs(asked))

    def turn(self, event: gr.EventData, *values: Any) -> list[Any]:
        """For the stop that a visitor chose: the settings SETS. Raises Refused for one that is not there."""
        model = self.models.find(values[1], self.models.trained)
        if model.frontier is None:
            raise Refused(texts.DIAL_NONE.format(model=model.label))
        chosen = event._data.get("stop") if isinstance(event._data, dict) else event._data
        point = stops(model.frontier)[check.whole_number("stop", chosen, 0, len(model.frontier.points))]
        own: list[Any] = [point.value if name == point.strategy else SKIP for name in ADAPTIVE]
        length = values[2] if isinstance(values[2], int) else 0
        steps = min(max(STEPS, length), self.limits.max_steps) if point is model.frontier.reference else SKIP
        return [point.strategy, point.block_length or 0, *own, steps]


def stops(frontier: Frontier) -> tuple[TunePoint, ...]:
    """The points from one token per pass to the boldest."""
    return frontier.reference, *frontier.points


def stop_of(asked: UnmaskRequest) -> int | None:
    """The stop whose rule a request has; None for a rule that was not measured."""
    frontier, config = asked.model.frontier, asked.config
    assert frontier is not None, "only a model with a frontier has stops"
    for number, point in enumerate(stops(frontier)):
        if (point.strategy, point.block_length) != (config.strategy, config.block_length):
            continue
        if point.strategy in ADAPTIVE:
            found = math.isclose(getattr(config, point.strategy), point.value or 0.0, abs_tol=1e-9)
        else:  # one token per pass takes as many steps as there are masks
            found = point.strategy not in STRATEGIES or config.steps >= int(asked.canvas().masked.sum())
        if found:
            return number
    return None


def differs(asked: UnmaskRequest) -> bool:
    """Whether tokens are drawn in another way than when the frontier was measured."""
    frontier, config = asked.model.frontier, asked.config
    assert frontier is not None, "only a model with a frontier has been measured"
    measured = frontier.temperature, frontier.top_p, None
    return (config.temperature, config.top_p, config.top_k) != measured


def message(model: ModelEntry, at: int | None, *, differs: bool = False) -> str:
    """The message of dial.js; "" for a model without a frontier, which has no dial.

    {"model", "label", "own", "at": number of a stop or null, "note", "stops": [{"rate", "quality", "loses"}]}
    """
    frontier = model.frontier
    if frontier is None:
        return ""
    reference, *_ = points = stops(frontier)
    narrowed = texts.DIAL_TOP_P.format(top_p=frontier.top_p) if frontier.top_p else ""
    note = texts.DIAL_DIFFERS.format(temperature=frontier.temperature, top_p=narrowed) if differs else ""
    shown = [
        {
            "rate": (texts.DIAL_ONE if point is reference else texts.DIAL_RATE).format(rate=point.tokens_per_pass),
            "quality": quality(frontier, point, stories=model.tales_level is not None),
            "loses": point.loses,
        }
        for point in points
    ]
    about = {"model": model.label, "label": texts.DIAL, "own": texts.DIAL_OWN, "at": at, "note": note}
    return json.dumps({**about, "stops": shown}, ensure_ascii=False)


def quality(frontier: Frontier, point: TunePoint, *, stories: bool) -> str:
    """The figures of a point in words, and those of one token per pass beside them."""
    counted = (texts.DIAL_STORIES if stories else texts.DIAL_TEXTS).format(samples=frontier.samples)
    said = texts.DIAL_QUALITY.format(counted=counted, figures=", ".join(figure(m, ends=True) for m in point.quality))
    if point is frontier.reference:
        return said
    before = texts.DIAL_REFERENCE.format(figures=", ".join(figure(m) for m in frontier.reference.quality))
    return " ".join([*([texts.DIAL_LOSES] if point.loses else []), said, before])


def figure(measure: Measure, *, ends: bool = False) -> str:
    """A figure with its name, and with the ends of its interval, e.g. "98.4 % grammatical (97.0 to 99.2)"."""
    share = measure.name in SHARES
    spec, factor, unit = (".1f", 100, " %") if share else (".3f", 1, "")
    value = texts.number(factor * measure.value, spec) + unit
    named = texts.DIAL_FIGURES.get(measure.name, "{value} {name}").format(value=value, name=measure.name)
    if not ends or measure.ci95 is None:
        return named
    low, high = (texts.number(factor * end, spec) for end in measure.ci95)
    return named + texts.DIAL_INTERVAL.format(low=low, high=high)
