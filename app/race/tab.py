"""The Race tab: two or three models on the same canvas, timed fairly by `diffuapriel.benchmark`.

This file holds the entries and the order of the page; live.py races, replay.py and pixels.js show a race, outcome.py
puts it into words, sweep.py measures over the length, results.py compares, saves and opens.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.race.live import RacePart
from app.race.request import (
    NO_ENTRY,
    distilled_pairs,
    opening,
    race_settings,
    racing_choices,
    racing_models,
    sweep_settings,
    where_it_runs,
)
from app.race.results import RECORDED, ResultsPart
from app.race.store import ResultStore
from app.race.sweep import SweepPart
from app.server.api import endpoint
from app.server.limits import Limits
from app.server.models import Models
from app.strings.language import texts
from app.ui import render
from app.ui.permalink import wire_link
from diffuapriel import assets


class RaceTab:
    """The three parts of the tab, and the page that they share."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.store = ResultStore()
        self.race = RacePart(models, limits, self.store)
        self.sweep = SweepPart(models, limits, self.store)
        self.results = ResultsPart(self.store, limits)
        self.race_stops, self.sweep_stops = self.race.stops, self.sweep.stops

    def build(self, player: dict[str, Any]) -> None:
        """Build the tab inside the current `gr.Blocks`. `player`: arguments that make a gr.HTML the player."""
        about = f"{texts.RACE_LEAD} {where_it_runs(self.models.device)}"
        gr.HTML(render.lead("", about), apply_default_css=False)
        start = opening(self.models)
        entries = self._entries(start.entries)
        in_blocks = any(one.block_length is not None for one in racing_models(self.models).values())
        notes = [texts.RANDOM_WEIGHTS, *([texts.RACE_OF_BLOCKS] if in_blocks else [])]
        notes += [texts.RACE_OF_STUDENTS] if distilled_pairs(self.models) else []
        gr.HTML(render.notes(notes), apply_default_css=False)
        recorded = (assets.root() / RECORDED).is_file()
        watch = gr.Button(texts.RACE_WATCH, visible=recorded, scale=0, min_width=230, elem_id="race-watch")
        races, settings, shown, status = self.race.build(player, entries, start)
        sweeps, longest = self.sweep.build(entries)
        linked = race_settings(self.models, self.limits) | sweep_settings(self.models, self.limits)
        wire_link("race", linked, [*entries, *settings, longest], status)
        self.results.build([*races, *sweeps], self.race, shown, watch)
        endpoint(self.names, "models")

    def leave(self, session: str | None) -> None:
        """The visitor has closed the page."""
        self.store.clear(session)

    def names(self) -> list[str]:
        """List the names of all models that can be raced or measured: checkpoints first, then random weights.

        A model of blocks is listed once for each block length that it knows; at block length 1 it is autoregressive.

        Returns:
            The names, as race and sweep take them.
        """
        return list(racing_models(self.models))

    def _entries(self, start: tuple[str, str, str]) -> list[gr.Dropdown]:
        """The three entries; the third one may be empty."""
        a, b, c = start
        everything = racing_choices(self.models)
        third = [(texts.NO_ENTRY, NO_ENTRY), *everything]
        shared: dict[str, Any] = {"min_width": 240}
        with gr.Row():
            return [
                gr.Dropdown(everything, value=a, label=texts.ENTRY_A, elem_id="race-a", **shared),
                gr.Dropdown(everything, value=b, label=texts.ENTRY_B, elem_id="race-b", **shared),
                gr.Dropdown(third, value=c, label=texts.ENTRY_C, elem_id="race-c", **shared),
            ]
