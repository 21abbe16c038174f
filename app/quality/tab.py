"""The Quality tab: the score of a text that the reader types, and quality against the number of steps.

`diffuapriel.evaluation` measures; this tab asks, checks and draws. Results stream in: a score after every round of
masks, a curve after every point.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import gradio as gr

from app.quality import charts
from app.quality import score as scores
from app.quality.curves import (
    MAX_WINDOWS,
    MIN_WINDOWS,
    STEP_CHOICES,
    CurveRequest,
    curve_settings,
    drawn,
    read_curves,
    running,
    writers,
)
from app.server import limits as check
from app.server.guard import guarded_stream
from app.server.limits import Limits
from app.server.models import ModelEntry, Models
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import SKIP, wire_run
from app.ui.permalink import wire_link

TOP_P = 0.9  # as in the Unmask tab
REFRESH_SECONDS = 0.25  # of the progress bar


class QualityTab:
    """The handlers of the tab, and the page that calls them."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.score_stops, self.curve_stops = Stops(), Stops()

    def build(self, player: dict[str, Any]) -> None:
        """Draw the tab inside the present `gr.Blocks`. `player`: arguments that make a gr.HTML the player."""
        score, status = self._build_score(player)
        settings = scores.score_settings(self.models, self.limits) | curve_settings(self.models, self.limits)
        wire_link("quality", settings, [*score, *self._build_curves()], status)

    def _build_score(self, player: dict[str, Any]) -> tuple[list[Any], Any]:
        """Returns [text, model, rounds], and the status line."""
        gr.HTML(render.lead("", texts.SURPRISAL_LEAD), apply_default_css=False)
        text = gr.Textbox(
            value=texts.SURPRISAL_EXAMPLES[0][1],
            label=texts.SURPRISAL_TEXT,
            info=texts.SURPRISAL_TEXT_INFO.format(most=min(scores.MAX_LENGTH, self.limits.max_tokens)),
            lines=3,
            max_lines=8,
            elem_id="surprisal-text",
        )
        with gr.Row():
            model = gr.Dropdown(
                self.models.trained,
                value=self.models.default,
                label=texts.MODEL,
                min_width=260,
                elem_id="surprisal-model",
            )
            rounds = gr.Slider(
                1,
                scores.MAX_ROUNDS,
                4,
                step=1,
                label=texts.SURPRISAL_ROUNDS,
                info=texts.SURPRISAL_ROUNDS_INFO,
                min_width=260,
            )
        with gr.Row(elem_classes="da-actions"):
            run = gr.Button(texts.SCORE, variant="primary", scale=0, min_width=130, elem_id="surprisal-run")
            stop = gr.Button(texts.STOP, interactive=False, scale=0, min_width=130, elem_id="surprisal-stop")
            gr.Examples(
                [[example] for _, example in texts.SURPRISAL_EXAMPLES],
                [text],
                example_labels=[name for name, _ in texts.SURPRISAL_EXAMPLES],
                label=texts.EXAMPLES_LABEL,
                elem_id="surprisal-examples",
                api_visibility="private",
            )
        status = gr.HTML("", elem_id="surprisal-status", elem_classes="da-status", apply_default_css=False)
        table = gr.HTML("", elem_id="surprisal-figures", apply_default_css=False)
        shown = gr.HTML(**player, elem_id="surprisal-player", visible=False)
        chart = gr.Plot(show_label=False, elem_id="surprisal-chart", visible=False)
        numbers = gr.JSON(visible=False, label="Score")
        handler = guarded_stream(
            self.score, lambda message: (SKIP, SKIP, SKIP, SKIP, render.note(message, bad=True))
        )
        outputs = [table, shown, chart, numbers, status]
        wire_run(
            run,
            stop,
            self.score_stops,
            handler,
            [text, model, rounds],
            outputs,
            status=status,
            name="surprisal",
        )
        return [text, model, rounds], status

    def _build_curves(self) -> list[Any]:
        """Returns [model, strategies, steps, windows, top-p, seed]."""
        from diffuapriel.sampling.config import STRATEGIES

        gr.HTML(render.lead(texts.QUALITY_TITLE, texts.QUALITY_LEAD), apply_default_css=False)
        names = writers(self.models)
        strategies = gr.CheckboxGroup(
            list(STRATEGIES),
            value=["confidence", "ancestral"],
            label=texts.QUALITY_STRATEGIES,
            elem_id="quality-strategies",
        )
        with gr.Row():
            model = gr.Dropdown(
                names,
                value=next((name for name in (self.models.default, *names) if name in names), None),
                label=texts.MODEL,
                min_width=220,
                elem_id="quality-model",
            )
            steps = gr.CheckboxGroup(
                [(str(n), n) for n in STEP_CHOICES if n <= self.limits.max_steps],
                value=[n for n in (8, 32, 128) if n <= self.limits.max_steps],
                label=texts.STEPS,
                info=texts.QUALITY_STEPS_INFO,
                min_width=300,
                elem_id="quality-steps",
            )
            windows = gr.Slider(
                MIN_WINDOWS,
                MAX_WINDOWS,
                8,
                step=1,
                label=texts.QUALITY_WINDOWS,
                info=texts.QUALITY_WINDOWS_INFO,
                min_width=240,
            )
        with gr.Accordion(texts.QUALITY_MORE, open=False), gr.Row():
            top_p = gr.Slider(0.01, 1.0, TOP_P, step=0.01, label=texts.TOP_P, info=texts.TOP_P_INFO)
            seed = gr.Number(0, label=texts.SEED, precision=0, minimum=0, maximum=check.MAX_SEED)
        with gr.Row(elem_classes="da-actions"):
            run = gr.Button(texts.SWEEP, variant="primary", scale=0, min_width=130, elem_id="quality-run")
            stop = gr.Button(texts.STOP, interactive=False, scale=0, min_width=130, elem_id="quality-stop")
        status = gr.HTML("", elem_id="quality-status", elem_classes="da-status", apply_default_css=False)
        chart = gr.Plot(show_label=False, elem_id="quality-chart", visible=False)
        numbers = gr.JSON(visible=False, label="Points")
        handler = guarded_stream(self.curves, lambda message: (SKIP, SKIP, render.note(message, bad=True)))
        inputs = [model, strategies, steps, windows, top_p, seed]
        outputs = [chart, numbers, status]
        wire_run(run, stop, self.curve_stops, handler, inputs, outputs, status=status, name="steps_quality")
        return inputs

    # ---- the score of a text ------------------------------------------------------------------------

    def score(
        self, text: Any, model: Any, rounds: Any, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any, Any, str]]:
        """Score a text: NELBO, bits per byte, and the surprisal of every token, after each round of 16 masks.

        text: what is scored. model: one of the listed names. rounds: 1 to 32; the interval narrows with their root.
        Returns a table, the player's message, a chart, the numbers, and a line of status.
        """
        model_entry = self.models.find(model, self.models.trained)
        tokenizer = self.models.tokenizer(model_entry)
        typed = scores.read_typed(text, model_entry, tokenizer, self.limits)
        total = check.whole_number("rounds", rounds, 1, scores.MAX_ROUNDS)
        with self.score_stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                yield from self._score(model_entry, typed, total, stopped)

    def _score(
        self, model_entry: ModelEntry, typed: scores.Typed, rounds: int, stopped: Event
    ) -> Iterator[tuple[Any, Any, Any, Any, str]]:
        from diffuapriel.evaluation.surprisal import MASKS, score_text

        entry = self.models.load(model_entry)
        tokens = entry.tokenizer.token_strings(typed.tokens)
        stream = score_text(
            entry.denoiser,  # pyright: ignore[reportArgumentType]
            typed.ids,
            entry.tokenizer.mask_id,
            filling=typed.filling,
            rounds=rounds,
            device=entry.device,
        )
        for number, score in enumerate(stream, start=1):
            over = number == rounds or stopped.is_set()
            done = texts.SURPRISAL_DONE.format(
                draws=score.num_mc_samples, tokens=len(typed.ids), filling=typed.filling
            )
            line = texts.SURPRISAL_PROGRESS.format(draws=score.num_mc_samples, total=MASKS * rounds)
            yield (
                scores.figures(score, typed, entry.tokenizer),
                gr.update(
                    value=scores.player_message(score, typed, entry.tokenizer, model_entry), visible=True
                ),
                gr.update(value=charts.surprisal_chart(score, tokens), visible=True),
                scores.numbers_of(score, typed, entry.tokenizer),
                render.note(done) if over else render.progress(number / rounds, line),
            )
            if over:
                return

    # ---- steps against quality ----------------------------------------------------------------------

    def curves(
        self,
        model: Any,
        strategies: Any,
        steps: Any,
        windows: Any,
        top_p: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any, str]]:
        """Draw stories at several numbers of steps and strategies, and let the grammar read them.

        model: a model of tales. strategies, steps: lists of one to eight. windows: whole windows drawn for each
        point. top_p (1: all tokens), seed: options of the sampler.
        Returns a chart, the points with their 95 % intervals, and a line of status.
        """
        asked = read_curves(self.models, self.limits, model, strategies, steps, windows, top_p, seed)
        with self.curve_stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                yield from self._measure(asked, stopped)

    def _measure(self, asked: CurveRequest, stopped: Event) -> Iterator[tuple[Any, Any, str]]:
        from diffuapriel.evaluation.steps_quality import quality_events, true_entropy

        entry = self.models.load(asked.model_entry)
        truth = true_entropy(entry.tokenizer, asked.level, asked.length)
        names = list(dict.fromkeys(config.strategy for config in asked.configs))
        began, shown, points, calls = time.monotonic(), 0.0, 0, 0
        event = None
        for event in quality_events(
            entry.denoiser,
            entry.tokenizer,
            asked.configs,
            level=asked.level,
            length=asked.length,
            num_sequences=asked.windows,
        ):
            fresh = len(event.points) > points
            if stopped.is_set() or event.fraction >= 1:
                break
            calls += not fresh
            if fresh or time.monotonic() - shown >= REFRESH_SECONDS:
                points, shown = len(event.points), time.monotonic()
                chart = drawn(event, names, truth) if fresh else SKIP
                yield chart, SKIP, running(event, time.monotonic() - began)
        assert event is not None, "a plan holds a point"
        seconds = time.monotonic() - began
        lines = [texts.QUALITY_STOPPED] if event.fraction < 1 else []
        cost = texts.QUALITY_COST.format(
            calls=calls,
            windows=asked.windows,
            length=asked.length,
            seconds=seconds,
            each=1000 * seconds / max(1, calls),
        )
        found = [dataclasses.asdict(point) for point in event.points]
        yield drawn(event, names, truth), found, render.notes([*lines, cost, texts.QUALITY_INTERVALS])
