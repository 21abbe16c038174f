"""RMSNorm (arXiv:1910.07467): computed in float32 whatever the autocast, returned in the input's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5


def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """x / rms(x) over the last axis, times `weight` (broadcast against x) where there is one."""
    wide = x if x.dtype == torch.float64 else x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    if weight is not None:
        wide = wide * weight
    return wide.to(x.dtype)
