"""The backward pass of the gate: what stands between the scan's output y and the two things the mixer gives.

    g      = y SiLU(z) w            w: weight of the norm, a number a channel
    square = sum over channels of (y SiLU(z))^2

    d(y SiLU(z)) = dg w + 2 y SiLU(z) dsquare;   dy and dz by the product rule;   dw = sum over tokens of dg y SiLU(z)

Plain twin: the last lines of the plain mixer in model/mamba2.py; forward, the store of triton_scan.py.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_conv import sigmoid

ROWS, CHANNELS = 64, 64  # of a tile


@triton.jit
def gate_backward_kernel(
    dg,
    dsquares,
    y,
    z,
    weight,
    dy,
    dz,
    totals,
    length,
    channels,
    z_batch,
    z_row: tl.constexpr,
    z_direction: tl.constexpr,
    dz_batch,
    dz_row: tl.constexpr,
    dz_direction: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tile of tokens by channels: program (tile of tokens, tile of channels, batch and direction)."""
    bk = tl.program_id(2)
    b, k = (bk // DIRECTIONS).to(tl.int64), bk % DIRECTIONS
    batches = tl.num_programs(2) // DIRECTIONS
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = column < channels
    inside = (rows < length)[:, None] & real[None, :]
    token = rows.to(tl.int64)
    line = (k * batches + b) * length + token
    at = ((b * length + token) * DIRECTIONS + k)[:, None] * channels + column[None, :]
    at_z = b * z_batch + k * z_direction + token[:, None] * z_row + column[None, :]
    y_ = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    z_ = tl.load(z + at_z, mask=inside, other=0.0).to(tl.float32)
    dg_ = tl.load(dg + line[:, None] * channels + column[None, :], mask=inside, other=0.0).to(tl.float32)
    dsquare = tl.load(dsquares + line, mask=rows < length, other=0.0)[:, None]
    w = tl.load(weight + k * channels + column, mask=real, other=0.0)[None, :]

    slope = sigmoid(z_)
    silu = z_ * slope
    gated = y_ * silu
    dgated = dg_ * w + 2 * gated * dsquare
    tl.store(dy + at, (dgated * silu).to(dy.dtype.element_ty), mask=inside)
    dz_ = dgated * y_ * slope * (1 + z_ * (1 - slope))
    at_dz = b * dz_batch + k * dz_direction + token[:, None] * dz_row + column[None, :]
    tl.store(dz + at_dz, dz_.to(dz.dtype.element_ty), mask=inside)
    part = (b * tl.num_programs(0) + tl.program_id(0)) * DIRECTIONS + k
    tl.store(totals + part * channels + column, tl.sum(dg_ * gated, 0), mask=real)


def gate_backward(
    dg: Tensor, dsquares: Tensor, y: Tensor, z: Tensor, norm_weight: Tensor, dz: Tensor
) -> tuple[Tensor, Tensor]:
    """dy, shaped and typed as y, and the gradient of the norm's weight (k, c) float32; fills `dz`.

    dg (k, b, l, c), y (b, l, k, c) contiguous; dsquares (k, b, l) and norm_weight (k, c) float32, contiguous;
    z and dz (b, l, k, c) of any strides but the last.
    """
    batch, length, directions, channels = z.shape
    dy = torch.empty_like(y)
    tiles = triton.cdiv(length, ROWS)
    totals = dsquares.new_empty((batch, tiles, directions, channels))
    gate_backward_kernel[(tiles, triton.cdiv(channels, CHANNELS), batch * directions)](
        dg,
        dsquares,
        y,
        z,
        norm_weight,
        dy,
        dz,
        totals,
        length,
        channels,
        *z.stride()[:3],
        *dz.stride()[:3],
        DIRECTIONS=directions,
        ROWS=ROWS,
        CHANNELS=CHANNELS,
        num_warps=4,
    )
    return dy, torch.sum(totals, (0, 1))
