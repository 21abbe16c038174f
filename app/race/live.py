"""The race: entries timed one after the other by `diffuapriel.benchmark`, and replayed side by side.

No time is taken here: the package measures, this part draws. A race holds the machine's one turn from beginning to
end, so that nobody else's run is timed with it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.race.request import RaceRequest, load_entries, race_settings, read_race
from app.race.store import ResultStore, SavedResult
from app.server.guard import guarded, guarded_stream
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import SKIP, wire_run
from app.ui.inputs import run_row, slider

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import RaceResult

REFRESH_SECONDS = 0.25  # between two updates of a progress bar: short enough for Stop to be quick
STEPS = 32
Update = tuple[Any, Any, str]  # message for the player, table, status


class RacePart:
    """The handlers of the race, and the part of the page that calls them."""

    def __init__(self, models: Models, limits: Limits, store: ResultStore) -> None:
        self.models, self.limits, self.store = models, limits, store
        self.stops = Stops()

    def build(self, player: dict[str, Any], entries: list[Any]) -> tuple[list[Any], list[Any], Any]:
        """Draw it. Returns the runs as events, [length, steps, strategy, timed runs, seed], and the status line."""
        settings = race_settings(self.models, self.limits)
        with gr.Row():
            length = slider(settings["length"], 128, texts.LENGTH, min_width=200)
            steps = slider(settings["steps"], STEPS, texts.STEPS, min_width=200)
            repeats = slider(settings["repeats"], 2, texts.REPEATS, min_width=200)
        with gr.Accordion(texts.RACE_MORE, open=False), gr.Row():
            strategies = [(label, name) for name, label in texts.STRATEGIES.items()]
            strategy = gr.Dropdown(strategies, value="low_confidence", label=texts.STRATEGY, min_width=200)
            seed = gr.Number(0, label=texts.SEED, precision=0, min_width=120, **settings["seed"].range)
        run, stop, status = run_row("race", texts.RACE)
        replay = gr.HTML(**player, elem_id="race-player", visible=False)
        table = gr.HTML("", elem_id="race-results", apply_default_css=False)
        chosen = [length, steps, strategy, repeats, seed]
        handler = guarded_stream(self.run, lambda message: (SKIP, SKIP, render.note(message, bad=True)))
        inputs, outputs = [*entries, *chosen], [replay, table, status]
        runs = wire_run(run, stop, self.stops, handler, inputs, outputs, status=status, name=None)
        gr.api(guarded(self.race), api_name="race", concurrency_id="model", concurrency_limit=1)
        return runs, chosen, status

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
        with self.stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                result = yield from self._timed(asked, stopped)
            if result is None:
                yield SKIP, SKIP, render.note(texts.RACE_STOPPED)
            else:
                self.store.add(request.session_hash, SavedResult(race=result))
                yield gr.update(value=replay_message(result), visible=True), render.results(result), ""

    def race(
        self,
        a: str,
        b: str,
        c: str = "",
        length: int = 128,
        steps: int = STEPS,
        strategy: str = "low_confidence",
        repeats: int = 2,
        seed: int = 0,
        request: gr.Request | None = None,  # Gradio gives it
    ) -> dict:
        """Race two or three masked diffusion language models: which fills a canvas of masks fastest, timed fairly.

        The models run one after the other in alternating order after a warm-up; figures are medians. Takes seconds
        with small models and minutes with large ones.

        Args:
            a: name of the first model, one of those that `models` lists
            b: name of the second model
            c: name of a third model, or an empty string for none
            length: tokens on the canvas, all masked at first
            steps: steps of the sampler
            strategy: which masks are filled first, e.g. low_confidence, entropy, margin, random or ancestral
            repeats: timed runs of each model
            seed: of the noise, the same for every model
        Returns:
            Milliseconds per step, tokens/s, forward passes, memory and parameters of each entry, and what was fair.
        """
        from app.race.export import to_dict

        asked = read_race(self.models, self.limits, a, b, c, length, steps, strategy, repeats, seed)
        session = request and request.session_hash
        with self.stops.running(session) as stopped, self.models.turn():
            result = returned(self._timed(asked, stopped))
        if result is None:
            raise Refused(texts.RACE_STOPPED)
        return to_dict(self.store.add(session, SavedResult(race=result)))

    def _timed(self, asked: RaceRequest, stopped: Event) -> Generator[Update, None, RaceResult | None]:
        """Load the entries and race them; None where the visitor pressed Stop."""
        from diffuapriel.benchmark.generation import race_events

        entries = load_entries(self.models, asked.model_entries)
        options = {"strategy": asked.strategy, "seed": asked.seed, "repeats": asked.repeats}
        shown = 0.0
        for event in race_events(entries, asked.length, asked.steps, **options):
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
    """What a generator returns, without what it yields: callers of the API see no progress bar."""
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
        note = texts.ENTRY_NOTE.format(ms=entry.ms_per_step, rate=entry.tokens_per_second)
        entries.append({"label": entry.name, "note": note, "trace": entry.trace.to_dict()})
    return to_text(race_message(entries))
