"""How many positions a recorded update may mask. That it is the update itself, tests/gpu/test_recording.py holds."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.diffusion.objective import corrupt, stratified_t
from diffuapriel.diffusion.schedule import SCHEDULES, get_schedule
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.ranks import OneProcess
from diffuapriel.training.recording import can_record, most_masked, recorded_or_plain


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_update_masks_more_positions_than_there_is_room_for(name: str) -> None:
    config = TrainConfig(length=64, batch_size=32, steps=1, schedule=name)
    schedule, generator = get_schedule(name), torch.Generator().manual_seed(0)
    ids = torch.zeros(32, 64, dtype=torch.int64)
    counts = [
        (corrupt(ids, stratified_t(32, generator), schedule, 1, generator) == 1).sum().item()
        for _ in range(300)
    ]
    room = most_masked(schedule, config)
    assert max(counts) <= room < 1.4 * sum(counts) / len(counts)


def test_parts_of_an_update_may_be_masked_whole() -> None:
    config = TrainConfig(length=64, batch_size=8, accumulate=4, steps=1)
    assert most_masked(get_schedule(config.schedule), config) == 8 * 64


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert not can_record(TrainConfig(steps=1, compile=True), OneProcess(torch.device("cpu")))


def test_what_cannot_be_recorded_runs_as_it_is_and_says_why(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")

    monkeypatch.setattr("diffuapriel.training.recording.Recorded.__init__", refuse)
    model, said = torch.nn.Linear(2, 2), []
    add = object()
    config, schedule = TrainConfig(steps=1), get_schedule("log-linear")
    assert recorded_or_plain(add, model, schedule, config, torch.device("cpu"), said.append) is add  # type: ignore[arg-type]
    assert said == [
        "the update could not be recorded, going on without: operation not permitted when stream is capturing"
    ]
