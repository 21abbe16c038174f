"""The short convolution of the mixer: the load that every kernel shares, and its backward pass.

    a_i = bias + sum_j w_j r_(i - (taps - 1) + j)       r: the raw channels, i in scan order
    x_i = SiLU(a_i)

In scan order the convolution is causal for both directions. Plain twin: `two_way_convolution` in
model/mamba2.py and the SiLU after it.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) as a squared inverse root: a full division would take four times the instructions."""
    half = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * x))
    return half * half


@triton.jit
def load_conv(source, row_stride, weight, bias, tap_stride, rows, columns, length, TAPS: tl.constexpr):
    """The convolution's value a, before SiLU: (rows, columns) float32.

    source: the raw channels at scan-order row 0; row_stride: from one scan-order row to the next, negative in a
    reverse direction; weight (taps, channels) and bias (channels) of this direction, tap_stride between taps;
    rows and columns: index vectors, rows below 0 read as zero; length: number of rows there are.
    """
    total = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    total += tl.load(bias + columns).to(tl.float32)[None, :]
    for j in tl.static_range(TAPS):
        row = rows - (TAPS - 1 - j)
        inside = (row >= 0) & (row < length)
        at = row.to(tl.int64)[:, None] * row_stride + columns[None, :]
        raw = tl.load(source + at, mask=inside[:, None], other=0.0).to(tl.float32)
        total += raw * tl.load(weight + j * tap_stride + columns).to(tl.float32)[None, :]
    return total


@triton.jit
def load_conv_silu(source, row_stride, weight, bias, tap_stride, rows, columns, length, TAPS: tl.constexpr):
    """SiLU of `load_conv`, (rows, columns) float32; zero in rows at and beyond `length`."""
    a = load_conv(source, row_stride, weight, bias, tap_stride, rows, columns, length, TAPS)
    return tl.where((rows < length)[:, None], a * sigmoid(a), 0.0)
