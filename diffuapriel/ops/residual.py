"""The residual stream between two products of a recorded pass, by one kernel (triton/residual.py).

A product of few rows whose inner dimension is long leaves most of a GPU idle. It is cut into parts along that
dimension, and their sum is left to the kernel, which reads the result in any case.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffuapriel.ops.triton import launch

FEW_ROWS = 512  # of a product that is cut
PARTS = 4


class Added(NamedTuple):
    """What is added to the residual stream: gate times the sum of the parts, each divided by its norm if it has one.

    parts (p, b, l, d); squares (k, b, l, h), whose sum over h over `inner` is the square of the norm of parts
    p k / P to p (k + 1) / P; gate (b, 1, d).
    """

    parts: Tensor | None = None
    squares: Tensor | None = None
    gate: Tensor | None = None
    inner: int = 1


def takes(weight: Tensor) -> bool:
    """Whether `add_norm` can run for a residual stream of this device and dtype."""
    return weight.is_cuda and launch.unsupported_reason(weight) is None


def parts_of(rows: int, inner: int) -> int:
    """Into how many parts to cut a product of that many rows along an inner dimension."""
    return PARTS if rows <= FEW_ROWS and inner % PARTS == 0 else 1


def split_product(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T, x (b, l, k) and weight (d, k), as parts (p, b, l, d) whose sum it is."""
    rows = x.flatten(0, 1)
    parts = parts_of(*rows.shape)
    cut = rows.unflatten(1, (parts, -1)).transpose(0, 1), weight.unflatten(1, (parts, -1)).permute(1, 2, 0)
    return torch.bmm(*cut).unflatten(1, x.shape[:2])


def add_norm(
    x: Tensor, weight: Tensor, shift: Tensor, scale: Tensor, added: Added, eps: float
) -> tuple[Tensor, Tensor]:
    """x' = x + what is added, and norm(x') weight (1 + scale) + shift, in x's dtype.

    x (b, l, d), weight (d,), shift and scale (b, 1, d), rows of the same tensor as `added.gate`.
    """
    from diffuapriel.ops.triton.residual import add_norm as kernel

    return kernel(x, weight, shift, scale, *added, eps=eps)
