"""TensorBoard gets the curves of log.jsonl, and says how to get it where it is missing."""

from __future__ import annotations

import sys

import pytest

from diffuapriel.training import train
from diffuapriel.training.board import NAMES, Board
from diffuapriel.training.log import read_log


def test_the_board_holds_the_record_s_figures(options):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = options(steps=6, tensorboard=True)
    train(config, progress=False)
    board = EventAccumulator(config.folder + "/tensorboard").Reload()
    record = {r["step"]: r["loss"] for r in read_log(config.folder) if "loss" in r}
    shown = {event.step: event.value for event in board.Scalars(NAMES["loss"])}
    assert shown == pytest.approx(record)
    assert [event.step for event in board.Scalars(NAMES["gap"])] == [6]
    assert board.Scalars(NAMES["tokens_per_second"])[0].value > 0


def test_without_tensorboard_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Board(tmp_path, 0)
