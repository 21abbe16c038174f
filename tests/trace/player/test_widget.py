"""The notebook player: traits, live runs, and the picture that outlives the widget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("anywidget", reason="needs anywidget: pip install anywidget ipywidgets")

from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.trace.messages import compact, last_ids
from diffuapriel.trace.player import read_source
from diffuapriel.trace.player.widget import Player, snapshot
from diffuapriel.trace.trace import Trace
from tests.trace.player.example import page_of, trace
from tests.trace.test_messages import Words, canvas_of, step_frames

CONFIG = SamplerConfig(steps=8)


def real_trace(**options) -> Trace:
    data = trace(**options)
    return Trace.of(step_frames(data), canvas_of(data), Words(), CONFIG, model="tales")


def test_the_widget_carries_the_one_module_and_its_style():
    player = Player()
    assert player._esm == read_source("player.js")
    assert player._css == read_source("player.css")
    assert set(player.keys) >= {"message", "height", "snapshot_id"}


def test_a_trace_becomes_the_widgets_state():
    recorded = real_trace()
    player = Player.from_trace(recorded, height="20rem")
    assert last_ids(player.message) == list(recorded.final)
    assert player.message["header"]["meta"]["model"] == "tales"
    assert player.height == "20rem"
    json.dumps(player.get_state())
    assert repr(player) == "Player: 24 tokens, 8 steps"


@pytest.mark.parametrize("wrong", [None, {}, "trace.json"])
def test_only_a_trace_is_taken(wrong):
    with pytest.raises(TypeError, match="from_trace takes a Trace"):
        Player.from_trace(wrong)


def test_watching_shows_the_frames_as_they_come_and_returns_the_trace():
    data = trace(steps=8)
    player = Player()
    shown = []
    player.observe(lambda change: shown.append(change["new"]), "message")
    seen_when_drawn = []

    def frames():
        for frame in step_frames(data):
            yield frame
            seen_when_drawn.append(len(shown))

    recorded = player.watch(frames(), canvas_of(data), Words(), CONFIG, model="tales")
    assert recorded == real_trace(steps=8)
    assert seen_when_drawn[0] == 1  # the first frame was on its way before the second was asked for
    assert not shown[0]["done"] and shown[-1]["done"]
    assert last_ids(player.message) == data["frames"][-1]["ids"]
    assert player.message["header"]["meta"]["steps"] == 8


def test_recording_runs_the_sampler():
    data = trace(steps=8)

    class Replays:
        config = CONFIG

        def stream(self, denoiser, canvas):
            assert denoiser == "denoiser"
            yield from step_frames(data)

    player = Player()
    assert player.record(Replays(), "denoiser", canvas_of(data), Words(), model="tales") == real_trace(steps=8)


def test_an_error_in_the_model_is_the_cells_error_and_what_was_seen_stays():
    data = trace(steps=8)
    player = Player()

    def frames():
        yield from step_frames(data)[:4]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        player.watch(frames(), canvas_of(data), Words(), CONFIG)
    assert player.message["done"] and len(player.message["frames"]) == 4


def test_the_picture_is_the_last_canvas_as_plain_markup():
    message = compact(trace(length=24, words={5: "<img src=x onerror=alert(1)>", 6: "a\nb"}))
    picture = snapshot(message, "da-snapshot-1")
    assert picture.startswith('<div id="da-snapshot-1">')
    assert "<img" not in picture and "&lt;img src=x onerror=alert(1)&gt;" in picture
    assert "&lt;|endoftext|&gt;" in picture and "<script" not in picture
    message["frames"] = message["frames"][:1]
    assert snapshot(message, "x").count("background:rgba") == 22
    assert snapshot({}, "x") == '<div id="x"></div>'


def test_an_exported_page_is_put_together_as_these_tests_put_it():
    recorded = real_trace()
    assert recorded.to_html(title="tales") == page_of(recorded.to_dict(), "tales")


NOTEBOOK = """
from tests.trace.player.test_widget import CONFIG, Player, Words, canvas_of, step_frames, trace
data = trace(steps=8)
recorded = Player().watch(step_frames(data), canvas_of(data), Words(), CONFIG, model="tales")
print(len(recorded.frames))
"""


@pytest.mark.slow
def test_a_notebook_keeps_the_widget_and_below_it_the_picture():
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient: pip install nbclient")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    root = {"metadata": {"path": str(Path(__file__).parents[3])}}
    nbclient.NotebookClient(notebook, timeout=120, resources=root).execute()
    widget, picture, printed = notebook.cells[0].outputs
    model = widget["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert widget["data"]["text/plain"].startswith("Player")
    assert f"da-snapshot-{model}" in picture["data"]["text/html"]
    assert "Mia found a small" in picture["data"]["text/html"]
    assert printed["text"] == "9\n"
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"][model]["state"]
    assert state["message"]["done"] is True and state["_esm"] == read_source("player.js")


def test_a_frozen_config_is_told_to_the_player_in_full():
    player = Player()
    data = trace(steps=8)
    player.watch(step_frames(data), canvas_of(data), Words(), CONFIG)
    assert dataclasses.asdict(CONFIG).items() <= player.message["header"]["meta"].items()
