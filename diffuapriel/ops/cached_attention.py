"""Attention of a block over a cache of fixed capacity, for passes that are recorded.

PyTorch's kernels take the number of keys from a shape, which a recorded pass cannot change; with a mask they read the
whole capacity, and a program per tile of queries leaves most of the device idle. `project` and `attend` are kernels of
our own (triton/attention.py), for the devices and dtypes that `takes` names; `append` is for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffuapriel.ops.triton import launch


def takes(keys: Tensor) -> bool:
    """Whether `project` and `attend` can run: keys (batch, heads, capacity, headdim)."""
    return launch.unsupported_reason(keys, keys.shape[-1]) is None


def append(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> None:
    """Write k and v (batch, heads, length, headdim) behind the first lengths[r] keys and values of row r, in place."""
    at = (lengths[:, None] + torch.arange(k.shape[2], device=k.device))[:, None, :, None].expand_as(k)
    keys.scatter_(2, at, k)
    values.scatter_(2, at, v)


def project(
    projected: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    eps: float,
) -> Tensor:
    """Queries (batch, heads, length, headdim), normalized and rotated; keys, so too, and values go where `append` puts
    them. projected (batch, length, 3 d_model), weights (headdim,), cos and sin (batch, length, 1, headdim / 2)."""
    from diffuapriel.ops.triton.attention import project as kernel

    return kernel(projected, q_weight, k_weight, cos, sin, keys, values, lengths, eps)


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(headdim)) v, forward only: (batch, length, heads, headdim).

    k, v (batch, heads, capacity, headdim); row r reads its first lengths[r] + length keys, lengths (batch,) int64.
    """
    from diffuapriel.ops.triton.attention import attend as kernels

    return kernels(q, k, v, lengths)
