"""The race: entries timed one after the other by `diffuapriel.benchmark`, and replayed side by side.

This part draws and the package measures: no time is taken here. A race holds the machine's one turn from
beginning to end, so that nobody else's run is timed with theirs.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.race.request import RaceRequest, read_race, refuse_too_large
from app.race.store import Shelf
from app.server import limits as check
from app.server.guard import guarded, guarded_stream
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import SKIP, wire_run

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import RaceResult

REFRESH_SECONDS = 0.25  # of a progress bar: often enough for Stop to be quick
STEPS = 32
Update = tuple[Any, Any, str]  # message for the player, table, status


class RacePart:
    """The handlers of the race, and the part of the page that calls them."""

    def __init__(self, models: Models, limits: Limits, shelf: Shelf) -> None:
        self.models, self.limits, self.shelf = models, limits, shelf
        self.stops = Stops()

    def build(self, player: dict[str, Any], entries: list[Any]) -> tuple[list[Any], list[Any], Any]:
        """Draw it. Returns the runs as events, [length, steps, strategy, timed runs, seed], and the status line."""
        with gr.Row():
            most, many = self.limits.race_tokens(self.models.device), self.limits.max_steps
            length = gr.Slider(1, most, 128, step=1, label=texts.LENGTH, min_width=200)
            steps = gr.Slider(1, many, min(STEPS, many), step=1, label=texts.STEPS, min_width=200)
            repeats = gr.Slider(1, self.limits.max_repeats, 2, step=1, label=texts.REPEATS, min_width=200)
        with gr.Accordion(texts.RACE_MORE, open=False), gr.Row():
            strategies = [(label, name) for name, label in texts.STRATEGIES.items()]
            strategy = gr.Dropdown(strategies, value="confidence", label=texts.STRATEGY, min_width=200)
            seed = gr.Number(
                0, label=texts.SEED, precision=0, minimum=0, maximum=check.MAX_SEED, min_width=120
            )
        with gr.Row(elem_classes="da-actions"):
            run = gr.Button(texts.RACE, variant="primary", scale=0, min_width=130, elem_id="race-run")
            stop = gr.Button(texts.STOP, interactive=False, scale=0, min_width=130, elem_id="race-stop")
        status = gr.HTML("", elem_id="race-status", elem_classes="da-status", apply_default_css=False)
        replay = gr.HTML(**player, elem_id="race-player", visible=False)
        table = gr.HTML("", elem_id="race-results", apply_default_css=False)
        settings = [length, steps, strategy, repeats, seed]
        handler = guarded_stream(self.run, lambda message: (SKIP, SKIP, render.note(message, bad=True)))
        runs = wire_run(
            run,
            stop,
            self.stops,
            handler,
            [*entries, *settings],
            [replay, table, status],
            status=status,
            name=None,
        )
        gr.api(guarded(self.race), api_name="race", concurrency_id="model", concurrency_limit=1)
        return runs, settings, status

    def run(
        self,
        a: Any,
        b: Any,
        c: Any,
        length: Any,
        steps: Any,
        strategy: Any,
        repeats: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Race; yields (replay for the player, table, status). The result is kept for the visit."""
        asked = read_race(self.models, self.limits, a, b, c, length, steps, strategy, repeats, seed)
        session = request.session_hash
        stopped = self.stops.flag(session)
        try:
            yield SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                result = yield from self._timed(asked, stopped)
            if result is None:
                yield SKIP, SKIP, render.note(texts.RACE_STOPPED)
            else:
                self.shelf.add(session, race=result)
                yield gr.update(value=replay_message(result), visible=True), render.results(result), ""
        finally:
            self.stops.end(session, stopped)

    def race(
        self,
        a: str,
        b: str,
        c: str = "",
        length: int = 128,
        steps: int = STEPS,
        strategy: str = "confidence",
        repeats: int = 2,
        seed: int = 0,
        request: gr.Request | None = None,  # Gradio gives it
    ) -> dict:
        """Race two or three masked diffusion language models: who fills a canvas of masks fastest, timed fairly.

        Lanes run one after the other in alternating order after a warm-up; figures are medians. Takes seconds on
        small models and minutes on large ones.

        Args:
            a: name of the first model, one of those that `models` lists
            b: name of the second model
            c: name of a third model, or an empty string for none
            length: tokens on the canvas, all masked at first
            steps: steps of the sampler
            strategy: which masks go first, e.g. confidence, entropy, margin, random or ancestral
            repeats: timed runs of each model
            seed: of the noise, the same for every model
        Returns:
            Milliseconds per step, tokens/s, forward passes, memory and parameters of each entry, and what was fair.
        """
        asked = read_race(self.models, self.limits, a, b, c, length, steps, strategy, repeats, seed)
        session = request and request.session_hash
        stopped = self.stops.flag(session)
        try:
            with self.models.turn():
                result = returned(self._timed(asked, stopped))
        finally:
            self.stops.end(session, stopped)
        if result is None:
            raise Refused(texts.RACE_STOPPED)
        return self.shelf.add(session, race=result).to_dict()

    def _timed(self, asked: RaceRequest, stopped: Event) -> Generator[Update, None, RaceResult | None]:
        """Load the entries and race them; None where the visitor pressed Stop."""
        from diffuapriel.benchmark.generation import race_events

        refuse_too_large(self.models, asked.model_entries)
        entries = [self.models.load(model_entry).tuned() for model_entry in asked.model_entries]
        shown = 0.0
        for event in race_events(
            entries,
            asked.length,
            asked.steps,
            strategy=asked.strategy,
            seed=asked.seed,
            repeats=asked.repeats,
        ):
            if stopped.is_set():
                return None
            if event.result is not None:
                return event.result
            if time.monotonic() - shown >= REFRESH_SECONDS:
                shown = time.monotonic()
                timed = texts.TIMED.format(repeat=event.repeat + 1, repeats=asked.repeats)
                phase = timed if event.phase == "timed" else texts.WARM_UP
                line = texts.RACE_PROGRESS.format(phase=phase, entry=event.entry, step=event.step)
                yield SKIP, SKIP, render.progress(event.fraction, line)
        return None


def returned(stream: Generator[Any, None, Any]) -> Any:
    """What a generator returns, whatever it yields on the way: for callers of the API, who see no progress bar."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def replay_message(result: RaceResult) -> str:
    """The message that makes the player replay all generations on one clock."""
    from diffuapriel.trace.messages import race_message, to_text

    entries = []
    for entry in result.entries:
        assert entry.trace is not None, "a race that was just run holds its traces"
        note = texts.LANE_NOTE.format(ms=entry.ms_per_step, rate=entry.tokens_per_second)
        entries.append({"label": entry.name, "note": note, "trace": entry.trace.to_dict()})
    return to_text(race_message(entries))
