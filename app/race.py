"""The Race tab: two models on the same canvas, timed fairly by `diffuapriel.race`, replayed side by side.

The tab draws and the package measures: no time is taken here. A race and a sweep hold the machine's one turn
from beginning to end, so that nobody else's run is timed with theirs.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import limits as check
from app import render, texts
from app.chart import sweep_chart
from app.guard import guarded_stream
from app.limits import Limits
from app.models import Entry, Models
from app.stops import Stops, wire_run

if TYPE_CHECKING:
    from diffuapriel.race import RaceResult, SweepResult

REFRESH_SECONDS = 0.25  # of a progress bar: often enough for Stop to be quick
SAME = gr.skip()
SWEEP_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)  # offered as the longest


@dataclass(frozen=True)
class RaceRequest:
    """What a visitor asked for, after every value has been checked."""

    entries: tuple[Entry, Entry]
    length: int
    steps: int
    strategy: str
    repeats: int
    seed: int


def read_race(
    models: Models,
    limits: Limits,
    a: Any,
    b: Any,
    length: Any,
    steps: Any,
    strategy: Any,
    repeats: Any,
    seed: Any,
) -> RaceRequest:
    """Check every value as it came from the page. Raises Refused that names the first bad one."""
    from diffuapriel.sampling.options import STRATEGIES

    return RaceRequest(
        entries=(models.entry(a), models.entry(b)),
        length=check.whole_number("length", length, 1, limits.race_tokens(models.device)),
        steps=check.whole_number("steps", steps, 1, limits.max_steps),
        strategy=check.choice("strategy", strategy, STRATEGIES),
        repeats=check.whole_number("timed runs", repeats, 1, limits.max_repeats),
        seed=check.whole_number("seed", seed, 0, check.MAX_SEED),
    )


class RaceTab:
    """The handlers of the tab, and the page that calls them."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.race_stops, self.sweep_stops = Stops(), Stops()

    def build(self, player: dict[str, Any]) -> None:
        """Draw the tab inside the present `gr.Blocks`. `player`: arguments that make a gr.HTML the player."""
        gr.HTML(
            render.lead("", f"{texts.RACE_LEAD} {where_it_runs(self.models.device)}"), apply_default_css=False
        )
        a_name, b_name = self.models.opening_pair()
        with gr.Row():
            a = gr.Dropdown(
                self.models.everything, value=a_name, label=texts.LANE_A, min_width=260, elem_id="race-a"
            )
            b = gr.Dropdown(
                self.models.everything, value=b_name, label=texts.LANE_B, min_width=260, elem_id="race-b"
            )
        with gr.Row():
            most = self.limits.race_tokens(self.models.device)
            length = gr.Slider(1, most, 128, step=1, label=texts.LENGTH, min_width=200)
            steps = gr.Slider(
                1,
                self.limits.max_steps,
                min(32, self.limits.max_steps),
                step=1,
                label=texts.STEPS,
                min_width=200,
            )
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
        inputs = [a, b, length, steps, strategy, repeats, seed]
        outputs = [replay, table, status]
        handler = guarded_stream(self.run_race, lambda message: (SAME, SAME, render.note(message, bad=True)))
        wire_run(run, stop, self.race_stops, handler, inputs, outputs, status=status, name="race")

        gr.HTML(render.lead(texts.SWEEP_TITLE, texts.SWEEP_LEAD), apply_default_css=False)
        longest = gr.Radio(
            [(f"{n:,}", n) for n in SWEEP_LENGTHS if n <= self.limits.max_sweep_length],
            value=4096,
            label=texts.LONGEST,
            info=texts.LONGEST_INFO,
            elem_id="sweep-longest",
        )
        with gr.Row(elem_classes="da-actions"):
            sweep_run = gr.Button(texts.SWEEP, variant="primary", scale=0, min_width=130, elem_id="sweep-run")
            sweep_stop = gr.Button(
                texts.STOP, interactive=False, scale=0, min_width=130, elem_id="sweep-stop"
            )
        sweep_status = gr.HTML("", elem_id="sweep-status", elem_classes="da-status", apply_default_css=False)
        chart = gr.Plot(show_label=False, elem_id="sweep-chart", visible=False)
        inputs, outputs = [a, b, longest], [chart, sweep_status]
        handler = guarded_stream(self.run_sweep, lambda message: (SAME, render.note(message, bad=True)))
        wire_run(
            sweep_run,
            sweep_stop,
            self.sweep_stops,
            handler,
            inputs,
            outputs,
            status=sweep_status,
            name="sweep",
        )

    # ---- the race -----------------------------------------------------------------------------------

    def run_race(
        self,
        a: Any,
        b: Any,
        length: Any,
        steps: Any,
        strategy: Any,
        repeats: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any, str]]:
        """Race; yields (replay for the player, table, status)."""
        asked = read_race(self.models, self.limits, a, b, length, steps, strategy, repeats, seed)
        session = request.session_hash
        stopped = self.race_stops.flag(session)
        try:
            yield SAME, SAME, render.note(texts.WAITING)
            with self.models.turn():
                result = yield from self._timed(asked, stopped)
            if result is None:
                yield SAME, SAME, render.note(texts.RACE_STOPPED)
            else:
                yield gr.update(value=self._replay(result), visible=True), render.results(result), ""
        finally:
            self.race_stops.forget(session)

    def _timed(
        self, asked: RaceRequest, stopped: Event
    ) -> Generator[tuple[Any, Any, str], None, RaceResult | None]:
        """Load both lanes and race them; None where the visitor pressed Stop."""
        from diffuapriel.race import race_events

        lanes = [self.models.load(entry).tuned() for entry in asked.entries]
        shown = 0.0
        for event in race_events(
            lanes,
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
                line = texts.RACE_PROGRESS.format(phase=phase, lane=event.lane, step=event.step)
                yield SAME, SAME, render.progress(event.fraction, line)
        return None

    def _replay(self, result: RaceResult) -> str:
        """The message that makes the player replay both generations on one clock."""
        from diffuapriel.player.wire import race_message, to_text

        lanes = []
        for lane in result.lanes:
            assert lane.trace is not None, "a race that was just run holds its traces"
            note = texts.LANE_NOTE.format(ms=lane.ms_per_step, rate=lane.tokens_per_second)
            lanes.append({"label": lane.name, "note": note, "trace": lane.trace.to_dict()})
        return to_text(race_message(lanes))

    # ---- the sweep ----------------------------------------------------------------------------------

    def run_sweep(self, a: Any, b: Any, longest: Any, request: gr.Request) -> Iterator[tuple[Any, str]]:
        """Measure latency against length; yields (chart, status) and redraws at every new point."""
        from diffuapriel.race import LENGTHS, sweep_events

        entries = (self.models.entry(a), self.models.entry(b))
        top = check.whole_number("longest length", longest, LENGTHS[0], self.limits.max_sweep_length)
        lengths = [n for n in LENGTHS if n <= top]
        session = request.session_hash
        stopped = self.sweep_stops.flag(session)
        try:
            yield SAME, render.note(texts.WAITING)
            with self.models.turn():
                lanes = [self.models.load(entry).tuned() for entry in entries]
                points, shown = 0, 0.0
                for event in sweep_events(lanes, lengths=lengths):
                    fresh, done = len(event.result.points) > points, event.fraction >= 1
                    if done or stopped.is_set():
                        break
                    if fresh or time.monotonic() - shown >= REFRESH_SECONDS:
                        points, shown = len(event.result.points), time.monotonic()
                        chart = drawn(event.result) if fresh else SAME
                        yield chart, render.progress(event.fraction, event.message)
            first = [] if done else [texts.SWEEP_STOPPED]
            yield drawn(event.result), render.notes([*first, *summary(event.result)])
        finally:
            self.sweep_stops.forget(session)


def where_it_runs(device: str) -> str:
    """Where a race runs, in a sentence."""
    import torch

    from diffuapriel.race.race import machine_name

    if device.startswith("cuda"):
        name = machine_name(torch.device(device))
        return f"The race runs on {name}, in bfloat16; the first run of a model compiles it, half a minute or so."
    if device == "cpu" and not torch.cuda.is_available():
        return "There is no NVIDIA GPU here: the race runs on the CPU."
    return f"The race runs on {'the CPU' if device == 'cpu' else device}."


def drawn(result: SweepResult) -> Any:
    """The chart's update: hidden until there is a point."""
    return gr.update(value=sweep_chart(result), visible=bool(result.points))


def summary(result: SweepResult) -> list[str]:
    """The crossover in words, and what was not run and why."""
    lines = [cross.message for cross in result.crossovers]
    seen: set[str] = set()
    for refused in result.refusals:
        if refused.message not in seen:
            seen.add(refused.message)
            lines.append(f"{texts.NOT_RUN}: {refused.message}.")
    return lines
