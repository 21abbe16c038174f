"""The sweep of the Race tab: latency and tokens/s against length, drawn while they are measured.

`diffuapriel.benchmark` measures and says where the curves cross; this part draws, and holds the machine's one turn.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from threading import Event
from typing import Any

import gradio as gr

from app.race.charts import latency_panel, rate_panel, ratio_panel
from app.race.live import REFRESH_SECONDS
from app.race.outcome import summary
from app.race.request import LENGTHS, SweepRequest, load_entries, read_sweep
from app.race.store import ResultStore, SavedResult
from app.server.api import endpoint
from app.server.guard import guarded_stream
from app.server.limits import Limits
from app.server.models import Models
from app.server.queue import MODEL
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import HIDDEN, SKIP, returned, wire_run
from app.ui.inputs import run_row

LONGEST = 4096
Update = tuple[Any, Any, Any, Any, str]  # latency, tokens/s, speed over DiffuTran, what was fair, status


class SweepPart:
    """The handlers of the sweep, and the part of the page that calls them."""

    def __init__(self, models: Models, limits: Limits, store: ResultStore) -> None:
        self.models, self.limits, self.store = models, limits, store
        self.stops = Stops()

    def build(self, entries: list[Any]) -> tuple[list[Any], Any]:
        """Draw it. Returns the runs as events, and the choice of the longest length."""
        gr.HTML(render.lead(texts.SWEEP_TITLE, texts.SWEEP_LEAD), apply_default_css=False)
        longest = gr.Radio(
            [(texts.number(n, ","), n) for n in LENGTHS if n <= self.limits.max_sweep_length],
            value=LONGEST,
            label=texts.LONGEST,
            info=texts.LONGEST_INFO,
            elem_id="sweep-longest",
        )
        run, stop, status = run_row("sweep", texts.SWEEP)
        with gr.Column(elem_classes="da-once-drawn"):
            with gr.Row():
                latency = gr.Plot(show_label=False, elem_id="sweep-chart", min_width=320)
                rate = gr.Plot(show_label=False, elem_id="sweep-rate", min_width=320)
            ratio = gr.Plot(show_label=False, elem_id="sweep-ratio")
        fair = gr.HTML("", elem_id="sweep-fair", apply_default_css=False)
        handler = guarded_stream(self.run, lambda message: (*[SKIP] * 4, render.note(message, bad=True)))
        inputs, outputs = [*entries, longest], [latency, rate, ratio, fair, status]
        runs = wire_run(run, stop, self.stops, handler, inputs, outputs, status=status)
        endpoint(self.sweep, "sweep", group=MODEL)
        return runs, longest

    def run(self, a: Any, b: Any, c: Any, longest: Any, request: gr.Request) -> Iterator[Update]:
        """Measure latency against length; redraws at every new point. The result is kept for the visit."""
        asked = read_sweep(self.models, self.limits, a, b, c, longest)
        with self.stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                result, whole = yield from self._measure(asked, stopped)
            first, *rest = [*([] if whole else [texts.SWEEP_STOPPED]), *summary(result), ""]
            if not result.sweep or not result.sweep.points:
                yield SKIP, SKIP, SKIP, SKIP, render.notes([first, *rest])
                return
            result = self.store.add(request.session_hash, result)
            if any(one.block_length is not None for one in asked.entries):
                rest.append(texts.SWEEP_OF_BLOCKS)
            below = render.notes([*filter(None, rest), *paper_notes(result)]) + render.fair(result.fairness(), "sweep")
            yield *drawn(result), below, render.note(first)

    def sweep(self, a: str, b: str, c: str = "", longest: int = LONGEST, request: gr.Request | None = None) -> dict:
        """Measure latency and tokens/s of two or three denoisers against sequence length, and where they cross.

        One forward pass at 256, 512, ... tokens up to the longest. Lengths that do not fit in memory are refused
        with the figure. Says at which lengths the Transformer (DiffuTran) wins. A model of blocks is measured in a pass
        over the whole canvas, whatever the block length in its name.

        Args:
            a: name of the first model, one of those that `models` lists
            b: name of the second model
            c: name of a third model, or an empty string for none
            longest: the longest length in tokens, 256 to 65536
        Returns:
            Points, fitted exponents (1 linear, 2 quadratic), crossovers, what was not run and why, and what was fair.
        """
        from app.race.export import to_dict

        asked = read_sweep(self.models, self.limits, a, b, c, longest)
        session = request and request.session_hash
        with self.stops.running(session) as stopped, self.models.turn():
            result, _ = returned(self._measure(asked, stopped))
        if result.sweep.points:
            result = self.store.add(session, result)
        return {**to_dict(result), "summary": summary(result)}

    def _measure(self, asked: SweepRequest, stopped: Event) -> Generator[Update, None, tuple[SavedResult, bool]]:
        """Load the entries and measure. Returns what was measured, and whether that is all: Stop ends it early."""
        from diffuapriel.benchmark.result import EntryFacts
        from diffuapriel.benchmark.sweep import sweep_events

        entries = load_entries(self.models, asked.entries, whole=True)
        facts = EntryFacts.of(entries)
        points, shown = 0, 0.0
        event = None
        for event in sweep_events(entries, lengths=asked.lengths):
            if event.fraction >= 1 or stopped.is_set():
                break
            fresh = len(event.result.points) > points
            if fresh or time.monotonic() - shown >= REFRESH_SECONDS:
                points, shown = len(event.result.points), time.monotonic()
                result = SavedResult(sweep=event.result, facts=facts)
                latency, rate, ratio = drawn(result) if fresh else (SKIP, SKIP, SKIP)
                yield (
                    latency,
                    rate,
                    ratio,
                    SKIP,
                    render.progress(event.fraction, event.message if texts.LANGUAGE == "en" else texts.SWEEP_RUNNING),
                )
        assert event is not None, "a sweep ends with its result"
        return SavedResult(sweep=event.result, facts=facts), event.fraction >= 1


def drawn(result: SavedResult) -> tuple[Any, Any, Any]:
    """The three charts; the third is hidden where no DiffuTran runs."""
    from diffuapriel.charts.plotly import draw

    ratio = ratio_panel(result)
    third = render.chart(draw(ratio)) if ratio else HIDDEN
    latency, rate = (render.localized(draw(panel([result]))) for panel in (latency_panel, rate_panel))
    return latency, rate, third


def paper_notes(result: SavedResult) -> list[str]:
    """Where the dotted lines come from; nothing where none is drawn."""
    from diffuapriel.benchmark.verdict import baseline_of, published_ratios

    if not baseline_of(result.facts):
        return []
    figures = [
        texts.PAPER_FIGURE.format(version=f.version, entry=f.architecture, ratio=f.ratio, setting=f.setting)
        for f in published_ratios({entry.architecture for entry in result.facts})
    ]
    return [texts.PAPER_NOTE.format(figures="; ".join(figures))] if figures else []
