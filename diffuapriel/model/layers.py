"""RMSNorm (arXiv:1910.07467): computed in float32 whatever the autocast, returned in the input's dtype.

AdaLN: the noise level shifts, scales and gates what each block does (arXiv:2212.09748, as in MDLM).

    c               = TimeEmbedding(sigma)                     (batch, cond_dim)
    shift, scale, gate for mixer and MLP = Linear(c)           zero-initialised, all blocks in one product
    modulate(x)     = x (1 + scale) + shift

Zero initialisation makes every block the identity at the start of training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5


def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """x / rms(x) over the last axis, times `weight` (broadcast against x) where there is one."""
    wide = x if x.dtype == torch.float64 else x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    if weight is not None:
        wide = wide * weight
    return wide.to(x.dtype)


FREQUENCIES = 128  # cosines, and as many sines
MAX_PERIOD = 10_000.0


class TimeEmbedding(nn.Module):
    """Noise level sigma (batch,) to its embedding (batch, cond_dim): sinusoids, two linear layers, SiLU."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(2 * FREQUENCIES, cond_dim)
        self.out = nn.Linear(cond_dim, cond_dim)
        for layer in (self.up, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (batch,), at least 0 (it is -log alpha), to (batch, cond_dim)."""
        steps = torch.arange(FREQUENCIES, device=sigma.device, dtype=torch.float32)
        frequency = torch.exp(-math.log(MAX_PERIOD) * steps / FREQUENCIES)
        angle = sigma.float()[:, None] * frequency
        features = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.up.weight.dtype)
        return F.silu(self.out(F.silu(self.up(features))))


class Modulation(nn.Module):
    """`count` modulation vectors of `d_model` from the embedding; zero at the start."""

    def __init__(self, cond_dim: int, d_model: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(cond_dim, count * d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        """c (batch, cond_dim) to `count` tensors (batch, 1, d_model)."""
        return self.linear(c)[:, None].chunk(self.count, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (batch, length, d_model), shift and scale (batch, 1, d_model)."""
    return x * (1 + scale) + shift
