"""Attention of a block over a cache of fixed capacity, for passes that are recorded.

PyTorch's kernels take the number of keys from a shape, which a recorded pass cannot change; with a mask they read the
whole capacity, and a program per tile of queries leaves most of the device idle. `append` and `attend` are kernels of
our own (triton/attention.py).

For torch.compile both are opaque: of a scatter that it sees it makes a copy of all keys, there and back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffuapriel.ops.triton import launch


def takes(q: Tensor) -> bool:
    """Whether `attend` can run: q (batch, heads, length, headdim)."""
    return launch.unsupported_reason(q, q.shape[-1]) is None


@torch.library.custom_op("diffuapriel::append_to_cache", mutates_args=("keys", "values"))
def append(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> None:
    """Write k and v (batch, heads, length, headdim) behind the first lengths[r] keys and values of row r, in place."""
    if takes(k):
        from diffuapriel.ops.triton.attention import append as kernel

        kernel(keys, values, k, v, lengths)
        return
    at = (lengths[:, None] + torch.arange(k.shape[2], device=k.device))[:, None, :, None].expand_as(k)
    keys.scatter_(2, at, k)
    values.scatter_(2, at, v)


@append.register_fake
def _(keys, values, k, v, lengths):
    return None


@torch.library.custom_op("diffuapriel::attend_cached", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(headdim)) v, forward only: (batch, length, heads, headdim).

    k, v (batch, heads, capacity, headdim); row r reads its first lengths[r] + length keys, lengths (batch,) int64.
    """
    from diffuapriel.ops.triton.attention import attend as kernels

    return kernels(q, k, v, lengths)


@attend.register_fake
def _(q, k, v, lengths):
    batch, heads, length, headdim = q.shape
    return q.new_empty(batch, length, heads, headdim)
