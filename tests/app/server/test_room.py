"""The room: runs of several visitors in one pass, a race alone, and a turn for each in order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from app.server.limits import Limits
from app.server.models import Models
from app.server.room import Room
from app.server.turn import Turn
from app.unmask.tab import UnmaskTab
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import CachedDenoiser, SpeculativeDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.shared import Stopped
from diffuapriel.trace.steering import SteeredGeneration
from tests.app.toys import toy_blocks
from tests.app.unmask.toys import HeartModels


def wait_for(condition) -> None:
    for _ in range(12_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    turn, order = Turn(), []

    def take(name: int) -> None:
        assert turn.take(20)
        order.append(name)
        turn.give_back()

    assert turn.take(1)
    with ThreadPoolExecutor(5) as threads:
        for name in range(5):
            threads.submit(take, name)
            wait_for(lambda: len(turn._line) == name + 1)  # noqa: B023
        turn.give_back()
    assert order == [*range(5)] and not turn.taken


def test_a_turn_that_does_not_come_is_given_up_and_the_next_one_in_the_line_gets_it():
    turn, stopped = Turn(), threading.Event()
    assert turn.take(1)
    assert not turn.take(0.01)
    stopped.set()
    assert not turn.take(20, stopped)
    turn.give_back()
    assert turn.take(0)


def test_a_race_has_the_machine_alone_and_the_runs_go_on_afterwards(models):
    room, stopped = Room(models, 4), threading.Event()
    entry = models.find(models.trained[0])
    mask = models.tokenizer(entry).mask_id
    call = torch.full((1, 8), mask), torch.ones(1), torch.ones(1, 8, dtype=torch.bool)
    with room.seat(entry, stopped) as seat, ThreadPoolExecutor(1) as threads:
        with models.turn():
            waits = threads.submit(seat, *call)
            time.sleep(0.1)
            assert not waits.done()
        assert waits.result(timeout=60).shape == (8, mask + 1)
        seat.steps_left = 3
        seat(*call)
        [left] = room.seconds_left()
        assert left == pytest.approx(3 * seat.step_seconds) and left > 0
    assert not room.seats and not room.seconds_left()


def test_runs_that_draft_share_passes_among_themselves(tmp_path):
    models = Models([toy_blocks(tmp_path)])
    room, entry, tokenizer = Room(models, 4), models.find("toy-blocks"), models.tokenizer(models.find("toy-blocks"))
    drafts = SamplerConfig("speculative", block_length=4, block_start="zero")
    begin = threading.Barrier(3)

    def written(seed: int) -> list[int]:
        config = replace(drafts, seed=seed)
        run = SteeredGeneration(Canvas.from_text("Mia", tokenizer, 16), config, get_schedule("log-linear"))
        with room.seat(entry, threading.Event(), config) as seat:
            begin.wait(60)
            while not run.done:
                run.advance(seat)
        return run.state.ids[0].tolist()

    with ThreadPoolExecutor(2) as threads, room.seat(entry, threading.Event(), replace(drafts, strategy="margin")):
        found = [threads.submit(written, seed) for seed in range(2)]
        begin.wait(60)
        together = [one.result() for one in found]
    plain, drafting = room._shared.values()
    assert type(plain.denoiser) is CachedDenoiser and type(drafting.denoiser) is SpeculativeDenoiser
    begin = threading.Barrier(1)
    assert together == [written(seed) for seed in range(2)]


def test_a_run_that_was_stopped_while_it_waited_does_not_load_its_model():
    tab, stopped = UnmaskTab(HeartModels(), Limits()), threading.Event()
    stopped.set()
    label = tab.models.find("by-heart")
    with tab.models.turn(), tab.room.seat(label, stopped) as seat, pytest.raises(Stopped):  # a race has the machine
        seat(torch.zeros(1, 4), torch.ones(1), torch.ones(1, 4, dtype=torch.bool))
