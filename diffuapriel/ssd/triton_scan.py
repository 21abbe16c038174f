"""The scan of both directions in one launch, with all that stands around it in a Mamba-2 mixer.

    y_t = sum_u exp(s_t - s_u) (C_t . B_u) dt_u x_u  +  exp(s_t) C_t H  +  D x_t          inside a chunk
    H'  = exp(s_end) H + sum_u B_u (exp(s_end - s_u) dt_u x_u)^T                          from chunk to chunk

A program owns one head of one direction of one text and walks its chunks; the state H (n, p) stays on chip. What
would be passes over memory of their own happens in the loads and stores of that walk:

    load    x = SiLU(convolution(x channels))                          with CONV
    store   g = y SiLU(z), written as g times the norm's weight (unless out_proj has it),
            and the sum of g^2 over the head, for the norm             with a gate

Where heads and texts are too few to fill the device, the sequence is cut into segments: `segment_states` finds
what each adds to the state, and every program begins by handing the state through the segments before its own.

Plain twin: chunked.py, and the forward pass of model/mamba2.py around it. The walk over fused chunks is that of
Mamba-2 (arXiv:2405.21060, section 6); running it the other way for direction 1 costs a sign. What keeps registers
free (a state of 128 x 64 alone takes 64 a thread): the state is two halves, of which one at a time is rounded for
its product; D rides on the diagonal of the scores, dt inside the exponent; row strides are compile-time constants.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_conv import load_conv_silu, silu
from diffuapriel.ssd.triton_launch import SMALLEST_TILE, bits, interpreted, precision, segments
from diffuapriel.ssd.triton_states import CHUNK as STATES_CHUNK
from diffuapriel.ssd.triton_states import segment_states

LOG2E = tl.constexpr(1.4426950408889634)


class Tuning(NamedTuple):
    """Tokens of a chunk, warps of a program, chunks loaded ahead."""

    chunk: int
    warps: int
    stages: int


# Measured on an H100: a chunk of 64 feeds Hopper's largest matrix instruction, and two programs of 4 warps share a
# multiprocessor, one computing while the other loads. A few registers spill there; what spills nothing, ANYWHERE, took
# 2.2 times as long.
HOPPER = Tuning(chunk=64, warps=4, stages=1)
ANYWHERE = Tuning(chunk=32, warps=8, stages=1)


def tuning(dtype: torch.dtype) -> Tuning:
    """What suits the current device for operands of `dtype`."""
    if dtype == torch.float32 or interpreted():
        return ANYWHERE
    target = triton.runtime.driver.active.get_current_target()
    return HOPPER if getattr(target, "arch", None) == 90 else ANYWHERE


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
    norm_weight,  # (k, h p), or None: it is in out_proj
    start,  # (b, k, h, p, n) float32, or None: zero
    added,  # of the pieces of the segments but the last, (b, k, h, pieces, n, p) float32; unused with one segment
    totals,  # (b, k, h, pieces)
    y,  # (b, l, k, h, p), or None
    gated,  # (k, b, l, h p), or None
    squares,  # (b, k, h, l) float32
    final,  # (b, k, h, p, n) float32, or None
    length,
    chunks_per_segment,
    pieces_per_segment,
    x_batch,
    x_row: tl.constexpr,
    x_direction: tl.constexpr,
    conv_channels: tl.constexpr,
    heads: tl.constexpr,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    HALF: tl.constexpr,  # of the state; at least 16, so that with N = 16 the second half is empty
    CONV: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program (head, batch and direction, segment)."""
    head, bk, segment = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    batches = tl.num_programs(1) // DIRECTIONS
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    reverse = (REVERSE >> k) & 1
    first, sign = (reverse * (length - 1)).to(tl.int64), 1 - 2 * reverse
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

    H0 = tl.zeros((HALF, P), tl.float32)
    H1 = tl.zeros((HALF, P), tl.float32)
    if start is not None:
        state_at = here * P * N + tl.arange(0, P)[None, :] * N + lower[:, None]
        H0 = tl.load(start + state_at)
        H1 = tl.load(start + state_at + HALF, mask=HALF + lower[:, None] < N, other=0.0)
    pieces = (tl.num_programs(2) - 1) * pieces_per_segment
    for j in range(0, segment * pieces_per_segment):
        before = here * pieces + j
        decay = tl.exp(tl.load(totals + before))
        state_at = before * N * P + lower[:, None] * P + tl.arange(0, P)[None, :]
        H0 = H0 * decay + tl.load(added + state_at)
        H1 = H1 * decay + tl.load(added + state_at + HALF * P, mask=HALF + lower[:, None] < N, other=0.0)

    begin = segment * chunks_per_segment
    end = tl.minimum(begin + chunks_per_segment, tl.cdiv(length, CHUNK))
    rows = begin * CHUNK + within
    coming = tl.load(dt + sign * rows, mask=rows < length, other=0.0)
    for c in tl.range(begin, end, num_stages=STAGES):
        far = nowhere + c * CHUNK
        rows = c * CHUNK + within
        inside = rows < length
        step = coming  # asked for a chunk ago: all else of a chunk waits for its running sums
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
                x,
                sign * x_row,
                weight + k * TAPS * conv_channels,
                bias + k * conv_channels,
                conv_channels,
                c * CHUNK,
                within,
                columns,
                length,
                TAPS,
            )
        else:
            v = tl.load(x + far * (sign * x_row) + x_at, mask=inside[:, None], other=0.0).to(tl.float32)

        s = tl.cumsum(step * decay_rate, 0)  # in powers of two
        s_end = tl.sum(step * decay_rate, 0)
        source = s - tl.log2(step)  # a token without a step (beyond the end) is infinitely far away
        apart = s[:, None] - source[None, :]
        apart = tl.where(rows[:, None] >= rows[None, :], apart, float("-inf"))
        token = first + sign * far  # of the chunk's first row
        if gated is not None:  # asked for here, that it has come when the products are done
            gate = z + b * x_batch + k * x_direction + token * x_row + x_at
            gate = tl.load(gate, mask=inside[:, None], other=0.0)
        W = tl.dot(Q0, tl.trans(K0), input_precision=PRECISION)
        W = tl.dot(Q1, tl.trans(K1), W, input_precision=PRECISION) * tl.exp2(apart)
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
        state_at = here * P * N + tl.arange(0, P)[None, :] * N + lower[:, None]
        tl.store(final + state_at, H0)
        tl.store(final + state_at + HALF, H1, mask=HALF + lower[:, None] < N)


class Scanned(NamedTuple):
    """y (b, l, k, h, p), gated (k, b, l, h p), squares (b, k, h, l) float32, final (b, k, h, p, n) float32; what
    was not asked for is None."""

    y: Tensor | None
    gated: Tensor | None
    squares: Tensor | None
    final: Tensor | None


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
) -> Scanned:
    """One scan for each direction, everything asked for in one pass.

    x (b, l, k, h, p), with the last two axes contiguous; B and C (b, l, k, g, n) contiguous; dt (b, k, h, l), A and
    D (k, h), start (b, k, h, p, n), float32. conv: weight (k, taps, channels) and bias (k, channels), when x holds
    the channels before convolution. gate: z, shaped and strided as x, and the norm's weight (k, h p), or None where
    out_proj has it.
    """
    batch, length, directions, heads, headdim = x.shape
    state = B.shape[-1]
    chunk, warps, stages = tuning(x.dtype)
    chunks = triton.cdiv(length, chunk)
    programs = batch * directions * heads
    parts = segments(x.device, programs, chunks)
    chunks_per_segment, pieces = triton.cdiv(chunks, parts), 1
    added, totals = A, A
    if parts > 1:
        # The first pass walks the segments but the last, in smaller pieces where these alone do not fill the device.
        pieces = segments(x.device, programs * (parts - 1), chunks_per_segment)
        whole = pieces * max(1, STATES_CHUNK // chunk)  # a piece ends where a chunk of the states kernel ends
        chunks_per_segment = triton.cdiv(chunks_per_segment, whole) * whole
        parts = triton.cdiv(chunks, chunks_per_segment)
        per_piece = chunks_per_segment // pieces * chunk // STATES_CHUNK
        if parts > 1:
            added, totals = segment_states(x, B, dt, A, reverse, per_piece, (parts - 1) * pieces, conv)
    y = x.new_empty(x.shape) if want_y else None
    gated = x.new_empty((directions, batch, length, heads * headdim)) if gate else None
    squares = dt.new_empty((batch, directions, heads, length)) if gate else None
    final = dt.new_empty((batch, directions, heads, headdim, state)) if want_final else None
    z, norm_weight = gate or (None, None)
    weight, bias = conv or (A, A)
    scan_kernel[(heads, batch * directions, parts)](
        x,
        z,
        B,
        C,
        dt,
        A,
        D,
        weight,
        bias,
        norm_weight,
        start,
        added,
        totals,
        y,
        gated,
        squares,
        final,
        length,
        chunks_per_segment,
        pieces,
        x.stride(0),
        x.stride(1),
        x.stride(2),
        bias.shape[-1],
        heads,
        GROUPS=B.shape[3],
        P=headdim,
        N=state,
        HALF=max(SMALLEST_TILE, state // 2),
        CONV=conv is not None,
        TAPS=weight.shape[1],
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        CHUNK=chunk,
        PRECISION=precision(x.dtype, state),
        STAGES=stages,
        num_warps=warps,
    )
    return Scanned(y, gated, squares, final)
