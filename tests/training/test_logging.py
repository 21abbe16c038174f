"""The log can always be read, and the curve always be drawn.

TensorBoard gets the curves of log.jsonl, and says how to get it where it is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.logging import TAGS, RunLog, TensorBoardLogger, draw_curve, read_log
from diffuapriel.training.loop import train

ALONE = SingleProcess(torch.device("cpu"))


def run_log(folder: Path, step: int) -> RunLog:
    return RunLog(TrainConfig(steps=1, folder=str(folder)), step, ALONE)


def add(log: RunLog, step: int, loss: float) -> None:
    log.add(step, torch.tensor(loss), torch.tensor(0.5), 1e-3)


def test_losses_are_written_exactly_as_they_were_computed(tmp_path):
    values = torch.rand(20)
    log = run_log(tmp_path, 0)
    for step, value in enumerate(values, 1):
        log.add(step, value, value, 1e-3)
    assert log.flush() == pytest.approx(values.mean().item())
    assert torch.equal(torch.tensor([record["loss"] for record in read_log(tmp_path)]), values)


def test_going_on_drops_the_lines_after_the_last_saved_update(tmp_path):
    log = run_log(tmp_path, 0)
    for step in range(1, 6):
        add(log, step, 1.0)
    log.flush()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 6, "los')  # a kill in the middle of a line
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    log = run_log(tmp_path, 3)
    add(log, 4, 2.0)
    log.flush()
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_reported_with_its_update(tmp_path, loss):
    log = run_log(tmp_path, 0)
    add(log, 1, 1.0)
    add(log, 2, loss)
    with pytest.raises(FloatingPointError, match=f"step 2: the loss is {loss}"):
        log.flush()


def test_the_curve_is_a_picture_with_or_without_updates_and_entropy():
    records = [{"step": step, "loss": 1 / step} for step in range(1, 30)]
    validation = {"step": 20, "validation": 0.4, "entropy": 0.1}
    for lines in ([], records, [*records, validation], [{**validation, "entropy": None}]):
        assert draw_curve(lines, 1000, "a title").startswith(b"\x89PNG")


def test_the_board_holds_the_record_s_figures(options):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = options(steps=6, tensorboard=True)
    train(config, progress=False)
    tensorboard = EventAccumulator(config.folder + "/tensorboard").Reload()
    record = {r["step"]: r["loss"] for r in read_log(config.folder) if "loss" in r}
    shown = {event.step: event.value for event in tensorboard.Scalars(TAGS["loss"])}
    assert shown == pytest.approx(record)
    assert [event.step for event in tensorboard.Scalars(TAGS["excess_nelbo"])] == [6]
    assert tensorboard.Scalars(TAGS["tokens_per_second"])[0].value > 0


def test_without_tensorboard_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorBoardLogger(tmp_path, 0)


def test_lines_with_older_keys_are_read(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 4, "validation": 2.0, "floor": 0.5, "gap": 1.5}\n')
    assert read_log(tmp_path) == [{"step": 4, "validation": 2.0, "entropy": 0.5, "excess_nelbo": 1.5}]
