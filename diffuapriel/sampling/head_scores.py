"""How sure the denoiser is at each position, from what its head reads: by the kernel on a GPU, else by its plain twin.

rows (n, width) is what the head reads at n positions; weight (vocabulary, width) is the head's: logits are
rows weight^T, and the columns from `tokens` on, [MASK] and padding, are left out of everything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.sampling import draw
from diffuapriel.ssd import triton_launch


class Scores(NamedTuple):
    """Of n distributions: probability of the best token, entropy (nats), lead of the best over the second, each (n,)
    float32, and the best token (n,) int64."""

    probability: Tensor
    entropy: Tensor
    margin: Tensor
    best: Tensor


def why_not(weight: Tensor) -> str | None:
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

    return kernel_scores(rows.contiguous(), weight, tokens, count)


def plain_scores(rows: Tensor, weight: Tensor, tokens: int) -> Scores:
    """The same from logits in full, (n, tokens + 1). Raises ValueError where they are no distribution."""
    logits = F.linear(rows, weight)[:, : tokens + 1]
    return Scores(
        draw.top_probability(logits, tokens),
        draw.entropy(logits, tokens),
        draw.margin(logits, tokens),
        logits[:, :tokens].argmax(-1),
    )
