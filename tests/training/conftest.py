"""A run so small that a test can afford dozens of updates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffuapriel.config import ModelConfig
from diffuapriel.training import TrainConfig


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are added in one order, so that equal means equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def options(tmp_path: Path):
    """Makes a TrainConfig of a tiny run on one-sentence tales; keyword arguments replace fields."""

    def make(architecture: str = "diffuapriel", **changes) -> TrainConfig:
        fields = {
            "architecture": architecture,
            "model": _tiny_model(architecture),
            "corpus": "tales:1",
            "folder": str(tmp_path / "run"),
            "length": 24,
            "batch_size": 4,
            "warmup_steps": 5,
            "save_seconds": 0.0,
        }
        amount = {} if {"steps", "tokens", "minutes"} & set(changes) else {"steps": 12}
        return TrainConfig(**{**fields, **amount, **changes})

    return make
