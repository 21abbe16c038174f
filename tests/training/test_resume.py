"""A run stopped or killed at any moment goes on exactly: same seed, same losses, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.training import loop, session
from diffuapriel.training.data import batches
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import train

STEPS, TIMES = 150, 20


def losses(folder) -> list[float]:
    return [record["loss"] for record in read_log(folder) if "loss" in record]


def make_older(folder, **changes) -> None:
    """Write state.json anew, with other values, as it was before it had checksums."""
    file = Path(folder) / "state" / "state.json"
    document = json.loads(file.read_text())
    del document["sha256"], document["corpus"]
    file.write_text(json.dumps(document | {"format_version": 2, "files": list(document["files"])} | changes))


def stop_before(monkeypatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal while batch `step` is being made."""

    def interrupted(corpus, config, processes, *, start):
        for i, ids in enumerate(batches(corpus, config, processes, start=start), start):
            if i == step:
                os.kill(os.getpid(), number)
            yield ids

    monkeypatch.setattr(loop, "batches", interrupted)


def test_stopped_before_its_first_update_a_run_begins_all_the_same(options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(session.TrainingClock, "out_of_time", True)
        assert train(options(), progress=False).step == 0
    assert train(options(), progress=False).finished


def test_a_model_of_blocks_goes_on_exactly_and_draws_every_block_length(options, tmp_path, monkeypatch):
    model = dataclasses.replace(options().model, block_lengths=(1, 4, 0), time_conditioning=False)
    drawn = [loop.draw_block_length(options(model=model), step) for step in range(12)]
    assert set(drawn) == {1, 4, 0}
    often = options(model=model, block_length_weights="1,1,98")
    assert [loop.draw_block_length(often, step) for step in range(12)].count(0) > 9
    assert loop.draw_block_length(options(), 0) is None
    train(options(model=model, folder=str(tmp_path / "whole")), progress=False)
    with monkeypatch.context() as patch:
        stop_before(patch, 4, signal.SIGINT)
        train(options(model=model, folder=str(tmp_path / "parts")), progress=False)
    assert train(options(model=model, folder=str(tmp_path / "parts")), progress=False).finished
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_same_call_goes_on_exactly(options, tmp_path, monkeypatch, number):
    before = signal.getsignal(number)
    whole = train(options(folder=str(tmp_path / "whole")), progress=False)
    with monkeypatch.context() as patch:
        stop_before(patch, 4, number)
        stopped = train(options(folder=str(tmp_path / "parts")), progress=False)
    assert not stopped.finished and stopped.step == 5
    load_checkpoint(stopped.checkpoint)  # what there is can be used
    assert signal.getsignal(number) == before  # which is to ignore it in what a shell started with &
    resumed = train(options(folder=str(tmp_path / "parts")), progress=False)
    assert resumed.finished and resumed.step == 12
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (load_checkpoint(result.checkpoint)[0].state_dict() for result in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_begun_under_the_old_name_of_its_schedule_goes_on(options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(session.TrainingClock, "out_of_time", True)
        config = options(schedule="squared")
        train(config, progress=False)
    state = json.loads((Path(config.folder) / "state" / "state.json").read_text())
    assert state["config"]["schedule"] == "quadratic"
    make_older(config.folder, config=state["config"] | {"schedule": "squared"})
    assert train(options(schedule="quadratic"), progress=False).finished


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_twenty_times_at_random_moments_a_run_ends_as_if_it_had_not_been(crew, options, tmp_path, number):
    """While training and while saving: every update is followed by a save."""
    whole = options(steps=STEPS, save_seconds=1e6, folder=str(tmp_path / "whole"))
    crew.run(whole)
    config, dice, reached = options(steps=STEPS, folder=str(tmp_path / "ended")), random.Random(), [0]
    for _ in range(TIMES):
        wait = dice.uniform(0.0, 0.1) if number == signal.SIGKILL else 0.0
        assert crew.stop(config, number, wait=wait) == [-number if number == signal.SIGKILL else 0]
        reached.append(crew.reached(config))
    assert all(after > before for before, after in pairwise(reached)), "no end cost a saved update"
    assert reached[-1] < STEPS, "the last end came before the run's own"
    crew.run(dataclasses.replace(config, save_seconds=1e6))
    assert losses(config.folder) == losses(whole.folder)


@pytest.mark.parametrize("missing", ["state.json", "shard-00001-model-00001-of-00001.safetensors"])
def test_a_state_that_lacks_a_file_is_refused_by_name(options, missing):
    train(options(steps=2), progress=False)
    (Path(options().folder) / "state" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} is missing"):
        train(options(steps=2), progress=False)


def test_a_save_that_was_cut_off_is_not_a_state(options):
    """What a killed save leaves lies beside the state, under a name that nothing reads."""
    train(options(steps=2), progress=False)
    state = Path(options().folder) / "state"
    state.rename(state.with_name(".state.writing"))
    before = losses(options().folder)
    train(options(steps=2), progress=False)  # from the start
    assert losses(options().folder) == before
    assert not state.with_name(".state.writing").exists() and state.exists()


def test_a_finished_run_is_not_trained_again(options):
    first = train(options(), progress=False)
    again = train(options(), progress=False)
    assert again.step == first.step and again.validation == first.validation
    assert [record["step"] for record in read_log(options().folder)] == [*range(1, 13), 12]


def test_a_run_that_goes_on_does_not_begin_with_the_checkpoint_again(options, monkeypatch, tmp_path):
    source, begun, gone = options(steps=2), tmp_path / "begun", tmp_path / "gone"
    train(source, progress=False)
    config = options(steps=8, folder=str(begun), init_from=source.folder)
    with monkeypatch.context() as patch:
        stop_before(patch, 4, signal.SIGTERM)
        assert not train(config, progress=False).finished
    Path(source.folder).rename(gone)
    assert train(config, progress=False).finished
    gone.rename(source.folder)
    whole = options(steps=8, folder=str(tmp_path / "whole"), init_from=source.folder)
    train(whole, progress=False)
    assert losses(whole.folder) == losses(begun)


def test_other_options_in_the_same_folder_are_refused_by_name(options):
    train(options(steps=2), progress=False)
    with pytest.raises(ValueError, match=r"belongs to a run with seed = 0, not 1; continue with the same options"):
        train(options(steps=2, seed=1), progress=False)
    with pytest.raises(ValueError, match="with steps = 2, not 3"):
        train(options(steps=3), progress=False)


def test_where_and_how_fast_it_runs_may_change_when_a_run_goes_on(options, monkeypatch, tmp_path):
    train(options(folder=str(tmp_path / "whole")), progress=False)
    with monkeypatch.context() as patch:
        stop_before(patch, 4, signal.SIGTERM)
        train(options(folder=str(tmp_path / "parts")), progress=False)
    train(options(folder=str(tmp_path / "parts"), checkpoint_activations=True), progress=False)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_run_begun_before_an_option_existed_goes_on_with_its_default(options):
    config = options(steps=2)
    train(config, progress=False)
    began = config.to_dict()
    del began["min_lr_ratio"], began["model"]["document_boundaries"]
    make_older(config.folder, config=began)
    assert train(options(steps=2), progress=False).finished
    with pytest.raises(ValueError, match=r"belongs to a run with min_lr_ratio = 0\.1, not 0\.0"):
        train(options(steps=2, min_lr_ratio=0.0), progress=False)


def test_a_state_written_with_older_names_of_options_goes_on(options):
    changes = {"steps": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5, "min_lr_ratio": 0.2}
    config = options(**changes)
    train(config, progress=False)
    older = {
        "gradient_accumulation_steps": "accumulate",
        "max_grad_norm": "clip",
        "min_lr_ratio": "final_rate",
    }
    make_older(
        config.folder, config={older.get(name, name): value for name, value in config.to_dict().items()}, ranks=1
    )
    assert train(options(**changes), progress=False).finished
    with pytest.raises(ValueError, match=r"belongs to a run with max_grad_norm = 0\.5, not 1\.0"):
        train(options(**{**changes, "max_grad_norm": 1.0}), progress=False)


def test_the_state_of_another_version_is_refused(options):
    train(options(steps=2), progress=False)
    make_older(options().folder, format_version=1)
    with pytest.raises(ValueError, match="format_version 1; this package reads 3: finish the run with"):
        train(options(steps=2), progress=False)


def test_a_damaged_state_is_refused_by_name(options):
    train(options(steps=2), progress=False)
    (file,) = (Path(options().folder) / "state").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"\.safetensors is truncated"):
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
    state = session.TrainState()
    clock = session.TrainingClock(options(minutes=10, warmup_steps=100), state, SingleProcess(torch.device("cpu")))
    now[0] += 50.0  # the first update compiles
    state.step = 1
    clock.plan(state)
    assert state.total_steps is None
    now[0] += 20.0
    state.step = 41  # two updates a second
    clock.plan(state)
    assert state.total_steps == 41 + int((600 * 0.97 - 70) * 2)


@pytest.fixture
def stopped(options, monkeypatch):
    """The TrainConfig of a run that was stopped after 5 steps, and the bytes of its state."""
    with monkeypatch.context() as patch:
        stop_before(patch, 4, signal.SIGINT)
        assert train(options(), progress=False).step == 5
    return options(), state_of(options())


def state_of(config) -> list[bytes]:
    return [file.read_bytes() for file in sorted((Path(config.folder) / "state").iterdir())]


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no file sizes")
def test_a_disk_that_is_full_in_a_save_is_an_os_error_and_the_state_before_is_kept(stopped):
    import resource

    config, before = stopped
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # Python ignores the signal, so that writing fails
    try:
        with pytest.raises(OSError, match="File too large"):
            train(config, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert state_of(config) == before
    assert train(config, progress=False).finished


def test_ctrl_c_in_a_save_is_a_keyboard_interrupt_and_the_state_before_is_kept(stopped, monkeypatch):
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    def interrupted(*given):
        raise KeyboardInterrupt

    config, before = stopped
    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceStorageWriter, "write_data", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, progress=False)
    assert state_of(config) == before
    assert train(config, progress=False).finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_the_first_to_be_handled(number, monkeypatch):
    kinds = (signal.SIGINT, signal.SIGTERM)
    before, seen = [signal.getsignal(kind) for kind in kinds], []
    with session.stop_signals() as asked:
        monkeypatch.setattr(asked, "set", lambda: seen.append([signal.getsignal(kind) for kind in kinds]))
        signal.raise_signal(number)
    assert seen == [before]
