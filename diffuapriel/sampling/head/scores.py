"""Confidence scores at each position, from the head's inputs: by a Triton kernel on a GPU, elsewhere from the logits.

rows (n, d_model) are the head's inputs at n positions and weight (vocabulary, d_model) is the head: logits are
rows weight^T. Columns from mask_id on, [MASK] and padding, are ignored.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from diffuapriel.ops.triton import launch as triton_launch
from diffuapriel.sampling import tokens


class Scores(NamedTuple):
    """Of n distributions: probability of the best token, entropy (nats) and margin of the best token over the second,
    each (n,) float32, and the best token, (n,) int64."""

    probability: Tensor
    entropy: Tensor
    margin: Tensor
    best: Tensor


def unsupported_reason(weight: Tensor) -> str | None:
    """Why scores on this head's device would need a synchronization, in one line; None if they do not."""
    return triton_launch.unsupported_reason(weight) if weight.is_cuda else None


def head_scores(rows: Tensor, weight: Tensor, mask_id: int, count: Tensor) -> Scores:
    """Scores of the first `count` rows ((1,) int64, on the same device); those of the other rows are arbitrary."""
    if not weight.is_cuda:
        return plain_scores(rows, weight, mask_id)
    from diffuapriel.sampling.head.kernel import kernel_scores

    return Scores(*kernel_scores(rows.contiguous(), weight, mask_id, count)[0])


def plain_scores(rows: Tensor, weight: Tensor, mask_id: int) -> Scores:
    """The same from the full logits, (n, mask_id + 1). Raises ValueError for logits that are not a distribution."""
    logits = F.linear(rows, weight)[:, : mask_id + 1]
    return Scores(
        tokens.top_probability(logits, mask_id),
        tokens.entropy(logits, mask_id),
        tokens.margin(logits, mask_id),
        logits[:, :mask_id].argmax(-1),
    )
