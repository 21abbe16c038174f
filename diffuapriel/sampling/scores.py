"""How sure the denoiser is at each position, from what its head reads: by a kernel on a GPU, else from the logits.

rows (n, d_model) is what the head reads at n positions; weight (vocabulary, d_model) is the head's. The logits are
rows weight^T; the columns from `tokens` on, [MASK] and padding, are ignored.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.ops.triton import launch as triton_launch
from diffuapriel.sampling import tokens as draw


class Scores(NamedTuple):
    """Of n distributions: probability of the best token, entropy (nats), lead of the best over the second, each (n,)
    float32, and the best token (n,) int64."""

    probability: Tensor
    entropy: Tensor
    margin: Tensor
    best: Tensor


def unsupported_reason(weight: Tensor) -> str | None:
    """None when scores can be had on this head's device without waiting for it; else one line: the reason."""
    if not weight.is_cuda:
        return None
    if not triton_launch.installed():
        return "Triton is not installed; it comes with a CUDA build of PyTorch for Linux (pip install triton)"
    if torch.cuda.get_device_capability(weight.device) < (8, 0):
        return "the GPU is older than compute capability 8.0 (Ampere)"
    if weight.dtype not in triton_launch.DTYPES:
        name = str(weight.dtype).removeprefix("torch.")
        return f"the head is {name}; the Triton kernels take float32, bfloat16, float16"
    return None


def head_scores(rows: Tensor, weight: Tensor, tokens: int, count: Tensor) -> Scores:
    """Scores of the first `count` rows ((1,) int64, on the same device); those of the rest are arbitrary."""
    if not weight.is_cuda:
        return plain_scores(rows, weight, tokens)
    from diffuapriel.sampling.head_kernel import kernel_scores

    return Scores(*kernel_scores(rows.contiguous(), weight, tokens, count))


def plain_scores(rows: Tensor, weight: Tensor, tokens: int) -> Scores:
    """The same from logits in full, (n, tokens + 1). Raises ValueError where they are no distribution."""
    logits = F.linear(rows, weight)[:, : tokens + 1]
    return Scores(
        draw.top_probability(logits, tokens),
        draw.entropy(logits, tokens),
        draw.margin(logits, tokens),
        logits[:, :tokens].argmax(-1),
    )
