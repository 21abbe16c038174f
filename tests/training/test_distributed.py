"""Several processes train as one: same rows, same noise, same losses up to the order of sums."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.training.config import STRATEGIES
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import train
from tests.training.conftest import tiny_run

STEPS = 24
# Six rows: three for each of two ranks, in parts of two and one.
RUN = {"steps": STEPS, "batch_size": 2, "gradient_accumulation_steps": 3}
SHARED = ("ddp", "fsdp")
ROOT = Path(__file__).parents[2]


def losses(folder) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in read_log(folder) if "loss" in record])


def agree(one, other) -> None:
    """Equal in all losses and in the averaged weights, up to float rounding."""
    torch.testing.assert_close(losses(one), losses(other), rtol=1e-4, atol=1e-4)
    a, b = (load_checkpoint(Path(folder) / "checkpoint")[0].state_dict() for folder in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> str:
    """The folder of the run in one process that others are held against."""
    folder = tmp_path_factory.mktemp("alone")
    config = tiny_run("diffuapriel-h", folder=folder, **RUN)
    train(config, progress=False)
    return config.folder


@pytest.mark.parametrize(("strategy", "replayed"), [("ddp", False), ("ddp", True), ("fsdp", False)])
def test_two_processes_train_to_the_losses_of_one(crew, options, alone, tmp_path, strategy, replayed):
    config = options(
        "diffuapriel-h",
        **RUN,
        strategy=strategy,
        checkpoint_activations=strategy == "fsdp",
        save_seconds=1e6,
        folder=str(tmp_path / strategy),
    )
    crew.run(config, ranks=2, replayed=replayed)
    agree(alone, config.folder)
    shards = list((Path(config.folder) / "state").glob("shard-*.safetensors"))
    assert len(shards) == 2, "each rank writes its part"


def test_two_processes_train_a_model_of_blocks_to_the_losses_of_one(crew, options, tiny_model, tmp_path):
    model = dataclasses.replace(tiny_model("diffuapriel-h"), block_lengths=(1, 4, 0), time_conditioning=False)
    runs = [options("diffuapriel-h", model=model, folder=str(tmp_path / name)) for name in ("one", "two")]
    train(runs[0], progress=False)
    crew.run(runs[1], ranks=2, replayed=True)
    agree(runs[0].folder, runs[1].folder)


def test_two_processes_begin_with_the_weights_of_a_checkpoint(crew, options, alone, tmp_path):
    begun = {**RUN, "steps": 6, "init_from": alone, "learning_rate": 1e-4}
    runs = [options("diffuapriel-h", **begun, folder=str(tmp_path / name)) for name in ("one", "two")]
    train(runs[0], progress=False)
    crew.run(dataclasses.replace(runs[1], strategy="fsdp"), ranks=2)
    agree(runs[0].folder, runs[1].folder)
    assert losses(runs[0].folder)[0] < losses(alone)[0] - 1, "it has learned before"


def test_a_run_goes_on_with_other_numbers_of_ranks_and_strategies(crew, options, alone, tmp_path):
    def config(strategy):
        return options("diffuapriel-h", **RUN, strategy=strategy, folder=str(tmp_path / "moved"))

    sessions = (("fsdp", 2, 1), ("auto", 1, 0), ("ddp", 3, 2), ("fsdp", 2, 0))
    for strategy, ranks, signalled in sessions:
        codes = crew.stop(config(strategy), signal.SIGTERM, ranks=ranks, rank=signalled)
        assert codes == [0] * ranks, "SIGTERM on any rank ends all of them cleanly"
    assert len(sessions) <= crew.reached(config("auto")) < STEPS
    crew.run(config("auto"))
    agree(alone, config("auto").folder)


def test_a_rank_that_is_killed_leaves_a_whole_state(crew, options, alone, tmp_path):
    config = options("diffuapriel-h", **RUN, strategy="fsdp", folder=str(tmp_path / "killed"))
    assert crew.stop(config, signal.SIGKILL, ranks=2, rank=1, wait=0.05) == [-signal.SIGKILL] * 2
    crew.run(config, 2)
    agree(alone, config.folder)


def test_torchrun_is_all_that_a_user_types_and_rank_0_alone_speaks(tmp_path):
    words = "-m diffuapriel train --corpus tales:1 --length 24 --batch-size 4 --steps 2 --device cpu"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + [*words.split(), "--out", str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 steps, 192 tokens") == 1
    assert len(losses(tmp_path / "run")) == 2


# ---------------------------------------------------------------- what is refused


def test_an_unknown_strategy_is_refused(options):
    with pytest.raises(ValueError, match="strategy is 'zero3'; permitted: auto, ddp, fsdp"):
        options(strategy="zero3")
    assert ("auto", *SHARED) == STRATEGIES


@pytest.mark.parametrize("strategy", SHARED)
def test_a_strategy_of_several_processes_alone_is_refused_and_says_how_to_start(options, strategy):
    with pytest.raises(ValueError, match=f"strategy is '{strategy}'.*start them with torchrun"):
        train(options(strategy=strategy), progress=False)


class ThirdOfFour(SingleProcess):
    """As far as sharing goes."""

    rank, world_size = 2, 4


def test_every_row_is_one_rank_s_and_rows_that_do_not_divide_are_refused():
    rank = ThirdOfFour(torch.device("cpu"))
    assert rank.local_slice(12) == range(6, 9)
    with pytest.raises(ValueError, match="= 6 rows, which 4 ranks cannot share evenly; make it a multiple of 4"):
        rank.local_slice(6)
