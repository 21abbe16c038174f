"""The screen's time is nobody's: a slow reader changes no trace and no clock, and neither do frames it never sees."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.generation import race_events
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.messages import Feed
from diffuapriel.trace.trace import Trace

TOKENIZER = get_tokenizer("gpt2-4k")
STEP, DAWDLING = 2.0, 1000.0  # seconds


@pytest.fixture
def clock(monkeypatch):
    """A clock that nothing moves but the denoiser and whoever looks on."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def denoiser(clock):
    def call(ids, sigma, positions):
        clock[0] += STEP
        return torch.linspace(0, 9, TOKENIZER.vocab_size).repeat(int(positions.sum()), 1)

    return call


def entry(clock) -> Entry:
    return Entry("toy", denoiser(clock), TOKENIZER, architecture="diffuapriel", parameters=1)


@pytest.mark.parametrize("dawdling", [0.0, DAWDLING])
def test_a_slow_screen_is_in_no_figure_of_a_race(clock, dawdling):
    events = []
    for event in race_events([entry(clock), entry(clock)], 8, 4, repeats=2):
        events.append(event)
        clock[0] += dawdling  # a progress bar is drawn
    for result in events[-1].result.entries:
        assert result.seconds == 4 * STEP and result.step_ms == (1000 * STEP,) * 4
        assert [frame.ms for frame in result.trace.frames[1:]] == [1000 * STEP] * 4


@pytest.mark.parametrize("interval", [0.0, 3 * STEP, 1e9])
def test_frames_dropped_for_the_screen_are_in_the_trace_with_their_own_time(clock, interval):
    sampler = Sampler(SamplerConfig(steps=6), get_schedule("log-linear"), TOKENIZER.mask_id)
    canvas = Canvas.masks(12, TOKENIZER)
    feed = Feed(canvas, TOKENIZER, {}, interval=interval, now=time.perf_counter)
    frames, sent = [], 0
    for frame in sampler.stream(denoiser(clock), canvas):
        frames.append(frame)
        sent += feed.add(frame) is not None
        clock[0] += DAWDLING if interval == 0 else 0.0
    assert sent == {0.0: 7, 3 * STEP: 3, 1e9: 1}[interval]
    trace = Trace.of(frames, canvas, TOKENIZER, sampler.config)
    undisturbed = Trace.record(sampler, denoiser([0.0]), canvas, TOKENIZER)
    assert [f.ms for f in trace.frames] == [0.0] + [1000 * STEP] * 6
    assert [dataclasses.replace(f, ms=0, denoiser_ms=0) for f in trace.frames] == [
        dataclasses.replace(f, ms=0, denoiser_ms=0) for f in undisturbed.frames
    ]
    assert [f["step"] for f in feed.finish()["frames"]] == list(range(7))
