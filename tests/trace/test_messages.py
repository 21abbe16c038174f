"""What travels to the player: small, whole at the end, and the same run as the trace it came from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.frames import StepFrame
from diffuapriel.trace import messages as wire
from tests.trace.player.example import EOS, MASK, trace, vocab


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Words:
    """Stands in for a tokenizer; remembers what it was asked."""

    name, eos_id, mask_id = "words", EOS, MASK

    def __init__(self) -> None:
        self.asked: list[int] = []

    def token_strings(self, ids) -> list[str]:
        self.asked += ids
        return [vocab()[str(i)] for i in ids]


def step_frames(data: dict) -> list[StepFrame]:
    top_k = [{int(p): tuple(map(tuple, rows)) for p, rows in f["top_k"].items()} for f in data["frames"]]
    return [StepFrame(**{**f, "top_k": rows}) for f, rows in zip(data["frames"], top_k)]


def canvas_of(data: dict) -> Canvas:
    return Canvas(torch.tensor(data["frames"][0]["ids"]), torch.tensor(data["fixed"]), MASK)


def feed_of(data: dict, clock: Clock | None = None) -> wire.Feed:
    return wire.Feed(canvas_of(data), Words(), data["meta"], now=clock or Clock())


def rebuilt(frames: list[dict]) -> list[dict]:
    """Full frames again, as player.js makes them."""
    ids, confidence, entropy, full = [], [], [], []
    for frame in frames:
        if "ids" in frame:
            ids, confidence, entropy = (list(frame[key]) for key in ("ids", "confidence", "entropy"))
        for p, *values in frame.get("changes", []):
            ids[p], confidence[p], entropy[p] = values
        full.append({"step": frame["step"], "ids": [*ids], "confidence": [*confidence], "entropy": [*entropy]})
    return full


@pytest.mark.parametrize("remask_at", [None, 4])
def test_differences_hold_everything_that_a_trace_holds(remask_at):
    data = trace(length=40, steps=8, remask_at=remask_at)
    message = wire.compact(data)
    expected = [{key: f[key] for key in ("step", "ids", "confidence", "entropy")} for f in data["frames"]]
    assert rebuilt(message["frames"]) == expected
    assert [f["remasked"] for f in message["frames"]] == [f["remasked"] for f in data["frames"]]
    assert [set(f["top_k"]) for f in message["frames"]] == [set(f["top_k"]) for f in data["frames"]]
    assert wire.last_ids(message) == data["frames"][-1]["ids"]
    assert message["header"] == {key: data[key] for key in ("meta", "length", "mask_id", "eos_id", "fixed")}
    assert message["done"] and message["vocab"] == data["vocab"]


def test_a_missing_step_makes_the_next_frame_full():
    data = trace(length=24, steps=8)
    del data["frames"][3]
    frames = wire.compact(data)["frames"]
    assert ["ids" in frame for frame in frames] == [True, False, False, True, False, False, False, False]
    assert rebuilt(frames)[-1]["ids"] == data["frames"][-1]["ids"]


def test_a_long_trace_becomes_a_small_message():
    data = trace(length=512, steps=128)
    assert len(wire.to_text(wire.compact(data))) * 15 < len(json.dumps(data))


def test_no_token_can_look_like_a_tag():
    data = trace(words={5: "</script><script>alert(1)</script>"})
    text = wire.to_text(wire.compact(data))
    assert "<" not in text
    assert "</script><script>alert(1)</script>" in json.loads(text)["vocab"].values()


def test_a_feed_sends_no_more_than_twenty_messages_a_second():
    data = trace(length=40, steps=20)
    clock = Clock()
    feed = feed_of(data, clock)
    sent = []
    for number, frame in enumerate(step_frames(data)):
        clock.now = number * 0.02
        if message := feed.add(frame):
            sent.append((round(clock.now, 2), message))
    assert [time for time, _ in sent] == [0.0, 0.06, 0.12, 0.18, 0.24, 0.3, 0.36]


def test_all_messages_together_and_the_last_one_alone_are_the_run():
    data = trace(length=40, steps=20, remask_at=7)
    clock = Clock()
    feed = feed_of(data, clock)
    messages = []
    for number, frame in enumerate(step_frames(data)):
        clock.now = number * 0.02
        if message := feed.add(frame):
            messages.append(message)
    last = feed.finish()
    assert last["done"] and not any(message["done"] for message in messages)
    assert {message["run"] for message in [*messages, last]} == {feed.run}
    assert [f["ids"] for f in rebuilt(last["frames"])] == [f["ids"] for f in data["frames"]]
    together = {f["step"]: f for message in [*messages, last] for f in message["frames"]}
    assert [together[step] for step in sorted(together)] == last["frames"]


def test_the_first_message_is_whole_and_so_is_one_each_time_the_run_has_doubled():
    data = trace(length=40, steps=20)
    clock = Clock()
    feed = feed_of(data, clock)
    whole = []
    for number, frame in enumerate(step_frames(data)):
        clock.now = float(number)
        message = feed.add(frame)
        assert message is not None
        if "header" in message:
            whole.append(number + 1)
            assert len(message["frames"]) == number + 1
        else:
            assert len(message["frames"]) == 1
    assert whole == [1, 2, 4, 8, 16]


def test_a_display_string_is_asked_for_once():
    data = trace(length=40, steps=8)
    words = Words()
    feed = wire.Feed(canvas_of(data), words, data["meta"])
    for frame in step_frames(data):
        feed.add(frame)
    assert len(words.asked) == len(set(words.asked))
    assert {int(i) for i in feed.finish()["vocab"]} == set(words.asked)


def test_a_run_that_never_began_can_still_be_finished():
    message = feed_of(trace()).finish()
    assert message["frames"] == [] and message["done"] and message["header"]["length"] == 24


@pytest.mark.parametrize("wrong", [{}, {"schema": "other"}, [], "text", None])
def test_what_is_no_trace_is_refused(wrong):
    with pytest.raises(ValueError, match=r"trace\.to_dict\(\)"):
        wire.compact(wrong)


def test_a_race_needs_lanes_and_a_positive_factor():
    with pytest.raises(ValueError, match="at least one lane"):
        wire.race_message([])
    with pytest.raises(ValueError, match=r"slow is -1.*above 0"):
        wire.race_message([{"label": "a", "trace": trace()}], slow=-1)
    message = wire.race_message([{"label": "a", "note": "b", "trace": trace()}], slow=2)
    assert message["lanes"][0]["trace"]["frames"] and message["slow"] == 2


def test_a_draft_is_sent_with_the_names_of_its_tokens():
    data = trace(length=8, steps=4, given=2)
    frames = [replace(frame, draft=((7, 3 + frame.step),)) for frame in step_frames(data)]
    feed = feed_of(data)
    for frame in frames:
        feed.take(frame)
    message = feed.finish()
    assert [frame["draft"] for frame in message["frames"]] == [[[7, 3 + step]] for step in range(5)]
    assert {"6", "7"} <= message["vocab"].keys()
