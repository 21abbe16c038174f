"""The scan of both directions in one launch, with everything around it in a Mamba-2 mixer.

    y_t = sum_u exp(s_t - s_u) (C_t . B_u) dt_u x_u  +  exp(s_t) C_t H  +  D x_t          inside a chunk
    H'  = exp(s_end) H + sum_u B_u (exp(s_end - s_u) dt_u x_u)^T                          from chunk to chunk

with s the running sum of dt A inside a chunk, in scan order. Three kernels:

prepare_kernel, before the scan: B, C = SiLU(convolution(B, C channels)) and dt = softplus(dt channels + dt_bias). The
    x channels are convolved where the scan loads them, because they are most of the bytes; B and C are shared by all
    heads of a group and are cheap to store.

scan_kernel: a program owns one head of one direction of one text and walks its chunks; the state H (n, p) stays on
    chip. What would be separate passes over memory happens in the loads and stores of that walk:

    load    x = SiLU(convolution(x channels))                          with CONV
    store   g = y SiLU(z) times the norm's weight (unless out_proj has it),
            and the sum of (y SiLU(z))^2 over the head                 with a gate

states_kernel, the walk of the state alone, forward as above or backward, chunks in the opposite order:

    G  = exp(s_end) G' + sum_t C_t (exp(s_t) dy_t)^T                   G: gradient of the state that leaves a chunk

    With too few heads and texts to fill the device, the sequence is cut into splits. `split_states` computes what each
    split adds to a state of zero, all at once; every scan program first carries the state through the splits before its
    own. The backward pass uses it for the states H that enter the chunks and the gradients G (`walk_states`).

    projected  (b, l, k, z x B C dt)   output of in_proj
    dt         (b, k, h, l) float32    tokens last, because the scan reads a row of it
    states     (b, k, h, chunks, n, p)

Plain twins: chunked.py, and `_plain` in model/mamba2.py around it. Walking fused chunks is Mamba-2's own scheme
(arXiv:2405.21060, section 6); direction 1 only changes a sign. What saves registers (a state of 128 x 64 alone takes
64 per thread): the state is kept in two halves, rounded one at a time for their products; D is added on the
diagonal of the scores, dt inside the exponent; row strides are compile-time constants.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.hopper import scan as hopper
from diffuapriel.ops.triton.conv import load_conv_silu, scan_order, silu
from diffuapriel.ops.triton.launch import (
    BOTH,
    CHUNK,
    MIN_TILE,
    TILE_CHANNELS,
    TILE_ROWS,
    choose_splits,
    directions,
    on_hopper,
    precision,
)

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def states_kernel(
    value,
    key,
    dt,
    A,
    weight,  # of the convolution, (k, taps, channels); unused without CONV
    bias,
    history,  # (b, taps - 1, channels): what direction 0 convolves before its first token, or None: zero
    start,  # (b, k, h, p, n) float32, or None: zero
    states,  # (b, k, h, parts, n, p), or None
    final,  # (b, k, h, splits, n, p) float32, or None
    totals,  # (b, k, h, splits) float32: sum of dt A of a split, or None
    length,
    chunks_per_split,
    heads,
    value_batch,
    value_row,
    value_direction,
    conv_channels,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    CONV: tl.constexpr, TAPS: tl.constexpr, BACKWARD: tl.constexpr, REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (head, batch and direction, split) walks the chunks of its split."""
    head, bk, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    b, k, sign, first = scan_order(bk, 0, length, REVERSE, DIRECTIONS)
    group = head // (heads // GROUPS)
    p, n, within = tl.arange(0, P), tl.arange(0, N), tl.arange(0, CHUNK)

    value += b * value_batch + k * value_direction + first * value_row
    key += ((b * length + first) * DIRECTIONS + k) * GROUPS * N + group * N
    dt += (bk * heads + head) * length + first
    decay_rate = tl.load(A + k * heads + head)
    if history is not None:
        history += b * (TAPS - 1) * conv_channels

    here = bk * heads + head
    H = tl.zeros((N, P), tl.float32)
    if start is not None:
        H = tl.load(start + here * P * N + p[None, :] * N + n[:, None])
    total = 0.0
    chunks = tl.cdiv(length, CHUNK)
    begin = split * chunks_per_split
    end = tl.minimum(begin + chunks_per_split, chunks)
    rows = ((chunks - 1 - begin) if BACKWARD else begin) * CHUNK + within
    coming = tl.load(dt + sign * rows, mask=(rows >= 0) & (rows < length), other=0.0)
    for i in tl.range(begin, end, num_stages=STAGES):
        c = (chunks - 1 - i) if BACKWARD else i
        rows = c * CHUNK + within
        inside = rows < length
        step = coming  # loaded one chunk ago
        next_rows = (rows - CHUNK) if BACKWARD else (rows + CHUNK)
        coming = tl.load(dt + sign * next_rows, mask=(next_rows >= 0) & (next_rows < length), other=0.0)
        if states is not None:
            out = (here * chunks + c) * N * P + n[:, None] * P + p[None, :]
            tl.store(states + out, H.to(states.dtype.element_ty))
        s = tl.cumsum(step * decay_rate, 0)
        s_end = tl.sum(step * decay_rate, 0)
        if CONV:
            row, columns, first_row = sign * value_row, head * P + p, c * CHUNK
            v = load_conv_silu(
                value, row, weight, bias, conv_channels, k, first_row, within, columns, length, TAPS, history
            )
        else:
            at = (sign * rows).to(tl.int64)[:, None] * value_row + (head * P + p)[None, :]
            v = tl.load(value + at, mask=inside[:, None], other=0.0).to(tl.float32)
        at = (sign * rows).to(tl.int64)[:, None] * (DIRECTIONS * GROUPS * N) + n[None, :]
        keys = tl.load(key + at, mask=inside[:, None], other=0.0)
        factor = tl.exp(s) if BACKWARD else tl.exp(s_end - s) * step
        v = (v * factor[:, None]).to(keys.dtype)
        H = H * tl.exp(s_end) + tl.dot(tl.trans(keys), v, input_precision=PRECISION)
        total += s_end

    parts = tl.num_programs(2)
    if final is not None:
        out = (here * parts + split) * N * P + n[:, None] * P + p[None, :]
        tl.store(final + out, H)
    if totals is not None:
        tl.store(totals + here * parts + split, total)


def walk_states(
    value: Tensor,
    key: Tensor,
    dt: Tensor,
    A: Tensor,
    start: Tensor | None,
    reverse: tuple[bool, ...],
    *,
    backward: bool = False,
    want_final: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """States (b, k, h, chunks, n, p) in key's dtype; with `want_final` also the last one, (b, k, h, n, p) float32.

    Forward, with value x (b, l, k, h, p) and key B (b, l, k, g, n): the state that enters each chunk of CHUNK tokens in
    scan order, from `start` (b, k, h, p, n). With `backward`, value dy and key C: the gradient of the state that leaves
    each chunk, where `start` is that of the last chunk. dt (b, k, h, l) and A (k, h) float32.
    """
    batch, length, count, heads, headdim = value.shape
    shape, chunks = (key.shape[-1], headdim), triton.cdiv(length, CHUNK)
    states = key.new_empty((batch, count, heads, chunks, *shape))
    final = key.new_empty((batch, count, heads, *shape), dtype=torch.float32) if want_final else None
    results = start, states, final, None
    _launch(value, key, dt, A, results, chunks, splits=1, reverse=reverse, backward=backward)
    return states, final


def split_states(
    value: Tensor,
    key: Tensor,
    dt: Tensor,
    A: Tensor,
    reverse: tuple[bool, ...],
    chunks_per_split: int,
    splits: int,
    conv: tuple[Tensor, Tensor] | None = None,
    history: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What each of the first `splits` splits adds to a state of zero, (b, k, h, splits, n, p) float32, and its sum of
    dt A, (b, k, h, splits): a split turns a state H into exp(sum) H + added.

    conv: weight (k, taps, channels) and bias (k, channels), if value holds the channels before convolution; history
    (b, taps - 1, channels) precedes them in direction 0.
    """
    batch, _, count, heads, headdim = value.shape
    added = key.new_empty((batch, count, heads, splits, key.shape[-1], headdim), dtype=torch.float32)
    totals = key.new_empty((batch, count, heads, splits), dtype=torch.float32)
    results = None, None, added, totals
    _launch(value, key, dt, A, results, chunks_per_split, splits=splits, reverse=reverse, conv=conv, history=history)
    return added, totals


def _launch(
    value: Tensor,
    key: Tensor,
    dt: Tensor,
    A: Tensor,
    results: tuple[Tensor | None, ...],  # start, states, final and totals of the kernel
    chunks_per_split: int,
    *,
    splits: int,
    reverse: tuple[bool, ...],
    backward: bool = False,
    conv: tuple[Tensor, Tensor] | None = None,
    history: Tensor | None = None,
) -> None:
    batch, length, count, heads, headdim = value.shape
    weight, bias = conv or (A, A)
    inputs = value, key, dt, A, weight, bias, history
    sizes = length, chunks_per_split, heads, *value.stride()[:3], bias.shape[-1]
    state = key.shape[-1]
    options: dict[str, Any] = {
        "GROUPS": key.shape[3],
        "P": headdim,
        "N": state,
        "CHUNK": CHUNK,
        "TAPS": weight.shape[1],
    }
    options |= {"CONV": conv is not None, "BACKWARD": backward, "PRECISION": precision(key.dtype, state)}
    # With 2 stages Triton 3.6 waits for what it has just requested.
    options |= {"STAGES": 1 if conv or key.dtype == torch.float32 else 3, **directions(reverse)}
    states_kernel[(heads, batch * count, splits)](*inputs, *results, *sizes, **options, num_warps=4)


@triton.jit
def prepare_kernel(
    projected,  # at the B channels of direction 0
    dt_raw,  # at the dt channels of direction 0
    weight,  # (k, taps, channels) at the B channels
    bias,  # (k, channels) at the B channels
    dt_bias,  # (k, h)
    history,  # (b, taps - 1, channels) at the B channels, before the text in direction 0, or None: zero
    B,
    C,
    dt,
    length,
    heads,
    batch_stride,
    row_stride: tl.constexpr,
    direction_stride: tl.constexpr,
    conv_channels,
    GN: tl.constexpr, HEADS: tl.constexpr, TAPS: tl.constexpr, REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Program (tile of tokens, tile of channels, batch and direction); the last tile of channels is dt."""
    tile, b, k = tl.program_id(1), tl.program_id(2) // DIRECTIONS, tl.program_id(2) % DIRECTIONS
    reverse = (REVERSE >> k) & 1
    first = (reverse * (length - 1)).to(tl.int64)  # the first token in scan order
    sign = 1 - 2 * reverse
    begin, within = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    rows = begin + within
    tokens = first + sign * rows
    inside = rows < length
    start = b.to(tl.int64) * batch_stride + k * direction_stride
    if history is not None:
        history += b.to(tl.int64) * (TAPS - 1) * conv_channels
    if tile < 2 * GN // CHANNELS:
        columns = tile * CHANNELS + tl.arange(0, CHANNELS)
        raw_row, projected_first = sign * row_stride, projected + start + first * row_stride
        convolved = load_conv_silu(
            projected_first, raw_row, weight, bias, conv_channels, k, begin, within, columns, length, TAPS, history
        )
        out = ((b * length + tokens) * DIRECTIONS + k)[:, None] * GN + (columns % GN)[None, :]
        if tile * CHANNELS < GN:
            tl.store(B + out, convolved.to(B.dtype.element_ty), mask=inside[:, None])
        else:
            tl.store(C + out, convolved.to(C.dtype.element_ty), mask=inside[:, None])
    else:
        head = tl.arange(0, HEADS)
        inside_both = inside[:, None] & (head < heads)[None, :]
        raw = tl.load(dt_raw + start + tokens[:, None] * row_stride + head[None, :], mask=inside_both, other=0.0)
        raw = raw.to(tl.float32) + tl.load(dt_bias + k * heads + head, mask=head < heads, other=0.0)[None, :]
        step = tl.maximum(raw, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(raw)))  # softplus without overflow
        # not `out`: Triton 3.6 wants one shape for a name that both branches set
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
    reverse: tuple[bool, ...] = BOTH,
    history: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """B and C (b, l, k, g, n) and dt (b, k, h, l) from `projected` (b, l, k, z x B C dt), last axis contiguous.

    conv_weight (k, taps, channels of x B C), conv_bias (k, channels), dt_bias (k, heads), float32. history
    (b, taps - 1, channels): the channels before the first token, for direction 0.
    """
    batch, length, count, _ = projected.shape
    inner, keys = heads * headdim, groups * state
    B = projected.new_empty((batch, length, count, groups, state))
    C = torch.empty_like(B)
    dt = projected.new_empty((batch, count, heads, length), dtype=torch.float32)
    channels = min(TILE_CHANNELS, keys)
    at_B, at_dt = projected[..., 2 * inner :], projected[..., 2 * inner + 2 * keys :]
    grid = (triton.cdiv(length, TILE_ROWS), 2 * keys // channels + 1, batch * count)
    before = None if history is None else history[..., inner:]
    inputs = at_B, at_dt, conv_weight[..., inner:], conv_bias[..., inner:], dt_bias, before
    sizes = length, heads, *projected.stride()[:3], conv_bias.shape[-1]
    options = {"GN": keys, "HEADS": triton.next_power_of_2(heads), "TAPS": conv_weight.shape[1]}
    options |= {"ROWS": TILE_ROWS, "CHANNELS": channels, **directions(reverse)}
    prepare_kernel[grid](*inputs, B, C, dt, *sizes, **options, num_warps=4)
    return B, C, dt


@triton.jit
def state_at(here, HALF: tl.constexpr, P: tl.constexpr, N: tl.constexpr):
    """Where the lower half of state `here` is, (HALF, P) of (p, n)."""
    return here * P * N + tl.arange(0, P)[None, :] * N + tl.arange(0, HALF)[:, None]


class Tuning(NamedTuple):
    """Launch options of `scan_kernel`."""

    chunk: int  # tokens
    warps: int  # of a program
    stages: int  # of the pipeline that loads chunks ahead


# Measured on an H100: a chunk of 64 suits Hopper's largest matrix instruction, and two programs of 4 warps share a
# multiprocessor, one computing while the other loads. That spills a few registers; ANYWHERE, which spills none, took
# 2.2 times as long.
HOPPER = Tuning(chunk=64, warps=4, stages=1)
ANYWHERE = Tuning(chunk=32, warps=8, stages=1)


def tuning(dtype: torch.dtype) -> Tuning:
    """The launch options for the current device and operands of `dtype`."""
    return HOPPER if dtype != torch.float32 and on_hopper() else ANYWHERE


@triton.jit
def scan_kernel(
    x,  # (b, l, k, h, p)
    z,  # gate, beside x with the same strides, or None
    B,
    C,
    dt,
    A,
    D,
    weight,  # of the convolution, (k, taps, channels); unused without CONV
    bias,
    norm_weight,  # (k, h p), or None: folded into out_proj
    history,  # (b, taps - 1, channels): what direction 0 convolves before its first token, or None: zero
    start,  # (b, k, h, p, n) float32, or None: zero
    added,  # by each piece of all splits but the last, (b, k, h, pieces, n, p) float32; unused with one split
    totals,  # (b, k, h, pieces)
    y,  # (b, l, k, h, p), or None
    gated,  # (k, b, l, h p), or None
    squares,  # (b, k, h, l) float32
    final,  # (b, k, h, p, n) float32, or None
    length,
    chunks_per_split,
    pieces_per_split,
    x_batch,
    x_row: tl.constexpr,
    x_direction: tl.constexpr,
    conv_channels: tl.constexpr,
    heads: tl.constexpr,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    HALF: tl.constexpr,  # of the state; at least 16, so that with N = 16 the second half is empty
    CONV: tl.constexpr, TAPS: tl.constexpr, REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (head, batch and direction, split)."""
    head, bk, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    batches = tl.num_programs(1) // DIRECTIONS
    b, k, sign, first = scan_order(bk, 0, length, REVERSE, DIRECTIONS)
    here = bk * heads + head
    nowhere = bk - bk  # a zero of 64 bits

    within, lower = tl.arange(0, CHUNK), tl.arange(0, HALF)
    columns = head * P + tl.arange(0, P)
    key_row = sign * (DIRECTIONS * GROUPS * N)
    key_at = (within * key_row)[:, None] + lower[None, :]
    x_at = (within * (sign * x_row))[:, None] + columns[None, :]

    x += b * x_batch + k * x_direction + first * x_row
    key = ((b * length + first) * DIRECTIONS + k) * GROUPS * N + head // (heads // GROUPS) * N
    B += key
    C += key
    dt += here * length + first
    decay_rate = tl.load(A + k * heads + head) * LOG2E
    skip = tl.load(D + k * heads + head)
    if history is not None:
        history += b * (TAPS - 1) * conv_channels

    H0 = tl.zeros((HALF, P), tl.float32)
    H1 = tl.zeros((HALF, P), tl.float32)
    if start is not None:
        start += state_at(here, HALF, P, N)
        H0 = tl.load(start)
        H1 = tl.load(start + HALF, mask=HALF + lower[:, None] < N, other=0.0)
    pieces = (tl.num_programs(2) - 1) * pieces_per_split
    for j in range(0, split * pieces_per_split):
        before = here * pieces + j
        decay = tl.exp(tl.load(totals + before))
        added_at = before * N * P + lower[:, None] * P + tl.arange(0, P)[None, :]
        H0 = H0 * decay + tl.load(added + added_at)
        H1 = H1 * decay + tl.load(added + added_at + HALF * P, mask=HALF + lower[:, None] < N, other=0.0)

    begin = split * chunks_per_split
    end = tl.minimum(begin + chunks_per_split, tl.cdiv(length, CHUNK))
    rows = begin * CHUNK + within
    coming = tl.load(dt + sign * rows, mask=rows < length, other=0.0)
    for c in tl.range(begin, end, num_stages=STAGES):
        far = nowhere + c * CHUNK
        rows = c * CHUNK + within
        inside = rows < length
        step = coming  # loaded one chunk ago, because everything else waits for its running sums
        coming = tl.load(dt + sign * (rows + CHUNK), mask=rows + CHUNK < length, other=0.0)
        K0 = tl.load(B + far * key_row + key_at, mask=inside[:, None], other=0.0)
        Q0 = tl.load(C + far * key_row + key_at, mask=inside[:, None], other=0.0)
        upper = inside[:, None]
        if 2 * HALF > N:
            upper = upper & (HALF + lower < N)[None, :]
        K1 = tl.load(B + far * key_row + HALF + key_at, mask=upper, other=0.0)
        Q1 = tl.load(C + far * key_row + HALF + key_at, mask=upper, other=0.0)
        if CONV:
            v = load_conv_silu(
                x, sign * x_row, weight, bias, conv_channels, k, c * CHUNK, within, columns, length, TAPS, history
            )
        else:
            v = tl.load(x + far * (sign * x_row) + x_at, mask=inside[:, None], other=0.0).to(tl.float32)

        s = tl.cumsum(step * decay_rate, 0)  # in powers of two
        s_end = tl.sum(step * decay_rate, 0)
        source = s - tl.log2(step)  # infinite for a token without a step (beyond the end)
        distance = s[:, None] - source[None, :]
        distance = tl.where(rows[:, None] >= rows[None, :], distance, float("-inf"))
        token = first + sign * far  # of the chunk's first row
        if gated is not None:  # loaded here, to arrive before the products are done
            gate = z + b * x_batch + k * x_direction + token * x_row + x_at
            gate = tl.load(gate, mask=inside[:, None], other=0.0)
        W = tl.dot(Q0, tl.trans(K0), input_precision=PRECISION)
        W = tl.dot(Q1, tl.trans(K1), W, input_precision=PRECISION) * tl.exp2(distance)
        W = tl.where(rows[:, None] == rows[None, :], W + skip, W).to(K0.dtype)
        out = tl.dot(Q0, H0.to(K0.dtype), input_precision=PRECISION)
        out = tl.dot(Q1, H1.to(K0.dtype), out, input_precision=PRECISION)
        out = tl.dot(W, v.to(K0.dtype), tl.exp2(s)[:, None] * out, input_precision=PRECISION)
        v = (v * (tl.exp2(s_end - s) * step)[:, None]).to(K0.dtype)
        H0 = tl.dot(tl.trans(K0), v, H0 * tl.exp2(s_end), input_precision=PRECISION)
        H1 = tl.dot(tl.trans(K1), v, H1 * tl.exp2(s_end), input_precision=PRECISION)

        if y is not None:
            at = (within * (sign * DIRECTIONS * heads * P))[:, None] + columns[None, :]
            to = y + ((b * length + token) * DIRECTIONS + k) * (heads * P) + at
            tl.store(to, out.to(y.dtype.element_ty), mask=inside[:, None])
        if gated is not None:
            g = out * silu(gate.to(tl.float32), z.dtype.element_ty != tl.float32)
            tl.store(squares + here * length + token + sign * within, tl.sum(g * g, 1), mask=inside)
            if norm_weight is not None:
                g = g * tl.load(norm_weight + k * heads * P + columns)[None, :]
            at = (within * (sign * heads * P))[:, None] + columns[None, :]
            to = gated + ((k * batches + b) * length + token) * (heads * P) + at
            tl.store(to, g.to(gated.dtype.element_ty), mask=inside[:, None])

    if final is not None and end * CHUNK >= length:
        final_at = final + state_at(here, HALF, P, N)
        tl.store(final_at, H0)
        tl.store(final_at + HALF, H1, mask=HALF + lower[:, None] < N)


class Scanned(NamedTuple):
    """The results of `scan_chunks`; None for those not requested."""

    y: Tensor | None  # (b, l, k, h, p)
    gated: Tensor | None  # (k, b, l, h p)
    squares: Tensor | None  # (b, k, h, l) float32
    final: Tensor | None  # (b, k, h, p, n) float32


def scan_chunks(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    A: Tensor,
    D: Tensor,
    reverse: tuple[bool, ...],
    *,
    start: Tensor | None = None,
    conv: tuple[Tensor, Tensor] | None = None,
    gate: tuple[Tensor, Tensor | None] | None = None,
    want_y: bool = True,
    want_final: bool = False,
    history: Tensor | None = None,
) -> Scanned:
    """The scan of every direction, all results in one pass.

    x (b, l, k, h, p), with the last two axes contiguous; B and C (b, l, k, g, n) contiguous; dt (b, k, h, l), A and
    D (k, h), start (b, k, h, p, n), float32. conv: weight (k, taps, channels) and bias (k, channels), if x holds the
    channels before convolution. gate: z, with the shape and strides of x, and the norm's weight (k, h p), or None if
    it is folded into out_proj. history (b, taps - 1, channels) precedes the text of direction 0.

    Where they can, the kernels of ops/hopper compute g and squares, if nothing else is wanted.
    """
    batch, length, count, heads, headdim = x.shape
    state = B.shape[-1]
    plain = start is None and history is None and not (want_y or want_final)
    if conv and gate and plain and hopper.unsupported_reason(x, B, conv[0], gate[1], reverse) is None:
        return Scanned(None, *hopper.scan(x, gate[0], B, C, dt, A, D, conv), None)
    chunk, warps, stages = tuning(x.dtype)
    chunks = triton.cdiv(length, chunk)
    programs = batch * count * heads
    splits = choose_splits(x.device, programs, chunks)
    chunks_per_split, pieces = triton.cdiv(chunks, splits), 1
    added, totals = A, A
    if splits > 1:
        # The first pass walks all splits but the last, in smaller pieces if these alone do not fill the device.
        pieces = choose_splits(x.device, programs * (splits - 1), chunks_per_split)
        whole = pieces * max(1, CHUNK // chunk)  # a piece ends where a chunk of the states kernel ends
        chunks_per_split = triton.cdiv(chunks_per_split, whole) * whole
        splits = triton.cdiv(chunks, chunks_per_split)
        per_piece = chunks_per_split // pieces * chunk // CHUNK
        if splits > 1:
            parts = (splits - 1) * pieces
            added, totals = split_states(x, B, dt, A, reverse, per_piece, parts, conv, history)
    y = x.new_empty(x.shape) if want_y else None
    gated = x.new_empty((count, batch, length, heads * headdim)) if gate else None
    squares = dt.new_empty((batch, count, heads, length)) if gate else None
    final = dt.new_empty((batch, count, heads, headdim, state)) if want_final else None
    z, norm_weight = gate or (None, None)
    weight, bias = conv or (A, A)
    inputs = x, z, B, C, dt, A, D, weight, bias, norm_weight, history, start, added, totals
    sizes = length, chunks_per_split, pieces, *x.stride()[:3], bias.shape[-1], heads
    results = Scanned(y, gated, squares, final)
    options: dict[str, Any] = {
        "GROUPS": B.shape[3],
        "P": headdim,
        "N": state,
        "HALF": max(MIN_TILE, state // 2),
    }
    options |= {"CONV": conv is not None, "TAPS": weight.shape[1], "CHUNK": chunk, "STAGES": stages}
    options |= {"PRECISION": precision(x.dtype, state), "num_warps": warps, **directions(reverse)}
    scan_kernel[(heads, batch * count, splits)](*inputs, *results, *sizes, **options)
    return results
