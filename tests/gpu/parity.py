"""What the parity tests share: poisoned memory, relative errors, gradients that do not cancel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


def poison(like: Sequence[Tensor]) -> None:
    """Leave NaN in the memory that the allocator hands out next: a kernel that leaves a gap shows it."""
    sizes = [v.numel() for v in like] * 4 + [2**k for k in range(6, 25)]
    blocks = [torch.full((n,), math.nan, device=like[0].device) for n in sizes]
    del blocks


def relative_error(got: Tensor, expected: Tensor) -> float:
    """max |got - expected| / max |expected|; where all of that is zero, the largest of `got`."""
    assert got.shape == expected.shape
    if not got.numel():
        return 0.0
    error, scale = (got.double() - expected).abs().max(), expected.abs().max()
    return (error / scale if scale else error).item()


def outer_gradient(y: Tensor, dtype: torch.dtype) -> Tensor:
    """A random gradient for the output `y` that leans towards it.

    With one of zero mean, sums over all tokens (of A, D, a bias) would come out near zero now and then, and no
    rounding is small beside that.
    """
    return (y / y.std(correction=0).clamp_min(1e-30) + torch.randn_like(y)).to(dtype)
