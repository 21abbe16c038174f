"""The Unmask tab's handlers: what is streamed, stopped, saved, opened and refused."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
import pytest

from app.server.guard import guarded, guarded_stream
from app.server.limits import Limits, Refused
from app.ui.events import SKIP
from app.unmask.tab import UnmaskTab
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace

TOKENIZER = get_tokenizer("gpt2-4k")
ASK = {
    "text": "Mia found a [MASK:6].",
    "model": "toy-diffuapriel",
    "length": 0,
    "steps": 6,
    "strategy": "low_confidence",
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "block": 0,
    "block_start": "prompt",
    "threshold": 0.9,
    "factor": 1.0,
    "entropy_bound": 0.1,
}


@pytest.fixture
def tab(models, limits) -> UnmaskTab:
    return UnmaskTab(models, limits)


def run(tab, visitor, **changes):
    """All updates of a run; the files are read before the next update, as Gradio does."""
    updates, files = [], []
    for update in tab.run(**(ASK | changes), request=visitor):
        updates.append(update)
        if isinstance(update[3], dict) and update[3].get("value"):
            files = [Path(part["value"]).read_text(encoding="utf-8") for part in update[3:]]
    return updates, files


def messages(updates) -> list[dict]:
    return [json.loads(update[0]) for update in updates if isinstance(update[0], str)]


def test_the_text_around_the_hole_stays_and_the_hole_is_filled(tab, visitor):
    updates, _ = run(tab, visitor)
    text = updates[-2][2]
    assert text.startswith("Mia found a ")
    assert text.endswith(".")
    assert "[MASK]" not in text


def test_frames_are_streamed_and_the_last_message_is_whole(tab, visitor):
    *_, last = messages(run(tab, visitor)[0])
    assert last["done"]
    assert [frame["step"] for frame in last["frames"]] == list(range(7))
    assert last["header"]["meta"]["model"] == "toy-diffuapriel"


def test_what_the_screen_leaves_out_is_in_the_trace(tab, visitor, monkeypatch):
    from diffuapriel.trace import messages as wire

    monkeypatch.setattr(wire.Feed.__init__, "__kwdefaults__", {"interval": 1e9, "now": lambda: 0.0})
    updates, (saved, _) = run(tab, visitor, length=40, steps=20)
    assert len({message["done"] for message in messages(updates)}) == 2
    assert len(messages(updates)) == 3  # the first, and the last twice
    assert len(Trace.from_json(saved).frames) == 21


def test_the_same_seed_writes_the_same_text(tab, visitor):
    first, again, other = (run(tab, visitor, seed=seed)[0][-2][2] for seed in (1, 1, 2))
    assert first == again != other


def test_the_saved_trace_opens_again_and_the_page_stands_alone(tab, visitor, tmp_path):
    updates, (saved, page) = run(tab, visitor)
    file = tmp_path / "trace.json"
    file.write_text(saved, encoding="utf-8")
    message, status, text = tab.show_trace(str(file))
    assert json.loads(message)["header"]["meta"]["strategy"] == "low_confidence"
    assert "7 frames" in status
    assert text == updates[-2][2]
    assert "<script" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_length_pads_with_masks_to_the_whole_story(tab, visitor):
    *_, last = messages(run(tab, visitor, length=40)[0])
    assert last["header"]["length"] == 40


def test_the_verdict_of_a_tales_model_says_where_it_breaks(tab, visitor):
    status = run(tab, visitor)[0][-2][1]
    assert "Does not fit the story grammar" in status
    assert "<mark" in status


def test_closing_the_page_gives_the_model_back(tab, visitor):
    stream = tab.run(**ASK, request=visitor)
    next(stream)
    next(stream)
    assert len(tab.room.seats) == 1
    stream.close()
    assert not tab.room.seats and not tab.models.busy
    assert len(tab.stops) == 0


def test_stop_ends_the_run_within_a_step_and_keeps_what_there_is(tab, visitor):
    tab.stops.arm(visitor.session_hash)
    stream = tab.run(**(ASK | {"length": 64, "steps": 64}), request=visitor)
    next(stream)
    next(stream)
    tab.stops.stop(visitor.session_hash)
    rest = list(stream)
    assert "Stopped after step" in rest[-2][1]
    assert not messages(rest)[-1]["done"] and not messages(rest)[-1]["live"]
    assert not tab.models.busy


def test_stop_in_the_queue_holds(tab, visitor):
    tab.stops.arm(visitor.session_hash)
    tab.stops.stop(visitor.session_hash)
    updates, _ = run(tab, visitor, length=64)
    assert "Stopped after step 0" in updates[-2][1]


def test_an_error_in_the_model_gives_the_turn_back(tab, visitor, monkeypatch):
    def broken(model_entry):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB")

    monkeypatch.setattr(tab.models, "load", broken)
    handler = guarded_stream(tab.run, lambda message: message)
    shown = []
    with pytest.raises(gr.Error, match="allocate memory") as caught:
        shown.extend(handler(**ASK, request=visitor))
    assert caught.value.title == "Not enough memory"
    assert not tab.models.busy


def test_the_message_of_an_error_stays_on_the_page(tab, visitor):
    shown = []
    handler = guarded_stream(tab.run, lambda message: f"last: {message}")
    with pytest.raises(gr.Error):
        for update in handler(**(ASK | {"steps": "<b>"}), request=visitor):
            shown.append(update)
    assert shown == ["last: steps is '<b>'; it must be a whole number from 1 to 256"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"text": 5}, "the text is 5"),
        ({"text": "a" * 20_001}, "has 20,001 characters"),
        ({"text": "[MASK:0]"}, "is not a hole"),
        ({"text": "[MASK:5000]"}, "it may take up to 1,024"),
        ({"model": "../secret"}, "model is '../secret'"),
        ({"model": "diffutran nano, random weights"}, "permitted: toy-diffuapriel"),
        ({"length": 2000}, "length is 2000"),
        ({"length": float("nan")}, "length is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"strategy": "magic"}, "strategy is 'magic'"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": None}, "temperature is None"),
        ({"top_k": -1}, "top-k is -1"),
        ({"top_p": 0}, "top-p is 0"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"block": 1025}, "block is 1025"),
        ({"block": 0.5}, "block is 0.5"),
        ({"block_start": "middle"}, "block-start is 'middle'; permitted: prompt, zero"),
    ],
)
def test_bad_values_are_refused_by_name_before_the_model_runs(tab, visitor, changes, names):
    with pytest.raises(ValueError, match=names.replace("[", r"\[")):
        run(tab, visitor, **changes)
    assert not tab.models.busy
    assert not tab.models._loaded or "text" in changes


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("", "this is not JSON"),
        ("{}", "no DiffuApriel trace"),
        ('{"schema": "diffuapriel-trace", "version": 99}', "version 99"),
        ("\x00\xff", "this is not JSON"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tab, tmp_path, content, names):
    file = tmp_path / "x.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(Refused, match=names):
        tab.show_trace(str(file))


def test_the_reason_of_a_refused_file_stays_in_the_line(tab, tmp_path):
    file = tmp_path / "x.json"
    file.write_text("no trace")
    canvas, status, text = tab.open_file(str(file), None)
    assert canvas == text == SKIP and "this is not JSON" in status


def test_a_file_that_is_too_large_or_missing_is_refused(models, tmp_path):
    tab = UnmaskTab(models, Limits(max_upload_bytes=10))
    file = tmp_path / "x.json"
    file.write_text("a" * 11)
    with pytest.raises(Refused, match="11 bytes; a trace may have up to 10"):
        tab.show_trace(str(file))
    for nothing in (None, str(tmp_path), str(tmp_path / "none"), 5):
        with pytest.raises(Refused, match="there is no file"):
            tab.show_trace(nothing)


def test_a_full_text_says_that_there_is_nothing_to_do(tab, visitor):
    length = len(TOKENIZER.encode("Mia found a cup."))
    updates, _ = run(tab, visitor, text="Mia found a cup.", length=length)
    assert "nothing to do" in updates[-2][1]


def test_a_length_left_open_is_that_of_the_text_or_of_a_story(tab, visitor):
    for text, length in (("Mia ___ a cup.", None), ("Mia found a cup", 96), ("", 96)):
        header = messages(run(tab, visitor, text=text)[0])[-1]["header"]
        assert header["length"] == (length or len(Canvas.from_text(text, TOKENIZER))), text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["Mia found ", "a white bell", "."], "Mia found [MASK:4]."),
        (["Mia found a", " white ", "bell."], "Mia found a [MASK:1] bell."),
        (["", "Mia", " found"], "[MASK:2] found"),
        (["Mia found a white bell", ".", ""], "Mia found a white bell[MASK:1]"),
    ],
)
def test_selected_words_become_a_hole_of_as_many_tokens(tab, pieces, text):
    assert tab.make_hole(pieces, "toy-diffuapriel", "") == text
    made, whole = (Canvas.from_text(t, TOKENIZER) for t in (text, "".join(pieces)))
    assert len(made) == len(whole)
    assert (made.masked | (made.ids == whole.ids)).all(), "nothing else changes"


def test_a_hole_needs_words(tab):
    with pytest.raises(Refused, match="select words"):
        tab.make_hole(["Mia ", " ", "found"], "toy-diffuapriel", "")


def test_errors_are_escaped():
    def refuse():
        raise Refused("the value is '<img src=x onerror=alert(1)>'")

    with pytest.raises(gr.Error) as caught:
        guarded(refuse)()
    assert "<img" not in caught.value.message
    assert "&lt;img" in caught.value.message
