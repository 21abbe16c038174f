"""A recording: each change once, exact in both directions, small, and safe to read from a stranger."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.recording import Recorder, Recording
from tests.sampling.models import fixed_logits

TOKENIZER = get_tokenizer("gpt2-4k")


def recorded(strategy: str = "low_confidence", text: str = "Mia found a") -> tuple[Recording, list[list[int]]]:
    """A recording, and the ids after each frame."""
    canvas = Canvas.from_text(text, TOKENIZER, 24)
    sampler = Sampler(SamplerConfig(strategy=strategy, steps=6), get_schedule("log-linear"), TOKENIZER.mask_id)
    recorder = Recorder(24, TOKENIZER.mask_id)
    frames = [list(frame.ids) for frame in sampler.stream(fixed_logits(24, TOKENIZER.vocab_size), canvas)]
    for ids in frames:
        recorder.add(np.array(ids))
    return recorder.recording([float(step) for step in range(len(frames))]), frames


@pytest.mark.parametrize("strategy", ["low_confidence", "remdm"])
def test_every_canvas_comes_back(strategy):
    recording, frames = recorded(strategy)
    assert [ids.tolist() for ids in recording.canvases()] == frames
    again = Recording.from_dict(json.loads(json.dumps(recording.to_dict())))
    assert [ids.tolist() for ids in again.canvases()] == frames
    assert again.ms == recording.ms and again.counts == recording.counts


def test_as_a_trace_it_tells_what_was_given_revealed_and_masked_again():
    recording, frames = recorded("remdm")
    trace = recording.trace(TOKENIZER, SamplerConfig(strategy="remdm", steps=6), model="toy")
    assert [list(frame.ids) for frame in trace.frames] == frames
    assert trace.fixed.count(True) == len(TOKENIZER.encode("Mia found a"))
    for before, frame in zip(frames, trace.frames[1:]):
        assert {p for p in range(24) if before[p] != frame.ids[p]} == {*frame.revealed, *frame.remasked}
        assert all(frame.ids[p] == TOKENIZER.mask_id for p in frame.remasked)
    assert type(trace).from_json(trace.to_json()).frames == trace.frames


def test_a_canvas_of_65536_tokens_in_64_steps_takes_less_than_a_megabyte():
    rng, ids = np.random.default_rng(0), np.full(65_536, 50_257)
    recorder = Recorder(65_536, 50_257)
    recorder.add(ids)
    for positions in rng.permutation(65_536).reshape(64, -1):
        ids[positions] = rng.integers(0, 50_000, len(positions))
        recorder.add(ids)
    recording = recorder.recording([0.0] + [1.0] * 64)
    assert len(json.dumps(recording.to_dict())) < 1_000_000
    *_, last = recording.canvases()
    assert (last == ids).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema", "diffuapriel-trace"),
        ("length", 70_000),
        ("length", "24"),
        ("mask_id", 0),
        ("counts", [-1] * 7),
        ("counts", "AAAA"),
        ("ms", [0.0]),
        ("ms", [float("nan")] * 7),
        ("positions", "not base64"),
        ("positions", ""),
        ("ids", 7),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    recording, _ = recorded()
    with pytest.raises(ValueError, match=name):
        Recording.from_dict(recording.to_dict() | {name: value})


def test_a_position_or_token_out_of_range_is_refused():
    recording, _ = recorded()
    far = Recording(
        recording.length, recording.mask_id, recording.counts, recording.ms, recording.positions + 24, recording.ids
    )
    with pytest.raises(ValueError, match="positions has"):
        Recording.from_dict(far.to_dict())
    with pytest.raises(ValueError, match="schema is"):
        Recording.from_dict("recording")
