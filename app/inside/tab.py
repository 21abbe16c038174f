"""The Inside tab: what the denoiser does at one step, for up to three models side by side.

`diffuapriel.interpret` measures; this tab checks and draws. Inspect measures the influence on one output and redraws
the closer look at one model (app/inside/closer.py); choosing a token does so again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.inside import charts
from app.inside.closer import CloserPanel
from app.inside.request import (
    MAX_LENGTH,
    METHODS,
    MOST_MODELS,
    InspectRequest,
    inside_settings,
    load_model,
    offered,
    opening,
    read_models,
    read_request,
)
from app.inside.view import InspectedModel, view_message
from app.server import limits as check
from app.server.api import asking, endpoint
from app.server.guard import guarded_stream
from app.server.limits import Limits
from app.server.models import ModelEntry, Models
from app.server.queue import MODEL
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import AT_ONCE, SKIP, wire_run
from app.ui.inputs import run_row, slider
from app.ui.permalink import wire_link
from app.ui.token_rows import rows_arguments
from diffuapriel.trace.characters import spread

if TYPE_CHECKING:
    from diffuapriel.interpret.influence import Influence

Update = tuple[Any, Any, Any, Any, Any]  # rows of tokens, influence, schedule, numbers, status


class InsideTab:
    """The handlers of the tab, and the page that calls them."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.closer = CloserPanel(models, limits)
        self.stops = Stops()
        self.settings = inside_settings(models, limits)

    def build(self, tab: gr.Tab) -> None:
        """Build the page inside `tab`. The example is measured when the tab is opened for the first time."""
        gr.HTML(render.lead("", texts.INSIDE_LEAD), apply_default_css=False)
        text, chosen, time, method, position = self._build_settings()
        look, stop, status = run_row(
            "inside", texts.INSIDE_RUN, ready=texts.INSIDE_READY, examples=texts.INSIDE_EXAMPLES, text=text
        )
        rows = gr.HTML(**rows_arguments(), elem_id="inside-rows")
        numbers = gr.JSON(visible=False, label="Influence")
        with gr.Column(elem_classes="da-once-drawn"):
            gr.HTML(render.lead(texts.INFLUENCE_TITLE, texts.INFLUENCE_LEAD), apply_default_css=False)
            influence = gr.Plot(show_label=False, elem_id="inside-influence", visible=False)
            schedule, redraw_on = self.closer.build(text, chosen, time, position)
        # In the page, not on the server: a new text's first mask must be chosen before anyone can press Inspect.
        text.change(None, None, position, js="() => [-1]", **AT_ONCE)
        picked = rows.select(picked_position, None, position, **AT_ONCE)
        visits = gr.Number(0, visible="hidden")  # changes once: a hidden component sends its changes, too
        tab.select(lambda: 1, None, visits, **AT_ONCE)
        opened = visits.change(None, None, None, js="() => []", **AT_ONCE)
        handler = guarded_stream(self.look, lambda message: (*[SKIP] * 4, render.note(message, bad=True)))
        inputs, outputs = [text, chosen, position, time, method], [rows, influence, schedule, numbers, status]
        runs = wire_run(look, stop, self.stops, handler, inputs, outputs, status=status, also=[picked, opened])
        choices = {"models": offered(self.models), "method": METHODS}
        endpoint(self.inside, "inside", choices=choices, group=MODEL)
        for run in runs:
            redraw_on(run.success)
        wire_link("inside", self.settings, [text, chosen, time, method], status)

    def _build_settings(self) -> tuple[Any, ...]:
        """Draw the settings: (text, models, time, method, output position)."""
        length = min(MAX_LENGTH, self.limits.max_tokens)
        text = gr.Textbox(
            value=texts.INSIDE_TEXT,
            label=texts.TEXT_LABEL,
            info=texts.INSIDE_TEXT_INFO.format(length=length),
            lines=3,
            max_lines=8,
            elem_id="inside-text",
        )
        with gr.Row():
            chosen = gr.Dropdown(
                self.models.choices(offered(self.models)),
                value=opening(self.models),
                multiselect=True,
                max_choices=MOST_MODELS,
                label=texts.INSIDE_MODELS,
                info=texts.INSIDE_MODELS_INFO,
                min_width=300,
                elem_id="inside-models",
            )
            methods = [(label, name) for name, label in texts.INSIDE_METHODS.items()]
            method = gr.Radio(
                methods,
                value="gradient",
                label=texts.INSIDE_METHOD,
                info=texts.INSIDE_METHOD_INFO,
                min_width=300,
                elem_id="inside-method",
            )
        with gr.Row():
            labels = (texts.INSIDE_TIME, texts.INSIDE_TIME_INFO)
            time = slider(self.settings["t"], 0, *labels, step=0.01, min_width=300)
            position = gr.Number(
                -1,
                label=texts.INSIDE_POSITION,
                info=texts.INSIDE_POSITION_INFO,
                precision=0,
                minimum=-1,
                maximum=length - 1,
                min_width=300,
                elem_id="inside-position",
            )
        return text, chosen, time, method, position

    def look(self, text: Any, models: Any, position: Any, t: Any, method: Any, request: gr.Request) -> Iterator[Update]:
        """Influence of every token on one output, for one to three models: rows, two charts, numbers, status."""
        model_entries = read_models(self.models, models)
        asked = read_request(self.limits, self.models.tokenizer(model_entries[0]), text, position, t)
        check.choice("method", method, METHODS)
        with self.stops.running(request.session_hash) as stopped:
            schedule = charts.shown(charts.schedule_chart(asked.t))
            yield SKIP, SKIP, schedule, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                yield from self._measure(model_entries, asked, method, stopped)

    def inside(
        self,
        text: str,
        models: list[str],
        position: int = -1,
        t: float = 0.0,
        method: str = "gradient",
        request: gr.Request | None = None,
    ) -> dict:
        """Measure how much every token of a text influences what a model predicts at one position.

        Args:
            text: the text; [MASK:6] is a hole of six tokens
            models: one to three of the listed names
            position: the position to predict, from 0; -1 for the first mask
            t: the time that the models are told, from 0 to 1; 0 for the share of masks in the text
            method: gradient, or occlusion: mask one token after the other
        Returns:
            The tokens, and of each model its answer, the probability of it and the influence of every token.
        """
        *_, update = self.look(text, models, position, t, method, asking(request))
        return update[3]

    def _measure(
        self, model_entries: list[ModelEntry], asked: InspectRequest, method: str, stopped: Event
    ) -> Iterator[Update]:
        """Measure one model after the other; every update holds all that is known so far.

        The chart comes once, at the end: the browser drops one that comes while it is drawing the one before.
        """
        tokenizer = self.models.tokenizer(model_entries[0])
        finished: list[InspectedModel] = []
        looked = finished
        for model_entry in model_entries:
            for influence in self._influences(model_entry, asked, method):
                answer = spread(tokenizer.token_strings([influence.token]))[0].strip()
                about = {"trained": model_entry.trained, "architecture": model_entry.architecture}
                looked = [*finished, InspectedModel(model_entry.label, influence, answer, **about)]
                rows = view_message(asked, tokenizer.mask_id, looked)
                yield rows, SKIP, SKIP, SKIP, progress(len(finished), len(model_entries), looked[-1])
                if stopped.is_set():
                    break
            finished = looked
            if stopped.is_set():
                break
        lines = [texts.INSIDE_STOPPED] if stopped.is_set() else []
        chart = charts.shown(charts.influence_chart(looked, asked)) if looked else SKIP
        yield SKIP, chart, SKIP, numbers_of(asked, looked), render.notes([*lines, outcome(asked)])

    def _influences(self, model_entry: ModelEntry, asked: InspectRequest, method: str) -> Iterator[Influence]:
        from diffuapriel.interpret.influence import gradient_influence, occlusion_influence

        denoiser = load_model(self.models, model_entry)
        ids = asked.ids.to(denoiser.embedding.weight.device)
        if method == "gradient":
            yield gradient_influence(denoiser, ids, asked.position, asked.sigma)
        else:
            yield from occlusion_influence(denoiser, ids, asked.position, asked.sigma)


def picked_position(event: gr.EventData) -> int:
    """The position of the token that a visitor chose in one of the rows."""
    return check.whole_number("output position", event.index, 0, MAX_LENGTH - 1)


def progress(before: int, models: int, model: InspectedModel) -> str:
    """The progress bar: `before` of `models` models are done, and part of the present one."""
    values = model.influence.values
    done = int((~values.isnan()).sum())
    line = texts.INSIDE_PROGRESS.format(label=model.label, done=done, total=len(values))
    return render.progress((before + done / len(values)) / models, line)


def outcome(asked: InspectRequest) -> str:
    """The output position and the noise level, in one sentence."""
    share = 1 - math.exp(-asked.sigma)
    return texts.INSIDE_DONE.format(position=asked.position, t=asked.t, share=share)


def numbers_of(asked: InspectRequest, looked: Sequence[InspectedModel]) -> dict[str, Any]:
    """The measurement as plain values, for callers of the API."""
    models = [
        {
            "model": one.label,
            "answer": one.answer,
            "probability": one.influence.probability,
            "influence": [None if math.isnan(v) else v for v in one.influence.values.tolist()],
        }
        for one in looked
    ]
    about = {"position": asked.position, "t": asked.t, "sigma": asked.sigma}
    return {**about, "tokens": list(asked.tokens), "models": models}
