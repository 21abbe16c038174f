"""RMSNorm (arXiv:1910.07467) and AdaLN: the noise level shifts, scales and gates every block (arXiv:2212.09748; MDLM).

    rms_norm(x)        = x / sqrt(mean(x^2) + EPS) weight            over the last axis
    c                  = TimeEmbedding(sigma)                        (batch, cond_dim)
    shift, scale, gate = Modulation(c)                               (batch, 1, d_model) each, all blocks in one product
    modulate(x)        = x (1 + scale) + shift

Modulation is zero-initialized, so that every block is the identity at the start of training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5
FREQUENCIES = 128  # of the time embedding: as many cosines as sines
MAX_PERIOD = 10_000.0


def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """RMSNorm over the last axis; `weight` is broadcast against x.

    Computed in float32, or float64 for float64 input, regardless of autocast; returned in x's dtype.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    if weight is not None:
        wide = wide * weight
    return wide.to(x.dtype)


class TimeEmbedding(nn.Module):
    """Embeds the noise level: sigma (batch, ...) to (batch, ..., cond_dim), by sinusoids and a small MLP."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(2 * FREQUENCIES, cond_dim)
        self.out = nn.Linear(cond_dim, cond_dim)
        for layer in (self.up, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        steps = torch.arange(FREQUENCIES, device=sigma.device, dtype=torch.float32)
        frequency = torch.exp(-math.log(MAX_PERIOD) * steps / FREQUENCIES)
        angle = sigma.float()[..., None] * frequency
        features = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.up.weight.dtype)
        return F.silu(self.out(F.silu(self.up(features))))


class Modulation(nn.Module):
    """`count` vectors of size d_model, from the embedding of the noise level; zero before training."""

    def __init__(self, cond_dim: int, d_model: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(cond_dim, count * d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        """c (batch, levels, cond_dim) to `count` tensors (batch, levels, d_model); (batch, cond_dim) is one level."""
        return self.linear(c if c.ndim == 3 else c[:, None]).chunk(self.count, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale, each (batch, 1, d_model), applied to x (batch, length, d_model)."""
    return x * (1 + scale) + shift
