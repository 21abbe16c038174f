"""The short convolution of the mixer: the load that every kernel shares, and its backward pass.

    a_i = bias + sum_j w_j r_(i - (taps - 1) + j)       r: the raw channels, i in scan order
    x_i = SiLU(a_i)

    da_i = SiLU'(a_i) dx_i            dr_i = sum_j w_j da_(i + (taps - 1) - j)
    dw_j = sum_i da_i r_(i - (taps - 1) + j)            dbias = sum_i da_i

In scan order the convolution is causal in both directions. Plain twin: `two_way_convolution` in model/mamba2.py and
the SiLU after it.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.launch import BOTH, TILE_CHANNELS, TILE_ROWS, directions

WALK_ROWS, WALK_CHANNELS = 64, 256  # of a program of `conv_backward_kernel`
AHEAD = 4  # rows that it loads ahead: one is only two loads of four bytes per thread


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) as the square of an inverse root: a division would take four times as many instructions."""
    half = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * x))
    return half * half


@triton.jit
def tanh(x):
    """The GPU's own: right to eleven bits, and one instruction of the special function unit instead of two."""
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def logistic(x, ROUNDED: tl.constexpr):
    """sigmoid(x), float32; with ROUNDED, for results in 16 bits, by `tanh`."""
    if ROUNDED:
        return 0.5 * tanh(0.5 * x) + 0.5
    else:
        return sigmoid(x)


@triton.jit
def silu(x, ROUNDED: tl.constexpr):
    """x sigmoid(x), float32; with ROUNDED, for results in 16 bits, by `tanh`."""
    if ROUNDED:
        half = x * 0.5
        return half * tanh(half) + half
    else:
        return x * sigmoid(x)


@triton.jit
def scan_order(bk, row, length, REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr):
    """Batch and direction of `bk` (int64), the sign of a step in scan order, and the token of scan-order row `row`."""
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    return b, k, sign, (reverse * (length - 1) + sign * row).to(tl.int64)


@triton.jit
def load_conv_silu(
    source,
    row_stride,
    weight,
    bias,
    channels,
    k,
    begin,
    within,
    columns,
    length,
    TAPS: tl.constexpr,
    history=None,
    clean=None,
    BLOCK: tl.constexpr = 0,
):
    """SiLU of the convolution, (rows, columns) float32; zero in rows at and beyond `length`.

    source: the raw channels of direction k at scan-order row 0; row_stride: to the next scan-order row, negative in a
    reverse direction; weight (directions, taps, channels) and bias (directions, channels); rows are begin + within;
    length: the number of rows. Rows below 0 are those of history (taps - 1, channels) in direction 0, else zero.
    With BLOCK, the tokens of a block: what lies before a row's block is read from `clean`, as `source` but of the clean
    text, in direction 0, and is zero in direction 1.
    Offsets from row `begin` fit 32 bits; only that row's address needs 64.
    """
    weight += k * TAPS * channels
    bias += k * channels
    total = tl.zeros((within.shape[0], columns.shape[0]), tl.float32)
    total += tl.load(bias + columns).to(tl.float32)[None, :]
    at = within[:, None] * row_stride + columns[None, :]
    for j in tl.static_range(TAPS):
        back = begin - (TAPS - 1 - j)
        row = back + within
        inside = (row >= 0) & (row < length)
        own = inside
        if BLOCK:
            place = (begin + within) % BLOCK
            own = inside & (place >= TAPS - 1 - j)
        raw = tl.load(source + back.to(tl.int64) * row_stride + at, mask=own[:, None], other=0.0)
        raw = raw.to(tl.float32)
        if BLOCK:
            unmasked = clean + back.to(tl.int64) * row_stride + at
            outside = inside & (place < tl.where(k == 0, TAPS - 1 - j, 0))
            raw += tl.load(unmasked, mask=outside[:, None], other=0.0).to(tl.float32)
        if history is not None:  # noqa: SIM102, a branch of the program inside one of the compiler
            if back < tl.where(k == 0, 0, -TAPS):
                before = history + (row + TAPS - 1)[:, None] * channels + columns[None, :]
                raw += tl.load(before, mask=(row < 0)[:, None], other=0.0).to(tl.float32)
        total += raw * tl.load(weight + j * channels + columns).to(tl.float32)[None, :]
    x = silu(total, source.dtype.element_ty != tl.float32)
    return tl.where((begin + within < length)[:, None], x, 0.0)


@triton.jit
def convolve_kernel(
    raw,
    weight,
    bias,
    history,  # (texts, taps - 1, channels), or None: zero
    out,
    length,
    channels,
    conv_channels,
    texts,  # clean rows, before their corrupted copies; unused without BLOCK
    raw_batch,
    raw_row: tl.constexpr,
    raw_direction: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Program (tile of tokens, tile of channels, batch and direction)."""
    bk = tl.program_id(2)
    b, k = (bk // DIRECTIONS).to(tl.int64), bk % DIRECTIONS
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1)).to(tl.int64)
    begin, within = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    rows = begin + within
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    raw += k * raw_direction + first * raw_row
    clean = raw + b % texts * raw_batch
    raw += b * raw_batch
    if history is not None:
        history += b % texts * (TAPS - 1) * conv_channels
    row = sign * raw_row
    x = load_conv_silu(
        raw, row, weight, bias, conv_channels, k, begin, within, columns, length, TAPS, history, clean, BLOCK
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
    """Program (part of the rows, part of the channels, batch and direction) walks its rows from last to first.

    It reads every value once and computes one SiLU per value: the raw rows that a row needs, and the da that earlier
    rows need, are carried in registers. `draw` has the strides of `raw`.
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
    # Rows from `end` on are the next program's; here they only reach back.
    top = tl.minimum(end + TAPS - 1, length)
    zero = tl.zeros((CHANNELS,), tl.float32)
    w, dw, window, later, coming, coming_dx = (), (), (), (), (), ()
    for j in tl.static_range(TAPS):
        w += (tl.load(weight + (k * TAPS + j) * channels + column, mask=real, other=0.0),)
        dw += (zero,)
        later += (zero,)
        row = top - TAPS + 1 + j
        limit = tl.where((row >= 0) & (row < top), channels, 0)
        window += (tl.load(raw + row * raw_step, mask=column < limit, other=0.0).to(tl.float32),)
    for j in tl.static_range(AHEAD):
        row = top - 1 - j
        limit = tl.where(row >= begin, channels, 0)
        coming_dx += (tl.load(dx + row * dx_step, mask=column < limit, other=0.0),)
        row -= TAPS - 1
        limit = tl.where(row >= 0, channels, 0)
        coming += (tl.load(raw + row * raw_step, mask=column < limit, other=0.0),)
    shift = tl.load(bias + k * channels + column, mask=real, other=0.0)
    dbias = zero

    for walked in range(0, top - begin, AHEAD):
        for j in tl.static_range(AHEAD):  # a step of the walk moves what is carried: unrolled, to other names only
            row = top - 1 - walked - j
            window = (coming[0].to(tl.float32),) + window[: TAPS - 1]
            dx_here = coming_dx[0].to(tl.float32)
            farther = row - AHEAD
            limit = tl.where(farther >= begin, channels, 0)
            coming_dx = coming_dx[1:] + (tl.load(dx + farther * dx_step, mask=column < limit, other=0.0),)
            farther -= TAPS - 1
            limit = tl.where(farther >= 0, channels, 0)
            coming = coming[1:] + (tl.load(raw + farther * raw_step, mask=column < limit, other=0.0),)

            a = shift
            for i in tl.static_range(TAPS):
                a += w[i] * window[i]
            slope = logistic(a, raw.dtype.element_ty != tl.float32)
            da = dx_here * slope * (1 + a * (1 - slope))
            later = (da,) + later[: TAPS - 1]
            out = zero
            for i in tl.static_range(TAPS):
                out += w[TAPS - 1 - i] * later[i]
            kept = tl.where((row < end) & (row >= begin), channels, 0)
            tl.store(draw + row * raw_step, out.to(draw.dtype.element_ty), mask=column < kept)
            da = tl.where(row < end, da, 0.0)
            dbias += da
            sums = ()
            for i in tl.static_range(TAPS):
                sums += (dw[i] + da * window[i],)
            dw = sums

    to = totals + ((b * DIRECTIONS + k) * tl.num_programs(0) + part) * (TAPS + 1) * channels + column
    for j in tl.static_range(TAPS):
        tl.store(to + j * channels, dw[j], mask=real)
    tl.store(to + TAPS * channels, dbias, mask=real)


@triton.jit
def load_row(raw, history, row, step, channels, column, k, TAPS: tl.constexpr):
    """The raw channels of scan-order row `row`: below 0 those of the history in direction 0, else zero."""
    known = (row >= 0) | ((k == 0) & (row > -TAPS))
    at = tl.where(row >= 0, raw + row * step, history + (row + TAPS - 1) * channels)
    return tl.load(at, mask=column < tl.where(known, channels, 0), other=0.0)


@triton.jit
def blocks_backward_kernel(
    raw,
    dx,
    weight,
    bias,
    history,
    draw,
    dhistory,
    totals,
    length,
    channels,
    texts,
    raw_batch,
    raw_row: tl.constexpr,
    raw_direction: tl.constexpr,
    dx_batch,
    dx_row: tl.constexpr,
    dx_direction: tl.constexpr,
    draw_batch,
    draw_row: tl.constexpr,
    draw_direction: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """As `conv_backward_kernel`, of a folded pass: program (part of the rows, part of the channels, text and direction)
    walks the clean row and its corrupted copy together, the first part down to the history."""
    part, bk = tl.program_id(0), tl.program_id(2)
    b, k = (bk // DIRECTIONS).to(tl.int64), bk % DIRECTIONS
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1)).to(tl.int64)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = column < channels
    raw += b * raw_batch + k * raw_direction + first * raw_row + column
    dx += b * dx_batch + k * dx_direction + first * dx_row + column
    draw += b * draw_batch + k * draw_direction + first * draw_row + column
    noisy_raw, noisy_dx, noisy_draw = raw + texts * raw_batch, dx + texts * dx_batch, draw + texts * draw_batch
    history += b * (TAPS - 1) * channels + column
    dhistory += b * (TAPS - 1) * channels + column
    raw_step, dx_step = (sign * raw_row).to(tl.int64), (sign * dx_row).to(tl.int64)
    draw_step = (sign * draw_row).to(tl.int64)

    begin = part * ROWS
    end = tl.minimum(begin + ROWS, length)
    top = tl.minimum(end + TAPS - 1, length)  # rows from `end` on are the next program's; here they only reach back
    bottom = tl.where((part == 0) & (k == 0), 1 - TAPS, begin)
    zero = tl.zeros((CHANNELS,), tl.float32)
    w, dw, later, noisy_later = (), (), (), ()
    # The rows that row `top` would read, without itself, and what is loaded ahead.
    window, noisy_window, coming, noisy_coming, coming_dx, noisy_coming_dx = (zero,), (zero,), (), (), (), ()
    for j in tl.static_range(TAPS):
        w += (tl.load(weight + (k * TAPS + j) * channels + column, mask=real, other=0.0),)
        dw += (zero,)
        later += (zero,)
        noisy_later += (zero,)
    for d in tl.static_range(1, TAPS):
        row = top - d
        window += (load_row(raw, history, row, raw_step, channels, column, k, TAPS).to(tl.float32),)
        noisy_window += (load_row(noisy_raw, history, row, raw_step, channels, column, k, TAPS).to(tl.float32),)
    for j in tl.static_range(AHEAD):
        row = top - TAPS - j
        coming += (load_row(raw, history, row, raw_step, channels, column, k, TAPS),)
        noisy_coming += (load_row(noisy_raw, history, row, raw_step, channels, column, k, TAPS),)
        row = top - 1 - j
        limit = tl.where(row >= begin, channels, 0)
        coming_dx += (tl.load(dx + row * dx_step, mask=column < limit, other=0.0),)
        noisy_coming_dx += (tl.load(noisy_dx + row * dx_step, mask=column < limit, other=0.0),)
    shift = tl.load(bias + k * channels + column, mask=real, other=0.0)
    dbias = zero
    forward = tl.where(k == 0, 1.0, 0.0)

    for back in range(0, top - bottom):
        row = top - 1 - back
        window = window[1:] + (coming[0].to(tl.float32),)
        noisy_window = noisy_window[1:] + (noisy_coming[0].to(tl.float32),)
        dx_here, noisy_dx_here = coming_dx[0].to(tl.float32), noisy_coming_dx[0].to(tl.float32)
        farther = row - AHEAD
        limit = tl.where(farther >= begin, channels, 0)
        coming_dx = coming_dx[1:] + (tl.load(dx + farther * dx_step, mask=column < limit, other=0.0),)
        noisy_coming_dx = noisy_coming_dx[1:] + (tl.load(noisy_dx + farther * dx_step, mask=column < limit, other=0.0),)
        farther -= TAPS - 1
        coming = coming[1:] + (load_row(raw, history, farther, raw_step, channels, column, k, TAPS),)
        noisy_coming = noisy_coming[1:] + (load_row(noisy_raw, history, farther, raw_step, channels, column, k, TAPS),)

        place = (row + BLOCK * TAPS) % BLOCK  # of a number that is not negative
        a, noisy_a, read, noisy_read = shift, shift, (), ()
        for d in tl.static_range(TAPS):
            inside = tl.where(place >= d, 1.0, 0.0)
            outside = (1.0 - inside) * forward
            read += (window[d] * (inside + outside),)
            noisy_read += (noisy_window[d] * inside + window[d] * outside,)
            a += w[TAPS - 1 - d] * read[d]
            noisy_a += w[TAPS - 1 - d] * noisy_read[d]
        slope = sigmoid(a)
        da = dx_here * slope * (1 + a * (1 - slope))
        slope = sigmoid(noisy_a)
        noisy_da = noisy_dx_here * slope * (1 + noisy_a * (1 - slope))
        later = (da,) + later[: TAPS - 1]
        noisy_later = (noisy_da,) + noisy_later[: TAPS - 1]
        out, noisy_out = zero, zero
        for d in tl.static_range(TAPS):
            inside = tl.where((place + d) % BLOCK >= d, 1.0, 0.0)
            outside = (1.0 - inside) * forward
            out += w[TAPS - 1 - d] * (later[d] * (inside + outside) + noisy_later[d] * outside)
            noisy_out += w[TAPS - 1 - d] * (noisy_later[d] * inside)
        kept = tl.where((row < end) & (row >= 0), channels, 0)
        tl.store(draw + row * draw_step, out.to(draw.dtype.element_ty), mask=column < kept)
        tl.store(noisy_draw + row * draw_step, noisy_out.to(draw.dtype.element_ty), mask=column < kept)
        # Before the text there is one history, which corrupted tokens of the first block read too.
        kept = tl.where(row < 0, channels, 0)
        out = (out + noisy_out).to(dhistory.dtype.element_ty)
        tl.store(dhistory + (row + TAPS - 1) * channels, out, mask=column < kept)
        da, noisy_da = tl.where(row < end, da, 0.0), tl.where(row < end, noisy_da, 0.0)
        dbias += da + noisy_da
        sums = ()
        for j in tl.static_range(TAPS):
            sums += (dw[j] + da * read[TAPS - 1 - j] + noisy_da * noisy_read[TAPS - 1 - j],)
        dw = sums

    to = totals + ((b * DIRECTIONS + k) * tl.num_programs(0) + part) * (TAPS + 1) * channels + column
    for j in tl.static_range(TAPS):
        tl.store(to + j * channels, dw[j], mask=real)
    tl.store(to + TAPS * channels, dbias, mask=real)


def convolve(
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    reverse: tuple[bool, ...],
    history: Tensor | None = None,
    block_length: int = 0,
) -> Tensor:
    """SiLU of the convolution of the first c channels, (b, l, k, c) contiguous, in raw's dtype.

    raw (b, l, k, c), last axis contiguous, c a multiple of 16; weight (k, taps, channels) and bias (k, channels)
    contiguous float32; only their first c channels are used. With block_length a folded pass: the second half of the
    rows are corrupted copies of the first, whose blocks see the clean ones before; history (b / 2, taps - 1, channels)
    comes before both.
    """
    batch, length, count, channels = raw.shape
    texts = batch // 2 if block_length else batch
    out = raw.new_empty(raw.shape)
    wide = max(size for size in (16, 32, TILE_CHANNELS) if channels % size == 0)
    sizes = length, channels, bias.shape[1], texts, *raw.stride()[:3]
    options = {**directions(reverse), "TAPS": weight.shape[1], "BLOCK": block_length}
    rows = TILE_ROWS // 2 if block_length else TILE_ROWS  # two loads for each tap take twice the registers
    options |= {"ROWS": rows, "CHANNELS": wide}
    grid = triton.cdiv(length, rows), channels // wide, batch * count
    convolve_kernel[grid](raw, weight, bias, history, out, *sizes, **options, num_warps=4)
    return out


def conv_backward(
    dx: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], draw: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weight (k, taps, c) and bias (k, c), float32; fills `draw`, the gradient of `raw`.

    dx, the gradient after the SiLU, raw and draw (b, l, k, c), last axis contiguous, raw and draw with equal strides;
    weight and bias contiguous float32.
    """
    batch, length, count, channels = raw.shape
    taps, parts = weight.shape[1], triton.cdiv(length, WALK_ROWS)
    totals = weight.new_empty((batch, count, parts, taps + 1, channels))
    sizes = length, channels, *raw.stride()[:3], *dx.stride()[:3]
    wide = 2 * WALK_CHANNELS if channels >= 4 * WALK_CHANNELS else WALK_CHANNELS
    options = {"TAPS": taps, "ROWS": WALK_ROWS, "CHANNELS": wide, "AHEAD": AHEAD}
    grid = parts, triton.cdiv(channels, wide), batch * count
    conv_backward_kernel[grid](
        raw, dx, weight, bias, draw, totals, *sizes, **options, **directions(reverse), num_warps=4
    )
    summed = torch.sum(totals, (0, 2))
    return summed[:, :taps], summed[:, taps]


def blocks_backward(
    dx: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, history: Tensor, block_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of raw, contiguous, weight and bias, float32, and history, of `convolve` with a block length.

    Arguments as there, all with their last axis contiguous; dx is the gradient after the SiLU.
    """
    rows, length, count, channels = raw.shape
    texts, taps, parts = rows // 2, weight.shape[1], triton.cdiv(length, WALK_ROWS)
    draw, dhistory = torch.empty(raw.shape, dtype=raw.dtype, device=raw.device), torch.empty_like(history)
    totals = weight.new_empty((texts, count, parts, taps + 1, channels))
    sizes = length, channels, texts, *raw.stride()[:3], *dx.stride()[:3], *draw.stride()[:3]
    options = {"TAPS": taps, "BLOCK": block_length, "ROWS": WALK_ROWS, "CHANNELS": WALK_CHANNELS, "AHEAD": AHEAD}
    grid = parts, triton.cdiv(channels, WALK_CHANNELS), texts * count
    blocks_backward_kernel[grid](
        raw, dx, weight, bias, history, draw, dhistory, totals, *sizes, **options, **directions(BOTH), num_warps=4
    )
    summed = torch.sum(totals, (0, 2))
    return draw, summed[:, :taps].clone(), summed[:, taps].clone(), dhistory
