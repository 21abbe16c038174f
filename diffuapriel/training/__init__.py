"""Training: one visible loop (`loop.train`) and what it stands on."""

from diffuapriel.training.config import TrainConfig

__all__ = ["TrainConfig"]
