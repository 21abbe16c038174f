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

from app.race.outcome import outcomes
from app.race.replay import pixels_arguments, replays
from app.race.request import (
    NO_ENTRY,
    OWN_RULE,
    Opening,
    RaceRequest,
    RaceSetting,
    RacingModel,
    distilled_pairs,
    load_entries,
    race_settings,
    race_strategies,
    racing_models,
    read_race,
)
from app.race.store import ResultStore, SavedResult
from app.server.api import endpoint
from app.server.guard import guarded_stream
from app.server.limits import Limits, Refused, Settings
from app.server.models import Models
from app.server.queue import MODEL
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import AT_ONCE, SKIP, returned, wire_run
from app.ui.inputs import run_row, slider

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import RaceResult

REFRESH_SECONDS = 0.25  # between two updates of a progress bar: short enough for Stop to be quick
LENGTH, STEPS = 128, 32  # of a caller of the API
RULE_LESS = "low_confidence"  # how an entry without a rule writes where each takes its own
Update = tuple[Any, Any, Any, str]  # the player, the pictures, table, status


class RacePart:
    """The handlers of the race, and the part of the page that calls them."""

    def __init__(self, models: Models, limits: Limits, store: ResultStore) -> None:
        self.models, self.limits, self.store = models, limits, store
        self.stops = Stops()

    def build(
        self, player: dict[str, Any], entries: list[Any], opening: Opening
    ) -> tuple[list[Any], list[Any], list[Any], Any]:
        """Draw it.

        Returns the runs as events, the settings in the order of the endpoint, [player, pictures, table], and the
        status line.
        """
        settings, start = race_settings(self.models, self.limits), opening.long
        with gr.Row():
            length = slider(settings["length"], start.length, texts.LENGTH, min_width=200)
            steps = slider(settings["steps"], start.steps, texts.STEPS, min_width=200)
            repeats = slider(settings["repeats"], 2, texts.REPEATS, min_width=200)
        with gr.Accordion(texts.RACE_MORE, open=False), gr.Row():
            words = texts.STRATEGIES | {OWN_RULE: texts.OWN_RULE}
            strategies = [(words[name], name) for name in race_strategies(self.models)]
            strategy = gr.Dropdown(strategies, value="low_confidence", label=texts.STRATEGY, min_width=200)
            block = slider(settings["block"], start.block, texts.BLOCK, texts.BLOCK_INFO, min_width=200)
            seed = gr.Number(0, label=texts.SEED, precision=0, min_width=120, **settings["seed"].range)
        presets = [self._preset(one, settings) for one in (opening.short, opening.long)]
        pairs = [self._pair(*pair, settings) for pair in distilled_pairs(self.models)]
        beside = [button for button, _ in (*presets, *pairs)]
        run, stop, status = run_row("race", texts.RACE, beside=beside)
        starts = [
            button.click(lambda values=values: values, None, [length, steps, block], **AT_ONCE)
            for button, values in presets
        ]
        starts += [
            button.click(lambda values=values: values, None, [*entries, length, steps, strategy], **AT_ONCE)
            for button, values in pairs
        ]
        replay = gr.HTML(**player, elem_id="race-player", visible=False)
        pixels = gr.HTML(**pixels_arguments(), elem_id="race-pixels", visible=False)
        table = gr.HTML("", elem_id="race-results", apply_default_css=False)
        chosen = [length, steps, strategy, repeats, seed, block]
        handler = guarded_stream(self.run, lambda message: (SKIP, SKIP, SKIP, render.note(message, bad=True)))
        shown = [replay, pixels, table]
        inputs, outputs = [*entries, *chosen], [*shown, status]
        runs = wire_run(run, stop, self.stops, handler, inputs, outputs, status=status, also=starts)
        endpoint(self.race, "race", choices={"strategy": race_strategies(self.models)}, group=MODEL)
        return runs, chosen, shown, status

    def _preset(self, setting: RaceSetting, settings: Settings) -> tuple[gr.Button, tuple[int, int, int]]:
        """A button that starts a race at a length, not drawn yet, and its (length, steps, block)."""
        length = min(setting.length, settings["length"].range["maximum"])
        steps = min(setting.steps, settings["steps"].range["maximum"])
        label = texts.RACE_AT.format(length=length)
        button = gr.Button(label, scale=0, min_width=230, elem_id=f"race-at-{setting.length}", render=False)
        return button, (length, steps, setting.block)

    def _pair(
        self, teacher: RacingModel, student: RacingModel, settings: Settings
    ) -> tuple[gr.Button, tuple[Any, ...]]:
        """A button that races a distilled model against its teacher, not drawn yet, and what it sets."""
        length = student.model_entry.window or LENGTH
        steps = min(length, settings["steps"].range["maximum"])  # of a teacher without a rule: one token per pass
        label = texts.RACE_DISTILLED.format(student=student.model_entry.label)
        button = gr.Button(label, scale=0, min_width=300, render=False, elem_classes="da-distilled")
        return button, (str(teacher), str(student), NO_ENTRY, length, steps, OWN_RULE)

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
        block: Any,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Race; yields (player, pictures, table, status). The result is kept for the visit."""
        asked = read_race(self.models, self.limits, a, b, c, length, steps, strategy, repeats, seed, block)
        with self.stops.running(request.session_hash) as stopped:
            yield SKIP, SKIP, SKIP, render.note(texts.WAITING)
            with self.models.turn():
                result = yield from self._timed(asked, stopped)
            if result is None:
                yield SKIP, SKIP, SKIP, render.note(texts.RACE_STOPPED)
            else:
                yield *self.shown(result, request.session_hash), ""
                self.store.add(request.session_hash, SavedResult(race=result))

    def race(
        self,
        a: str,
        b: str,
        c: str = "",
        length: int = LENGTH,
        steps: int = STEPS,
        strategy: str = "low_confidence",
        repeats: int = 2,
        seed: int = 0,
        block: int = 0,
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
            strategy: which masks are filled first, e.g. low_confidence, entropy, margin, random or ancestral; own_rule,
                where it is listed: each model by the rule that its card records
            repeats: timed runs of each model
            seed: of the noise, the same for every model
            block: fill blocks of this many tokens from left to right; 0 for the whole canvas at once. A model of blocks
                takes the block length in its name, and runs with its context cache
        Returns:
            The outcome in a sentence, then milliseconds per step, tokens/s, forward passes, memory, parameters, block
            length and bytes of the context cache of each entry, and what was fair.
        """
        from app.race.export import to_dict

        asked = read_race(self.models, self.limits, a, b, c, length, steps, strategy, repeats, seed, block)
        session = request and request.session_hash
        with self.stops.running(session) as stopped, self.models.turn():
            result = returned(self._timed(asked, stopped))
        if result is None:
            raise Refused(texts.RACE_STOPPED)
        return to_dict(self.store.add(session, SavedResult(race=result)))

    def shown(self, result: RaceResult, session: str | None) -> tuple[Any, Any, str]:
        """The updates of the player and of the pictures, and the result with that of other lengths beside it."""
        earlier = [one.race for one in self.store.of(session) if one.race]
        hints = [self.clock_hint(result)]
        if not result.own_rules and all(one.length == result.length for one in earlier):
            hints.append(texts.RACE_OTHER_LENGTH)
        return *replays(result), render.results(result, outcomes(result, earlier), " ".join(filter(None, hints)))

    def clock_hint(self, result: RaceResult) -> str:
        """Why the texts are not worth reading, in a sentence; "" where they are."""
        if any(entry.weights == "random" for entry in result.entries):
            return texts.CLOCK_RANDOM
        found = racing_models(self.models)
        known = [found[entry.name].model_entry for entry in result.entries if entry.name in found]
        window = min((one.window for one in known if one.window), default=result.length)
        if result.length > window:
            return texts.CLOCK_WINDOW.format(window=window)
        if result.own_rules:
            return ""
        blocks = [result.block_length if one.block_length is None else one.block_length for one in result.entries]
        passes = min(max(one.forward_passes, result.steps) for one in result.entries)
        return "" if all(blocks) and passes >= result.length else texts.CLOCK_STEPS

    def _timed(self, asked: RaceRequest, stopped: Event) -> Generator[Update, None, RaceResult | None]:
        """Load the entries and race them; None where the visitor pressed Stop."""
        from diffuapriel.benchmark.generation import race_events

        entries = load_entries(self.models, asked.entries, own_rules=asked.own_rules)
        options: dict[str, Any] = {"seed": asked.seed, "repeats": asked.repeats, "block_length": asked.block or None}
        options |= {"strategy": RULE_LESS if asked.own_rules else asked.strategy}
        options |= {"temperature": asked.temperature, "top_p": asked.top_p}
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
                yield SKIP, SKIP, SKIP, render.progress(event.fraction, line)
        return None
