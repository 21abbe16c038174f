"""Several GPUs train as one over NCCL, plain and recorded: same rows, same noise, same losses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffuapriel.training.logging import read_log

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "--preset nano --architecture diffuapriel-h --corpus tales:1 --length 64 --batch-size 16 "
    "--gradient-accumulation-steps 2"
)
STEPS = 12


def losses(folder: Path, *launcher: str, **options: str) -> torch.Tensor:
    """Of a run of the command line, in processes of its own."""
    given = [
        *OPTIONS.split(),
        "--steps",
        str(STEPS),
        "--warmup-steps",
        "4",
        "--device",
        "cuda",
        "--out",
        str(folder),
    ]
    more = [word for name, value in options.items() for word in (f"--{name}", value) if word]
    command = [sys.executable, "-m", *launcher, "diffuapriel", "train", *given, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "could not be recorded" not in done.stderr and "torch.compile failed" not in done.stderr
    return torch.tensor([record["loss"] for record in read_log(folder) if "loss" in record])


def test_recorded_steps_of_blocks_train_to_the_losses_of_plain_ones(tmp_path: Path) -> None:
    blocks = {"block-lengths": "1,4,16,0"}
    plain, recorded = losses(tmp_path / "plain", **blocks), losses(tmp_path / "recorded", compile="", **blocks)
    assert len(plain) == STEPS
    torch.testing.assert_close(recorded, plain, rtol=2e-3, atol=2e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU; several ranks need two")
@pytest.mark.parametrize(
    "how", [{"strategy": "ddp"}, {"strategy": "ddp", "compile": ""}, {"strategy": "fsdp"}], ids=str
)
@pytest.mark.parametrize("blocks", [{}, {"block-lengths": "1,4,16,0"}], ids=["whole", "blocks"])
def test_two_gpus_train_to_the_losses_of_one(tmp_path: Path, how: dict[str, str], blocks: dict[str, str]) -> None:
    pytest.importorskip("lightning_fabric")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    alone, together = losses(tmp_path / "one", **blocks), losses(tmp_path / "two", *torchrun, **blocks, **how)
    assert len(alone) == STEPS
    torch.testing.assert_close(together, alone, rtol=2e-3, atol=2e-3)
