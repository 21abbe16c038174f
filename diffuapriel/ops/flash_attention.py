"""FlashAttention-3 (arXiv:2407.08608), where its module `flash_attn_interface` is installed.

It is built from the folder hopper/ of github.com/Dao-AILab/flash-attention, and runs on Hopper GPUs only, in half
precision and without a mask. Elsewhere attention runs through PyTorch (model/attention.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffuapriel.ops.triton.launch import is_hopper

MOST_HEADDIM = 256

flash_attn_func: Callable[..., Any] | None = None
if importlib.util.find_spec("flash_attn_interface"):
    try:
        from flash_attn_interface import flash_attn_func
    except (ImportError, OSError):  # built for another PyTorch
        flash_attn_func = None


def takes(q: Tensor, mask: Tensor | None) -> bool:
    """Whether `attend` can run: q (batch, heads, length, headdim), and the mask of the attention, if there is one."""
    if flash_attn_func is None or mask is not None or q.shape[-1] > MOST_HEADDIM:
        return False
    return q.dtype in (torch.bfloat16, torch.float16) and is_hopper(q.device)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(headdim)) v, forward and backward; layout as in `takes`, k and v of any one length."""
    assert flash_attn_func is not None
    y = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return (y[0] if isinstance(y, tuple) else y).transpose(1, 2)  # older versions also return the log-sum-exp
