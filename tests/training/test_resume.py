"""A run stopped or killed at any moment goes on exactly: same seed, same losses, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.storage import find_folder, read_json
from diffuapriel.training import loop, session, train
from diffuapriel.training.data import batches
from diffuapriel.training.log import read_log

STEPS = 40


def losses(folder) -> list[float]:
    return [record["loss"] for record in read_log(folder) if "loss" in record]


def stop_before(monkeypatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal while batch `step` is being made."""

    def interrupted(corpus, config, device, *, start):
        for i, ids in enumerate(batches(corpus, config, device, start=start), start):
            if i == step:
                os.kill(os.getpid(), number)
            yield ids

    monkeypatch.setattr(loop, "batches", interrupted)


def test_stopped_before_its_first_update_a_run_begins_all_the_same(options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(session.Clock, "out_of_time", True)
        assert train(options(), progress=False).step == 0
    assert train(options(), progress=False).finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_same_call_goes_on_exactly(options, tmp_path, monkeypatch, number):
    whole = train(options(folder=str(tmp_path / "whole")), progress=False)
    with monkeypatch.context() as patch:
        stop_before(patch, 4, number)
        stopped = train(options(folder=str(tmp_path / "parts")), progress=False)
    assert not stopped.finished and stopped.step == 5
    load_checkpoint(stopped.checkpoint)  # what there is can be used
    assert signal.getsignal(number) != signal.SIG_IGN
    resumed = train(options(folder=str(tmp_path / "parts")), progress=False)
    assert resumed.finished and resumed.step == 12
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (load_checkpoint(result.checkpoint)[0].state_dict() for result in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


CHILD = textwrap.dedent("""
    import sys
    import torch
    torch.set_num_threads(1)
    from diffuapriel.config import ModelConfig
    from diffuapriel.training import TrainConfig, session, train
    session.REPORT_SECONDS = 0.0  # so that every update is followed by a save
    options = eval(sys.argv[1])
    train(TrainConfig(**options), progress=False)
""")


def test_killed_again_and_again_while_saving_nothing_is_lost(options, tmp_path):
    whole = options(steps=STEPS, folder=str(tmp_path / "whole"))
    train(whole, progress=False)
    config = options(steps=STEPS, folder=str(tmp_path / "killed"))
    state = Path(config.folder) / "state"
    arguments = {**{name: getattr(config, name) for name in config.__dataclass_fields__}}
    dice = random.Random()
    reached = [0]
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, repr(arguments)], cwd=Path(__file__).parents[2]
        )
        deadline = time.monotonic() + 60
        while (step_of(state) or 0) <= reached[-1] and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        reached.append(step_of(state))
    assert sorted(reached) == reached and reached[-1] > 0, reached  # no kill cost a saved update
    assert train(config, progress=False).finished
    assert losses(config.folder) == losses(whole.folder)


def step_of(state: Path) -> int | None:
    """Updates in the last whole state; a save may rename it under the reader's hands, who then looks again."""
    for _ in range(100):
        try:
            found = find_folder(state)
            return None if found is None else read_json(found / "state.json")["step"]
        except FileNotFoundError:
            continue
    raise AssertionError("no whole state is ever there")


def test_a_finished_run_is_not_trained_again(options):
    first = train(options(), progress=False)
    again = train(options(), progress=False)
    assert again.step == first.step and again.validation == first.validation
    assert [record["step"] for record in read_log(options().folder)] == [*range(1, 13), 12]


def test_other_options_in_the_same_folder_are_refused_by_name(options):
    train(options(steps=2), progress=False)
    with pytest.raises(ValueError, match=r"of a run with seed = 0, not 1; go on with the same options"):
        train(options(steps=2, seed=1), progress=False)
    with pytest.raises(ValueError, match="with steps = 2, not 3"):
        train(options(steps=3), progress=False)


def test_a_damaged_state_is_refused_by_name(options):
    train(options(steps=2), progress=False)
    file = Path(options().folder) / "state" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"state\.safetensors is truncated"):
        train(options(steps=2), progress=False)


def test_two_runs_never_share_a_folder(options):
    folder = Path(options().folder)
    folder.mkdir()
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, folder / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="another run is writing to"):
            train(options(), progress=False)
        other.kill()
    assert train(options(steps=2), progress=False).finished  # the lock died with its holder


# ---------------------------------------------------------------- the clock


def test_minutes_fix_the_number_of_updates_and_the_run_is_that_of_so_many_steps(options, tmp_path):
    timed = train(options(minutes=0.03, folder=str(tmp_path / "timed")), progress=False)
    assert timed.finished and timed.total_steps is not None and timed.step == timed.total_steps >= 2
    train(options(steps=timed.step, folder=str(tmp_path / "counted")), progress=False)
    assert losses(tmp_path / "timed") == losses(tmp_path / "counted")


def test_a_timed_run_keeps_its_number_when_it_goes_on(options, monkeypatch):
    ends = []
    for step in (7, 9):  # the warm-up is 5: by then the number is fixed
        with monkeypatch.context() as patch:
            stop_before(patch, step, signal.SIGINT)
            ends.append(train(options(minutes=1), progress=False))
    assert [end.step for end in ends] == [8, 10]
    assert ends[0].total_steps == ends[1].total_steps is not None


def test_the_hard_stop_keeps_what_is_done(options):
    stopped = train(options(steps=5000, stop_after_minutes=0.01), progress=False)
    assert not stopped.finished and 0 < stopped.step < 5000
    more = train(options(steps=5000, stop_after_minutes=0.01), progress=False)
    assert more.step > stopped.step and more.seconds > stopped.seconds


def test_the_number_of_updates_is_the_time_left_over_the_measured_speed(options, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    at = session.Progress()
    clock = session.Clock(options(minutes=10, warmup_steps=100), at)
    now[0] += 50.0  # the first update compiles
    at.step = 1
    clock.plan(at)
    assert at.total_steps is None
    now[0] += 20.0
    at.step = 41  # two updates a second
    clock.plan(at)
    assert at.total_steps == 41 + int((600 * 0.97 - 70) * 2)
