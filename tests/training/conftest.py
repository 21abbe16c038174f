"""A run so small that a test can afford dozens of updates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from diffuapriel.config import ModelConfig
from diffuapriel.storage import find_folder, read_json
from diffuapriel.training import logging as log
from diffuapriel.training.config import TrainConfig


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are added in one order, so that equal means equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def without_curves(patch: pytest.MonkeyPatch) -> None:
    """No loss curve is drawn, which would take longer than a tiny run; test_log.py and test_loop.py draw."""
    patch.setattr(log, "draw_curve", lambda *given: b"")


@pytest.fixture(autouse=True)
def plain_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """`without_curves`; `monkeypatch.undo()` where a test looks at one."""
    without_curves(monkeypatch)


def _tiny_model(architecture: str = "diffuapriel") -> ModelConfig:
    return ModelConfig(
        architecture,
        16,
        2,
        4098,
        "gpt2-4k",
        d_state=4,
        headdim=8,
        attention_headdim=8,
        cond_dim=8,
        context_length=64,
    )


@pytest.fixture
def tiny_model():
    """Makes a ModelConfig of a few thousand parameters beside its embedding."""
    return _tiny_model


def tiny_run(architecture: str = "diffuapriel", *, folder: Path | str, **changes) -> TrainConfig:
    """A tiny run on one-sentence tales; keyword arguments replace fields."""
    fields = {
        "architecture": architecture,
        "model": _tiny_model(architecture),
        "corpus": "tales:1",
        "folder": str(folder),
        "length": 24,
        "batch_size": 4,
        "warmup_steps": 5,
        "save_seconds": 0.0,
        "num_validation_sequences": 2,
    }
    amount = {} if {"steps", "tokens", "minutes"} & set(changes) else {"steps": 12}
    return TrainConfig(**{**fields, **amount, **changes})


@pytest.fixture
def options(tmp_path: Path):
    """Makes the TrainConfig of a tiny run in a folder of the test's own."""
    return partial(tiny_run, folder=tmp_path / "run")


class Crew:
    """Training runs in processes that can be killed (crew.py)."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("crew.py")],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(self.process.stdout.readline())["ready"]

    def _ask(self, **order: Any) -> Any:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, config: TrainConfig, ranks: int = 1, replayed: bool = False) -> list[int]:
        """Process ids of the ranks, by rank."""
        fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
        return self._ask(start=repr(fields), ranks=ranks, replayed=replayed)["pids"]

    def wait(self, pids: list[int]) -> list[int]:
        """Exit codes; minus the signal's number where one ended the process."""
        return self._ask(wait=pids)["codes"]

    def run(self, config: TrainConfig, ranks: int = 1, replayed: bool = False) -> None:
        """Train to the end."""
        assert self.wait(self.start(config, ranks, replayed)) == [0] * ranks

    @staticmethod
    def reached(config: TrainConfig) -> int:
        """Updates in the last whole state; 0 while there is none. A save may rename it under the reader's hands."""
        for _ in range(100):
            try:
                found = find_folder(Path(config.folder) / "state")
                return 0 if found is None else read_json(found / "state.json")["step"]
            except FileNotFoundError:
                continue
        raise AssertionError("no whole state is ever there")

    def stop(self, config: TrainConfig, number: int, *, ranks: int = 1, rank: int = 0, wait: float = 0.0) -> list[int]:
        """Start, send one rank a signal `wait` seconds after an update more is saved; returns the exit codes."""
        before, pids = self.reached(config), self.start(config, ranks)
        deadline = time.monotonic() + 60
        while self.reached(config) <= before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(wait)
        os.kill(pids[rank], number)
        if number == signal.SIGKILL:  # torchrun ends the others, too
            for pid in pids[:rank] + pids[rank + 1 :]:
                os.kill(pid, number)
        return self.wait(pids)


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    """One crew for all tests of a worker: importing PyTorch is paid for once."""
    crew = Crew()
    yield crew
    crew.process.stdin.close()
    crew.process.wait()
