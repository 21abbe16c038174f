"""The short convolution of the mixer: the load that every kernel shares, and its backward pass.

    a_i = bias + sum_j w_j r_(i - (taps - 1) + j)       r: the raw channels, i in scan order
    x_i = SiLU(a_i)

    da_i = SiLU'(a_i) dx_i            dr_i = sum_j w_j da_(i + (taps - 1) - j)
    dw_j = sum_i da_i r_(i - (taps - 1) + j)            dbias = sum_i da_i

In scan order the convolution is causal for both directions. Plain twin: `two_way_convolution` in
model/mamba2.py and the SiLU after it.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.launch import bits

ROWS, CHANNELS = 64, 64  # of a tile of `convolve_kernel`
WALKED_ROWS, WALKED_CHANNELS = 64, 256  # of a program of `conv_backward_kernel`
AHEAD = (
    4  # rows it loads ahead: a row is two loads of four bytes per thread, far less than a GPU needs in flight
)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) as a squared inverse root: a full division would take four times the instructions."""
    half = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * x))
    return half * half


@triton.jit
def silu(x, ROUNDED: tl.constexpr):
    """x sigmoid(x), float32. Where the result is rounded to 16 bits anyway, by the GPU's own tanh: one instruction of
    the slow unit in place of two, right to eleven bits."""
    if ROUNDED:
        half = x * 0.5
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [half], dtype=tl.float32, is_pure=True, pack=1
        )
        return half * tanh + half
    else:
        return x * sigmoid(x)


@triton.jit
def load_conv(
    source, row_stride, weight, bias, tap_stride, begin, within, columns, length, TAPS: tl.constexpr
):
    """The convolution's value a, before SiLU: (rows, columns) float32.

    source: the raw channels at scan-order row 0; row_stride: from one scan-order row to the next, negative in a
    reverse direction; weight (taps, channels) and bias (channels) of this direction, tap_stride between taps;
    the rows are begin + within, those below 0 read as zero; length: number of rows there are. Offsets from row
    `begin` fit 32 bits, and only that row's address takes 64.
    """
    total = tl.zeros((within.shape[0], columns.shape[0]), tl.float32)
    total += tl.load(bias + columns).to(tl.float32)[None, :]
    at = within[:, None] * row_stride + columns[None, :]
    for j in tl.static_range(TAPS):
        back = begin - (TAPS - 1 - j)
        row = back + within
        inside = (row >= 0) & (row < length)
        raw = tl.load(source + back.to(tl.int64) * row_stride + at, mask=inside[:, None], other=0.0)
        raw = raw.to(tl.float32)
        total += raw * tl.load(weight + j * tap_stride + columns).to(tl.float32)[None, :]
    return total


@triton.jit
def load_conv_silu(
    source, row_stride, weight, bias, tap_stride, begin, within, columns, length, TAPS: tl.constexpr
):
    """SiLU of `load_conv`, (rows, columns) float32; zero in rows at and beyond `length`."""
    a = load_conv(source, row_stride, weight, bias, tap_stride, begin, within, columns, length, TAPS)
    return tl.where((begin + within < length)[:, None], silu(a, source.dtype.element_ty != tl.float32), 0.0)


@triton.jit
def convolve_kernel(
    raw,
    weight,
    bias,
    out,
    length,
    channels,
    conv_channels,
    raw_batch,
    raw_row: tl.constexpr,
    raw_direction: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tile of tokens by channels: program (tile of tokens, tile of channels, batch and direction)."""
    bk = tl.program_id(2)
    b, k = (bk // DIRECTIONS).to(tl.int64), bk % DIRECTIONS
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1)).to(tl.int64)
    begin, within = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    rows = begin + within
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x = load_conv_silu(
        raw + b * raw_batch + k * raw_direction + first * raw_row,
        sign * raw_row,
        weight + k * TAPS * conv_channels,
        bias + k * conv_channels,
        conv_channels,
        begin,
        within,
        columns,
        length,
        TAPS,
    )
    to = ((b * length + first + sign * rows) * DIRECTIONS + k)[:, None] * channels + columns[None, :]
    tl.store(out + to, x.to(out.dtype.element_ty), mask=(rows < length)[:, None])


@triton.jit
def conv_backward_kernel(
    raw,
    dx,
    weight,
    bias,
    draw,
    totals,
    length,
    channels,
    raw_batch,
    raw_row: tl.constexpr,
    raw_direction: tl.constexpr,
    dx_batch,
    dx_row: tl.constexpr,
    dx_direction: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Program (part of the rows, part of the channels, batch and direction) walks its rows from the last to the first.

    Every value is read once and a SiLU computed once: the raw rows that a row needs, and the da that the rows before
    it need, travel along in registers. `draw` has the strides of `raw`.
    """
    part, bk = tl.program_id(0), tl.program_id(2)
    b, k = (bk // DIRECTIONS).to(tl.int64), bk % DIRECTIONS
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1)).to(tl.int64)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = column < channels
    start = b * raw_batch + k * raw_direction + first * raw_row + column
    raw += start
    draw += start
    dx += b * dx_batch + k * dx_direction + first * dx_row + column
    raw_step, dx_step = (sign * raw_row).to(tl.int64), (sign * dx_row).to(tl.int64)

    begin = part * ROWS
    end = tl.minimum(begin + ROWS, length)
    top = tl.minimum(
        end + TAPS - 1, length
    )  # rows from `end` on are the next program's; here they only reach back
    zero = tl.zeros((CHANNELS,), tl.float32)
    w, dw, window, later, coming, coming_dx = (), (), (), (), (), ()
    for j in tl.static_range(TAPS):
        w += (tl.load(weight + (k * TAPS + j) * channels + column, mask=real, other=0.0),)
        dw += (zero,)
        later += (zero,)
        row = top - TAPS + 1 + j
        seen = tl.where((row >= 0) & (row < top), channels, 0)
        window += (tl.load(raw + row * raw_step, mask=column < seen, other=0.0).to(tl.float32),)
    for j in tl.static_range(AHEAD):
        row = top - 1 - j
        seen = tl.where(row >= begin, channels, 0)
        coming_dx += (tl.load(dx + row * dx_step, mask=column < seen, other=0.0),)
        row -= TAPS - 1
        seen = tl.where(row >= 0, channels, 0)
        coming += (tl.load(raw + row * raw_step, mask=column < seen, other=0.0),)
    shift = tl.load(bias + k * channels + column, mask=real, other=0.0)
    dbias = zero

    for back in range(0, top - begin):
        row = top - 1 - back
        window = (coming[0].to(tl.float32),) + window[: TAPS - 1]
        dx_here = coming_dx[0].to(tl.float32)
        farther = row - AHEAD
        seen = tl.where(farther >= begin, channels, 0)
        coming_dx = coming_dx[1:] + (tl.load(dx + farther * dx_step, mask=column < seen, other=0.0),)
        farther -= TAPS - 1
        seen = tl.where(farther >= 0, channels, 0)
        coming = coming[1:] + (tl.load(raw + farther * raw_step, mask=column < seen, other=0.0),)

        a = shift
        for j in tl.static_range(TAPS):
            a += w[j] * window[j]
        slope = sigmoid(a)
        da = dx_here * slope * (1 + a * (1 - slope))
        later = (da,) + later[: TAPS - 1]
        out = zero
        for j in tl.static_range(TAPS):
            out += w[TAPS - 1 - j] * later[j]
        kept = tl.where(row < end, channels, 0)
        tl.store(draw + row * raw_step, out.to(draw.dtype.element_ty), mask=column < kept)
        da = tl.where(row < end, da, 0.0)
        dbias += da
        sums = ()
        for j in tl.static_range(TAPS):
            sums += (dw[j] + da * window[j],)
        dw = sums

    to = totals + ((b * DIRECTIONS + k) * tl.num_programs(0) + part) * (TAPS + 1) * channels + column
    for j in tl.static_range(TAPS):
        tl.store(to + j * channels, dw[j], mask=real)
    tl.store(to + TAPS * channels, dbias, mask=real)


def convolve(raw: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """SiLU of the convolution of the first channels, contiguous: (b, l, k, c) in raw's dtype.

    raw (b, l, k, c) of any strides but the last; weight (k, taps, channels) and bias (k, channels) contiguous float32,
    of which the first c are used. c must be a multiple of 16.
    """
    batch, length, directions, channels = raw.shape
    out = raw.new_empty(raw.shape)
    wide = max(size for size in (16, 32, CHANNELS) if channels % size == 0)
    convolve_kernel[(triton.cdiv(length, ROWS), channels // wide, batch * directions)](
        raw,
        weight,
        bias,
        out,
        length,
        channels,
        bias.shape[1],
        *raw.stride()[:3],
        TAPS=weight.shape[1],
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        ROWS=ROWS,
        CHANNELS=wide,
        num_warps=4,
    )
    return out


def conv_backward(
    dx: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], draw: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weight (k, taps, c) and bias (k, c), float32; fills `draw`, the gradient of `raw`.

    dx, the gradient after the SiLU, raw and draw (b, l, k, c) of any strides but the last, raw and draw of the same
    ones; weight and bias contiguous float32.
    """
    batch, length, directions, channels = raw.shape
    taps, parts = weight.shape[1], triton.cdiv(length, WALKED_ROWS)
    totals = weight.new_empty((batch, directions, parts, taps + 1, channels))
    conv_backward_kernel[(parts, triton.cdiv(channels, WALKED_CHANNELS), batch * directions)](
        raw,
        dx,
        weight,
        bias,
        draw,
        totals,
        length,
        channels,
        *raw.stride()[:3],
        *dx.stride()[:3],
        TAPS=taps,
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        ROWS=WALKED_ROWS,
        CHANNELS=WALKED_CHANNELS,
        AHEAD=AHEAD,
        num_warps=4,
    )
    summed = torch.sum(totals, (0, 2))
    return summed[:, :taps], summed[:, taps]
