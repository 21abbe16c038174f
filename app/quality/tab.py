"""The Quality tab: the score of a typed text, and quality against the number of steps.

`diffuapriel.evaluation` measures; this tab checks and draws. Results stream in: a score after every round of masks, a
curve after every point.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import gradio as gr

from app.quality import score as scores
from app.quality.curves import (
    STEP_CHOICES,
    CurveRequest,
    curve_settings,
    drawn,
    read_curves,
    running,
    writers,
)
from app.server.api import asking, endpoint
from app.server.guard import guarded_stream
from app.server.limits import Limits
from app.server.models import Models
from app.server.queue import MODEL
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import SKIP, wire_run
from app.ui.inputs import run_row, slider
from app.ui.permalink import wire_link
from app.ui.token_rows import rows_arguments
from diffuapriel.sampling.config import STRATEGIES
from diffuapriel.trace.characters import spread

TOP_P = 0.9  # as in the Unmask tab
REFRESH_SECONDS = 0.25  # of the progress bar


class QualityTab:
    """The handlers of the tab, and the page that calls them."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.score_stops, self.curve_stops = Stops(), Stops()
        self.settings = scores.score_settings(models, limits) | curve_settings(models, limits)

    def build(self) -> None:
        """Build the tab inside the current `gr.Blocks`."""
        score, status = self._build_score()
        wire_link("quality", self.settings, [*score, *self._build_curves()], status)

    def _build_score(self) -> tuple[list[Any], Any]:
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
                self.models.choices(self.models.trained),
                value=self.models.default,
                label=texts.MODEL,
                min_width=260,
                elem_id="surprisal-model",
            )
            labels = (texts.SURPRISAL_ROUNDS, texts.SURPRISAL_ROUNDS_INFO)
            rounds = slider(self.settings["rounds"], 4, *labels, min_width=260)
        run, stop, status = run_row("surprisal", texts.SCORE, examples=texts.SURPRISAL_EXAMPLES, text=text)
        table = gr.HTML("", elem_id="surprisal-figures", apply_default_css=False)
        shown = gr.HTML(**rows_arguments(), elem_id="surprisal-rows", visible=False)
        chart = gr.Plot(show_label=False, elem_id="surprisal-chart", visible=False)
        numbers = gr.JSON(visible=False, label="Score")
        handler = guarded_stream(self.score, lambda message: (*[SKIP] * 4, render.note(message, bad=True)))
        inputs, outputs = [text, model, rounds], [table, shown, chart, numbers, status]
        wire_run(run, stop, self.score_stops, handler, inputs, outputs, status=status)
        endpoint(self.surprisal, "surprisal", choices={"model": self.models.trained}, group=MODEL)
        return inputs, status

    def _build_curves(self) -> list[Any]:
        """Returns [model, strategies, steps, windows, top-p, seed]."""
        gr.HTML(render.lead(texts.QUALITY_TITLE, texts.QUALITY_LEAD), apply_default_css=False)
        names = writers(self.models)
        strategies = gr.CheckboxGroup(
            list(STRATEGIES),
            value=["low_confidence", "ancestral"],
            label=texts.QUALITY_STRATEGIES,
            elem_id="quality-strategies",
        )
        with gr.Row():
            model = gr.Dropdown(
                self.models.choices(names),
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
            labels = (texts.QUALITY_WINDOWS, texts.QUALITY_WINDOWS_INFO)
            windows = slider(self.settings["windows"], 8, *labels, min_width=240)
        with gr.Accordion(texts.QUALITY_MORE, open=False), gr.Row():
            top_p = slider(self.settings["top_p"], TOP_P, texts.TOP_P, texts.TOP_P_INFO, step=0.01)
            seed = gr.Number(0, label=texts.SEED, precision=0, **self.settings["seed"].range)
        run, stop, status = run_row("quality", texts.SWEEP)
        chart = gr.Plot(show_label=False, elem_id="quality-chart", visible=False)
        numbers = gr.JSON(visible=False, label="Points")
        handler = guarded_stream(self.curves, lambda message: (SKIP, SKIP, render.note(message, bad=True)))
        inputs = [model, strategies, steps, windows, top_p, seed]
        outputs = [chart, numbers, status]
        wire_run(run, stop, self.curve_stops, handler, inputs, outputs, status=status)
        choices = {"writer": names, "strategies": STRATEGIES}
        endpoint(self.steps_quality, "steps_quality", choices=choices, group=MODEL)
        return inputs

    # ---- the score of a text ------------------------------------------------------------------------

    def score(
        self, text: Any, model: Any, rounds: Any, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any, Any, str]]:
        """Score a text; updates after each round of masks: a table, rows of tokens, a chart, numbers, status."""
        asked = scores.read_score(self.models, self.limits, text, model, rounds)
        with self.score_stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                yield from self._score(asked, stopped)

    def surprisal(self, text: str, model: str, rounds: int = 4, request: gr.Request | None = None) -> dict:
        """Score a text: the bound on its negative log-likelihood, bits per byte, and the surprisal of every token.

        A model of blocks is scored at its shortest block length. At 1 it is autoregressive: the score is exact.

        Args:
            text: what is scored
            model: one of the listed names
            rounds: of 16 masks each, 1 to 32; four times as many halve the interval
        Returns:
            Nats per token with their 95 % interval, bits per byte, and for every token its surprisal in nats. For a
            story of the grammar also the exact value. The block length, if there is one.
        """
        *_, update = self.score(text, model, rounds, asking(request))
        return update[3]

    def _score(self, asked: scores.ScoreRequest, stopped: Event) -> Iterator[tuple[Any, Any, Any, Any, str]]:
        from diffuapriel.evaluation.surprisal import MASKS, score_text, tightest_block_length

        entry = self.models.load(asked.model_entry)
        tokenizer = entry.tokenizer
        tokens = spread(tokenizer.token_strings(asked.tokens))
        size = tightest_block_length(asked.model_entry.block_lengths)
        options = {"filling": asked.filling, "rounds": asked.rounds, "device": entry.device, "block_length": size}
        denoiser: Any = entry.denoiser
        stream = score_text(denoiser, asked.ids, tokenizer.mask_id, **options)
        for number, score in enumerate(stream, start=1):
            over = number == asked.rounds or stopped.is_set() or size == 1
            filled = {"filling": asked.filling, "window": len(asked.ids)}
            said = texts.SURPRISAL_FILLED if asked.filling else texts.SURPRISAL_DONE
            done = said.format(draws=score.num_mc_samples, tokens=len(asked.ids), **filled)
            if size:
                done = texts.SURPRISAL_EXACT if size == 1 else f"{done} {texts.SURPRISAL_IN_BLOCKS.format(size=size)}"
            line = texts.SURPRISAL_PROGRESS.format(draws=score.num_mc_samples, total=MASKS * asked.rounds)
            yield (
                scores.figures(score, asked, tokenizer),
                gr.update(value=scores.rows_of(score, asked, tokenizer), visible=True),
                render.chart(scores.surprisal_chart(score, tokens, asked.model_entry.architecture)),
                scores.numbers_of(score, asked, tokenizer),
                render.note(done) if over else render.progress(number / asked.rounds, line),
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
        """Quality against steps; updates after each point: a chart, the points so far, status."""
        asked = read_curves(self.models, self.limits, model, strategies, steps, windows, top_p, seed)
        with self.curve_stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                yield from self._measure(asked, stopped)

    def steps_quality(
        self,
        writer: str,
        strategies: list[str],
        steps: list[int],
        windows: int = 8,
        top_p: float = TOP_P,
        seed: int = 0,
        request: gr.Request | None = None,
    ) -> dict:
        """Sample stories with several numbers of steps and strategies, and check them with the grammar.

        Args:
            writer: one of the listed models, which write tales
            strategies: one to eight, which masks go first
            steps: one to eight numbers of steps of the sampler
            windows: windows of text sampled per point, 4 to 64
            top_p: draw from the most probable tokens that make up this share; 1 for all
            seed: same seed, same texts
        Returns:
            A point for every strategy and number of steps: shares of stories that are grammatical and consistent, and
            entropy, each with its 95 % interval.
        """
        *_, update = self.curves(writer, strategies, steps, windows, top_p, seed, asking(request))
        return {"points": update[1]}

    def _measure(self, asked: CurveRequest, stopped: Event) -> Iterator[tuple[Any, Any, str]]:
        from diffuapriel.evaluation.steps_quality import quality_events, true_entropy

        entry = self.models.load(asked.model_entry)
        truth = true_entropy(entry.tokenizer, asked.level, asked.length)
        names = list(dict.fromkeys(config.strategy for config in asked.configs))
        began, shown, points, calls = time.monotonic(), 0.0, 0, 0
        event = None
        work: dict[str, Any] = {"level": asked.level, "length": asked.length, "num_sequences": asked.windows}
        for event in quality_events(entry.denoiser, entry.tokenizer, asked.configs, **work):
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
        if block_length := asked.configs[0].block_length:
            lines.append(texts.SURPRISAL_IN_BLOCKS.format(size=block_length))
        each = 1000 * seconds / max(1, calls)
        size = {"windows": asked.windows, "length": asked.length}
        cost = texts.QUALITY_COST.format(calls=calls, seconds=seconds, each=each, **size)
        found = [dataclasses.asdict(point) for point in event.points]
        yield drawn(event, names, truth), found, render.notes([*lines, cost, texts.QUALITY_INTERVALS])
