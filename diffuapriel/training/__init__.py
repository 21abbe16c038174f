"""Training: one visible loop (`loop.train`) and what it stands on."""

from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
