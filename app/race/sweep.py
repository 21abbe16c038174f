"""The sweep of the Race tab: latency and tokens/s against length, drawn while they are measured.

`diffuapriel.benchmark` measures and says where the curves cross; this part draws, and holds the machine's one turn.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.race.charts import latency_chart, rate_chart, ratio_chart
from app.race.live import REFRESH_SECONDS, returned
from app.race.request import LENGTHS, SweepRequest, read_sweep, refuse_too_large
from app.race.store import Kept, Shelf
from app.server.guard import guarded, guarded_stream
from app.server.limits import Limits
from app.server.models import Models
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import SKIP, wire_run

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import EntryFacts
    from diffuapriel.benchmark.sweep import SweepResult

LONGEST = 4096
Update = tuple[Any, Any, Any, Any, str]  # latency, tokens/s, speed over DiffuTran, what was fair, status
Measured = tuple["SweepResult", "tuple[EntryFacts, ...]", bool]  # result, entries, whether it is whole


class SweepPart:
    """The handlers of the sweep, and the part of the page that calls them."""

    def __init__(self, models: Models, limits: Limits, shelf: Shelf) -> None:
        self.models, self.limits, self.shelf = models, limits, shelf
        self.stops = Stops()

    def build(self, entries: list[Any]) -> tuple[list[Any], Any]:
        """Draw it. Returns the runs as events, and the choice of the longest length."""
        gr.HTML(render.lead(texts.SWEEP_TITLE, texts.SWEEP_LEAD), apply_default_css=False)
        longest = gr.Radio(
            [(f"{n:,}", n) for n in LENGTHS if n <= self.limits.max_sweep_length],
            value=LONGEST,
            label=texts.LONGEST,
            info=texts.LONGEST_INFO,
            elem_id="sweep-longest",
        )
        with gr.Row(elem_classes="da-actions"):
            run = gr.Button(texts.SWEEP, variant="primary", scale=0, min_width=130, elem_id="sweep-run")
            stop = gr.Button(texts.STOP, interactive=False, scale=0, min_width=130, elem_id="sweep-stop")
        status = gr.HTML("", elem_id="sweep-status", elem_classes="da-status", apply_default_css=False)
        with gr.Column(elem_classes="da-once-drawn"):
            with gr.Row():
                latency = gr.Plot(show_label=False, elem_id="sweep-chart", min_width=320)
                rate = gr.Plot(show_label=False, elem_id="sweep-rate", min_width=320)
            ratio = gr.Plot(show_label=False, elem_id="sweep-ratio")
        fair = gr.HTML("", elem_id="sweep-fair", apply_default_css=False)
        handler = guarded_stream(
            self.run, lambda message: (SKIP, SKIP, SKIP, SKIP, render.note(message, bad=True))
        )
        runs = wire_run(
            run,
            stop,
            self.stops,
            handler,
            [*entries, longest],
            [latency, rate, ratio, fair, status],
            status=status,
            name=None,
        )
        gr.api(guarded(self.sweep), api_name="sweep", concurrency_id="model", concurrency_limit=1)
        return runs, longest

    def run(self, a: Any, b: Any, c: Any, longest: Any, request: gr.Request) -> Iterator[Update]:
        """Measure latency against length; redraws at every new point. The result is kept for the visit."""
        asked = read_sweep(self.models, self.limits, a, b, c, longest)
        session = request.session_hash
        stopped = self.stops.flag(session)
        try:
            yield SKIP, SKIP, SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                result, facts, whole = yield from self._measure(asked, stopped)
            lines = [] if whole else [texts.SWEEP_STOPPED]
            if not result.points:
                yield SKIP, SKIP, SKIP, SKIP, render.notes([*lines, *summary(result, facts)])
                return
            kept = self.shelf.add(session, sweep=result, facts=facts)
            status = render.notes([*lines, *summary(result, facts), *paper_notes(facts)])
            yield *drawn(result, facts), render.fair(kept.fairness()), status
        finally:
            self.stops.end(session, stopped)

    def sweep(
        self, a: str, b: str, c: str = "", longest: int = LONGEST, request: gr.Request | None = None
    ) -> dict:
        """Measure latency and tokens/s of two or three denoisers against sequence length, and where they cross.

        One forward pass at 256, 512, ... tokens up to the longest. Lengths that do not fit in memory are refused
        with the figure. Says at which lengths the Transformer (DiffuTran) wins.

        Args:
            a: name of the first model, one of those that `models` lists
            b: name of the second model
            c: name of a third model, or an empty string for none
            longest: the longest length in tokens, 256 to 65536
        Returns:
            Points, fitted exponents (1 linear, 2 quadratic), crossovers, what was not run and why, and what was fair.
        """
        asked = read_sweep(self.models, self.limits, a, b, c, longest)
        session = request and request.session_hash
        stopped = self.stops.flag(session)
        try:
            with self.models.turn():
                result, facts, _ = returned(self._measure(asked, stopped))
        finally:
            self.stops.end(session, stopped)
        kept = Kept(0, "", sweep=result, facts=facts)
        if result.points:
            kept = self.shelf.add(session, sweep=result, facts=facts)
        return {**kept.to_dict(), "summary": summary(result, facts)}

    def _measure(self, asked: SweepRequest, stopped: Event) -> Generator[Update, None, Measured]:
        """Load the entries and measure; ends early, with what there is, where the visitor pressed Stop."""
        from diffuapriel.benchmark.result import EntryFacts
        from diffuapriel.benchmark.sweep import sweep_events

        refuse_too_large(self.models, asked.model_entries)
        entries = [self.models.load(model_entry).tuned() for model_entry in asked.model_entries]
        facts = EntryFacts.of(entries)
        points, shown = 0, 0.0
        event = None
        for event in sweep_events(entries, lengths=asked.lengths):
            if event.fraction >= 1 or stopped.is_set():
                break
            fresh = len(event.result.points) > points
            if fresh or time.monotonic() - shown >= REFRESH_SECONDS:
                points, shown = len(event.result.points), time.monotonic()
                latency, rate, ratio = drawn(event.result, facts) if fresh else (SKIP, SKIP, SKIP)
                yield latency, rate, ratio, SKIP, render.progress(event.fraction, event.message)
        assert event is not None, "a sweep ends with its result"
        return event.result, facts, event.fraction >= 1


def drawn(result: SweepResult, facts: tuple[EntryFacts, ...]) -> tuple[Any, Any, Any]:
    """The three charts; the third is hidden where no DiffuTran runs."""
    ratio = ratio_chart(result, facts)
    hidden = gr.update(value=None, visible=False)
    third = hidden if ratio is None else gr.update(value=ratio, visible=True)
    return latency_chart([result]), rate_chart([result]), third


def summary(result: SweepResult, facts: tuple[EntryFacts, ...]) -> list[str]:
    """The crossovers in words, where DiffuTran wins, and what was not run and why."""
    from diffuapriel.benchmark.verdict import verdicts

    refusals = dict.fromkeys(refused.message for refused in result.refusals)
    return [*verdicts(result, facts), *(f"{texts.NOT_RUN}: {message}." for message in refusals)]


def paper_notes(facts: tuple[EntryFacts, ...]) -> list[str]:
    """Whose the dotted lines are, and in which setting; nothing where none is drawn."""
    from diffuapriel.benchmark.verdict import baseline_of, published_ratios

    figures = published_ratios({entry.architecture for entry in facts}) if baseline_of(facts) else []
    if not figures:
        return []
    said = [
        texts.PAPER_FIGURE.format(version=f.version, entry=f.architecture, ratio=f.ratio, setting=f.setting)
        for f in figures
    ]
    return [texts.PAPER_NOTE.format(figures="; ".join(said))]
