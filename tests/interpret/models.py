"""Small random models whose gates are open, so that something flows through them."""

from __future__ import annotations

import torch

from diffuapriel.config import preset
from diffuapriel.interpret.adaln import open_gates
from diffuapriel.model.denoiser import Denoiser

LENGTH = 12


def small(architecture: str, **changes) -> Denoiser:
    """A model of d_model 32, the same weights every time."""
    shape = {"d_model": 32, "depth": 3, "d_state": 16, "headdim": 16, "attention_headdim": 16, "cond_dim": 16}
    torch.manual_seed(0)
    return open_gates(Denoiser(preset("nano", architecture, **(shape | changes))).eval())


def text(model: Denoiser, length: int = LENGTH) -> torch.Tensor:
    """Ids without a [MASK]."""
    return torch.randint(0, model.config.eos_id, (length,), generator=torch.Generator().manual_seed(1))
