"""Before the scan: convolution and SiLU of B and C, softplus of dt, both directions in one launch.

    B, C = SiLU(convolution(B, C channels of the projection))
    dt   = softplus(dt channels + dt_bias)

Plain twin: the lines before `ssd_bidirectional` in model/mamba2.py. The x channels are convolved where the scan
loads them: they are most of the bytes, while B and C are shared by all heads of a group and cost little here.

    projected  (b, l, k, z x B C dt)   what in_proj gives, k = 2 directions
    B, C       (b, l, k, g, n)         in the dtype of `projected`
    dt         (b, k, h, l)            float32; tokens last, for the scan reads a row of it
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_conv import load_conv_silu
from diffuapriel.ssd.triton_launch import bits

ROWS, CHANNELS = 64, 64  # of a tile


@triton.jit
def prepare_kernel(
    projected,  # at the B channels of direction 0
    dt_raw,  # at the dt channels of direction 0
    weight,  # (k, taps, channels) at the B channels
    bias,  # (k, channels) at the B channels
    dt_bias,  # (k, h)
    B,
    C,
    dt,
    length,
    heads,
    batch_stride,
    row_stride: tl.constexpr,
    direction_stride: tl.constexpr,
    conv_channels,
    GN: tl.constexpr,
    HEADS: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tile of tokens by channels; the last program of an axis takes dt."""
    tile, b, k = tl.program_id(1), tl.program_id(2) // DIRECTIONS, tl.program_id(2) % DIRECTIONS
    reverse = (REVERSE >> k) & 1
    first = (reverse * (length - 1)).to(tl.int64)  # the first token in scan order
    sign = 1 - 2 * reverse
    begin, within = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    rows = begin + within
    tokens = first + sign * rows
    inside = rows < length
    start = b.to(tl.int64) * batch_stride + k * direction_stride
    if tile < 2 * GN // CHANNELS:
        columns = tile * CHANNELS + tl.arange(0, CHANNELS)
        convolved = load_conv_silu(
            projected + start + first * row_stride,
            sign * row_stride,
            weight + k * TAPS * conv_channels,
            bias + k * conv_channels,
            conv_channels,
            begin,
            within,
            columns,
            length,
            TAPS,
        )
        out = ((b * length + tokens) * DIRECTIONS + k)[:, None] * GN + (columns % GN)[None, :]
        if tile * CHANNELS < GN:
            tl.store(B + out, convolved.to(B.dtype.element_ty), mask=inside[:, None])
        else:
            tl.store(C + out, convolved.to(C.dtype.element_ty), mask=inside[:, None])
    else:
        head = tl.arange(0, HEADS)
        inside_both = inside[:, None] & (head < heads)[None, :]
        raw = tl.load(
            dt_raw + start + tokens[:, None] * row_stride + head[None, :], mask=inside_both, other=0.0
        )
        raw = raw.to(tl.float32) + tl.load(dt_bias + k * heads + head, mask=head < heads, other=0.0)[None, :]
        step = tl.maximum(raw, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(raw)))  # softplus without overflow
        # a name of its own: Triton 3.6 wants one shape for a name that both branches set
        dt_out = ((b * DIRECTIONS + k) * heads + head)[None, :].to(tl.int64) * length + tokens[:, None]
        tl.store(dt + dt_out, step, mask=inside_both)


def prepare(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    heads: int,
    headdim: int,
    groups: int,
    state: int,
    reverse: tuple[bool, ...] = (False, True),
) -> tuple[Tensor, Tensor, Tensor]:
    """B and C (b, l, k, g, n) and dt (b, k, h, l) from `projected` (b, l, k, z x B C dt), contiguous.

    conv_weight (k, taps, channels of x B C), conv_bias (k, channels), dt_bias (k, heads), float32.
    """
    batch, length, directions, _ = projected.shape
    inner, written = heads * headdim, groups * state
    B = projected.new_empty((batch, length, directions, groups, state))
    C = torch.empty_like(B)
    dt = projected.new_empty((batch, directions, heads, length), dtype=torch.float32)
    channels = min(CHANNELS, written)
    grid = (triton.cdiv(length, ROWS), 2 * written // channels + 1, batch * directions)
    prepare_kernel[grid](
        projected[..., 2 * inner :],
        projected[..., 2 * inner + 2 * written :],
        conv_weight[..., inner:],
        conv_bias[..., inner:],
        dt_bias,
        B,
        C,
        dt,
        length,
        heads,
        projected.stride(0),
        projected.stride(1),
        projected.stride(2),
        conv_bias.shape[-1],
        GN=written,
        HEADS=triton.next_power_of_2(heads),
        TAPS=conv_weight.shape[1],
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        ROWS=ROWS,
        CHANNELS=channels,
        num_warps=4,
    )
    return B, C, dt
