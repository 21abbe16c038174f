"""The gate after the scan, alone: g = y SiLU(z) w, and the sum over channels of (y SiLU(z))^2.

Its backward pass is `gate_backward` in backward.py; the scan of a plain pass has the gate in it (scan.py).
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.conv import sigmoid
from diffuapriel.ops.triton.launch import TILE_CHANNELS

ROWS = 32  # tokens of a program


@triton.jit
def gate_kernel(
    y,
    z,
    weight,
    g,
    squares,
    length,
    channels,
    z_batch,
    z_row: tl.constexpr,
    z_direction: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Program (tile of tokens, batch and direction) walks the channels."""
    bk = tl.program_id(1)
    b, k = (bk // DIRECTIONS).to(tl.int64), bk % DIRECTIONS
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = rows.to(tl.int64)
    line = (k * (tl.num_programs(1) // DIRECTIONS) + b) * length + token
    y += (((b * length + token) * DIRECTIONS + k) * channels)[:, None]
    z += b * z_batch + k * z_direction + token[:, None] * z_row
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for begin in range(0, channels, CHANNELS):
        column = begin + tl.arange(0, CHANNELS)
        inside = (rows < length)[:, None] & (column < channels)[None, :]
        z_ = tl.load(z + column[None, :], mask=inside, other=0.0).to(tl.float32)
        gated = tl.load(y + column[None, :], mask=inside, other=0.0).to(tl.float32) * (z_ * sigmoid(z_))
        total += gated * gated
        w = tl.load(weight + k * channels + column, mask=column < channels, other=0.0)[None, :]
        to = g + line[:, None] * channels + column[None, :]
        tl.store(to, (gated * w).to(g.dtype.element_ty), mask=inside)
    tl.store(squares + line, tl.sum(total, 1), mask=rows < length)


def gate(y: Tensor, z: Tensor, norm_weight: Tensor) -> tuple[Tensor, Tensor]:
    """g (k, b, l, c) in y's dtype, and the squares (k, b, l) float32.

    y (b, l, k, c) and norm_weight (k, c) float32 contiguous; z (b, l, k, c), last axis contiguous.
    """
    batch, length, count, channels = z.shape
    g = y.new_empty((count, batch, length, channels))
    squares = norm_weight.new_empty((count, batch, length))
    grid = triton.cdiv(length, ROWS), batch * count
    options = {"DIRECTIONS": count, "ROWS": ROWS, "CHANNELS": TILE_CHANNELS}
    gate_kernel[grid](y, z, norm_weight, g, squares, length, channels, *z.stride()[:3], **options, num_warps=4)
    return g, squares
