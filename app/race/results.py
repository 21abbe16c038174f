"""The last part of the Race tab: what was measured in this visit, compared side by side and saved."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from app.race.charts import latency_panel, rate_panel
from app.race.export import document, exported, read_results
from app.race.live import RacePart
from app.race.store import MOST_RESULTS, ResultStore, SavedResult
from app.server import limits as check
from app.server.api import endpoint
from app.server.guard import guarded_stream
from app.server.limits import Limits, Refused
from app.strings.language import texts
from app.strings.numbers import figure
from app.ui import render
from app.ui.events import AT_ONCE, HIDDEN, SKIP
from diffuapriel import assets

RECORDED = "race.json"  # in assets: the answer of tools/race_gpu.py on a GPU
# The lanes stand below the settings; they are drawn a moment after the answer has come.
SHOW = "() => { setTimeout(() => document.querySelector('#race-pixels')?.scrollIntoView({block: 'start'}), 100) }"
Compared = tuple[Any, ...]  # table, latency, tokens/s, JSON, CSV, PNG, the clear button


class ResultsPart:
    """The handlers, and the part of the page that calls them."""

    def __init__(self, store: ResultStore, limits: Limits) -> None:
        self.store, self.limits = store, limits

    def build(self, runs: Sequence[Any], race: RacePart, shown: list[Any], watch: gr.Button) -> None:
        """Draw it. `runs`: the events after which there may be a new result. shown: where `race` shows a result.

        watch: opens the bundled race.
        """
        about = texts.RESULTS_LEAD.format(most=MOST_RESULTS)
        gr.HTML(render.lead(texts.RESULTS_TITLE, about), apply_default_css=False)
        chosen = gr.CheckboxGroup(
            [], label=texts.RESULTS_CHOICE, visible=False, elem_id="results-choice", elem_classes="da-list"
        )
        table = gr.HTML(render.note(texts.RESULTS_NONE), elem_id="results-table", apply_default_css=False)
        with gr.Row(elem_classes="da-once-drawn"):
            latency = gr.Plot(show_label=False, elem_id="results-latency", min_width=320)
            rate = gr.Plot(show_label=False, elem_id="results-rate", min_width=320)
        with gr.Row(elem_classes="da-files"):
            small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 150, "visible": False}
            labels = (texts.SAVE_RESULTS_JSON, texts.SAVE_RESULTS_CSV, texts.SAVE_RESULTS_PNG)
            files = [
                gr.DownloadButton(label, elem_id=f"results-{kind}", **small)
                for kind, label in zip(("json", "csv", "png"), labels)
            ]
            clear = gr.Button(texts.RESULTS_CLEAR, elem_id="results-clear", **small)
            upload = gr.UploadButton(
                texts.RESULTS_OPEN, file_types=[".json"], elem_id="results-open", **{**small, "visible": True}
            )
        status = gr.HTML("", elem_id="results-status", apply_default_css=False)
        outputs = [table, latency, rate, *files, clear]
        compare = guarded_stream(self.compare, lambda message: (render.note(message, bad=True), *[SKIP] * 6))
        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        newest = {**private, "preprocess": False, "trigger_mode": "always_last"}  # none is left out while one draws
        listing = [chosen, table, *files]
        for run in runs:
            listed = run.then(self.listed, chosen, listing, queue=False, **private)
            listed.then(compare, chosen, outputs, **newest)
        opened = upload.upload(self.open, [upload, chosen], [status, *shown, *listing], **AT_ONCE)
        watched = watch.click(self.watch, chosen, [status, *shown, *listing], **AT_ONCE)
        watched.then(None, None, None, js=SHOW)
        for event in (opened, watched):
            event.then(compare, chosen, outputs, **newest)
        self.race = race
        chosen.input(compare, chosen, outputs, **newest)
        cleared = clear.click(self.clear, None, listing, queue=False, **private)
        cleared.then(compare, chosen, outputs, **newest)
        endpoint(self.results, "results")

    def listed(self, before: list[int] | None, request: gr.Request) -> tuple[Any, ...]:
        """The choice after a run: what was chosen stays chosen, and the newest result is chosen too; and its table.

        The table comes with the list. `compare` brings charts and files later; those of another choice are hidden.
        """
        kept = self.store.of(request.session_hash)
        chosen = [one.number for one in kept if one.number in (before or []) or one is kept[-1]]
        choices = [(one.title, one.number) for one in kept]
        choice = gr.update(choices=choices, value=chosen, visible=bool(kept))
        return choice, self.table(request.session_hash, chosen), HIDDEN, HIDDEN, HIDDEN

    def table(self, session: str | None, chosen: Sequence[int]) -> str:
        """The chosen results as a table, or a line that says why there is none."""
        if kept := self.store.of(session, chosen):
            return comparison(kept)
        return render.note(texts.RESULTS_UNCHOSEN if self.store.of(session) else texts.RESULTS_NONE)

    def clear(self, request: gr.Request) -> tuple[Any, ...]:
        """Drop all results of the visit."""
        self.store.clear(request.session_hash)
        return self.listed(None, request)

    def open(self, path: Any, before: list[int] | None, request: gr.Request) -> tuple[Any, ...]:
        """Results from a file join those of the visit; the newest race of it is replayed.

        A refusal is a line of text: an error would leave Gradio's red mark on the page.
        """
        try:
            found = read_results(path, self.limits)
        except Refused as refused:
            return render.note(str(refused), bad=True), *[SKIP] * 8
        session = request.session_hash
        races = [one.race for one in found if one.race]
        seen = self.race.shown(races[-1], session) if races else (SKIP, SKIP, SKIP)
        numbers = [self.store.add(session, one).number for one in found]
        return render.note(texts.RESULTS_OPENED), *seen, *self.listed([*(before or []), *numbers], request)

    def watch(self, before: list[int] | None, request: gr.Request) -> tuple[Any, ...]:
        """The bundled race, as if its file had been opened."""
        return self.open(str(assets.path(RECORDED)), before, request)

    def results(self, recordings: bool = False, request: gr.Request | None = None) -> dict:
        """All races and sweeps that this session has measured, oldest first, to be compared.

        Args:
            recordings: with the recordings of the newest races, a megabyte each: such an answer, saved as a JSON file,
                can be opened in the Race tab
        Returns:
            Each result with its number, time, figures, outcome and what was fair.
        """
        mine = self.store.of(request.session_hash) if request else []
        return document(mine, recordings=check.switch("recordings", recordings))

    def compare(self, chosen: Any, request: gr.Request) -> Iterator[Compared]:
        """The chosen results in one table and chart, and as files."""
        from diffuapriel.charts.plotly import draw

        numbers = read_numbers(chosen)
        kept, table = self.store.of(request.session_hash, numbers), self.table(request.session_hash, numbers)
        clear = gr.update(visible=bool(self.store.of(request.session_hash)))
        if not kept:
            yield table, None, None, HIDDEN, HIDDEN, HIDDEN, clear
            return
        charts: list[Any] = [None, None]
        if len(sweeps := [one for one in kept if one.sweep]) > 1:  # one alone is drawn above
            charts = [render.localized(draw(panel(sweeps))) for panel in (latency_panel, rate_panel)]
        with exported(kept) as files:  # Gradio takes its copies while the handler waits here
            json_file, csv_file, png_file = (gr.update(value=file, visible=True) for file in files)
            yield table, *charts, json_file, csv_file, png_file, clear


def read_numbers(chosen: Any) -> list[int]:
    """The numbers of the chosen results. Raises Refused for anything else."""
    if not isinstance(chosen, list | None) or len(chosen or []) > MOST_RESULTS:
        raise Refused(texts.RESULTS_CHOSEN.format(value=check.shown(chosen), most=MOST_RESULTS))
    return [check.whole_number("a result", number, 1, 10**6) for number in chosen or []]


def comparison(results: Sequence[SavedResult]) -> str:
    """One row per entry: milliseconds, tokens/s, and its time against the fastest at the same length and steps."""
    found = [row for one in results for row in measured(one)]
    alike: dict[tuple[Any, ...], list[float]] = {}
    for row in found:
        alike.setdefault(row["work"], []).append(row["time"])
    rows = []
    for row in found:
        name, ms = html.escape(row["entry"]), row["ms"]
        title = f'<th scope="row">{name}<small>{html.escape(row["result"])}</small></th>'
        same = alike[row["work"]]
        times = texts.number(row["time"] / min(same), ".2f") + "×" if len(same) > 1 else "–"
        length, rate = texts.number(row["length"], ","), texts.number(row["rate"], ",.0f")
        cells = (length, row["steps"], figure(ms), rate, times)
        rows.append(f"<tr>{title}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    mixed = len({one.kind for one in results}) > 1
    return render.table(texts.RESULTS_COLUMNS, rows) + (render.note(texts.RESULTS_MIXED) if mixed else "")


def measured(result: SavedResult) -> list[dict[str, Any]]:
    """What the table says of each entry, for a sweep at its longest length. `time`: of a generation, or of a pass."""
    shared: dict[str, Any] = {"result": texts.RESULTS_KINDS[result.kind].format(number=result.number)}
    if race := result.race:
        shared |= {"length": race.length, "steps": f"{race.steps}", "work": ("race", race.length, race.steps)}
        return [
            {**shared, "entry": e.name, "ms": e.ms_per_step, "rate": e.tokens_per_second, "time": e.seconds}
            for e in race.entries
        ]
    assert result.sweep is not None, "a result is that of a race or of a sweep"
    longest = {point.entry: point for point in sorted(result.sweep.points, key=lambda p: p.length)}
    points = [longest[entry] for entry in result.sweep.entries if entry in longest]
    shared |= {"steps": "–"}
    return [
        {
            **shared,
            **{"entry": p.entry, "length": p.length, "ms": p.ms, "rate": p.tokens_per_second},
            **{"work": p.length, "time": p.ms},
        }
        for p in points
    ]
