"""The state alone, walked over chunks: what enters each part of a sequence.

    H' = exp(s_end) H + sum_u B_u (exp(s_end - s_u) dt_u x_u)^T           forward, in scan order
    G  = exp(s_end) G' + sum_t C_t (exp(s_t) dy_t)^T                      backward, chunks in the opposite order

with s the running sum of dt A inside a chunk. Plain twin: `_carry` and the lines around it in chunked.py. Three
uses of one kernel:

    * a forward scan that is cut into segments: what each segment adds to a state of zero, all at once;
    * the backward pass: the state H that enters every chunk, and
    * the gradient G of the state that leaves every chunk.

    value  (b, l, k, h, p)   x, or dy; x may be the channels before convolution and SiLU, done in the load
    key    (b, l, k, g, n)   B, or C
    dt     (b, k, h, l) float32;  A (k, h) float32
    states (b, k, h, parts, n, p)
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_conv import load_conv_silu
from diffuapriel.ssd.triton_launch import bits, precision

CHUNK = 64


@triton.jit
def states_kernel(
    value,
    key,
    dt,
    A,
    weight,  # of the convolution, (k, taps, channels); unused without CONV
    bias,
    start,  # (b, k, h, p, n) float32, or None: zero
    states,  # (b, k, h, parts, n, p), or None
    final,  # (b, k, h, segments, n, p) float32, or None
    totals,  # (b, k, h, segments) float32: sum of dt A of a segment, or None
    length,
    chunks_per_segment,
    heads,
    value_batch,
    value_row,
    value_direction,
    conv_channels,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    CONV: tl.constexpr,
    TAPS: tl.constexpr,
    BACKWARD: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program (head, batch and direction, segment) walks the chunks of its segment."""
    head, bk, segment = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    group = head // (heads // GROUPS)
    reverse = (REVERSE >> k) & 1
    first, sign = (reverse * (length - 1)).to(tl.int64), 1 - 2 * reverse
    p, n, within = tl.arange(0, P), tl.arange(0, N), tl.arange(0, CHUNK)

    value += b * value_batch + k * value_direction + first * value_row
    key += ((b * length + first) * DIRECTIONS + k) * GROUPS * N + group * N
    dt += (bk * heads + head) * length + first
    decay_rate = tl.load(A + k * heads + head)

    here = bk * heads + head
    H = tl.zeros((N, P), tl.float32)
    if start is not None:
        H = tl.load(start + here * P * N + p[None, :] * N + n[:, None])
    total = 0.0
    chunks = tl.cdiv(length, CHUNK)
    begin = segment * chunks_per_segment
    end = tl.minimum(begin + chunks_per_segment, chunks)
    rows = ((chunks - 1 - begin) if BACKWARD else begin) * CHUNK + within
    coming = tl.load(dt + sign * rows, mask=(rows >= 0) & (rows < length), other=0.0)
    for i in tl.range(begin, end, num_stages=STAGES):
        c = (chunks - 1 - i) if BACKWARD else i
        rows = c * CHUNK + within
        inside = rows < length
        step = coming  # asked for a chunk ago
        next_rows = (rows - CHUNK) if BACKWARD else (rows + CHUNK)
        coming = tl.load(dt + sign * next_rows, mask=(next_rows >= 0) & (next_rows < length), other=0.0)
        if states is not None:
            out = (here * chunks + c) * N * P + n[:, None] * P + p[None, :]
            tl.store(states + out, H.to(states.dtype.element_ty))
        s = tl.cumsum(step * decay_rate, 0)
        s_end = tl.sum(step * decay_rate, 0)
        if CONV:
            columns = head * P + p
            v = load_conv_silu(
                value,
                sign * value_row,
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
        out = (here * parts + segment) * N * P + n[:, None] * P + p[None, :]
        tl.store(final + out, H)
    if totals is not None:
        tl.store(totals + here * parts + segment, total)


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
    """States (b, k, h, chunks, n, p) in key's dtype; where wanted also the one it ends in, (b, k, h, n, p) float32.

    Forward: the state that enters each chunk of 64 tokens in scan order, from `start` (b, k, h, p, n). With
    `backward`, value dy and key C: the gradient of the state that leaves each chunk, from the last chunk's `start`.
    """
    batch, length, directions, heads, headdim = value.shape
    state = key.shape[-1]
    chunks = triton.cdiv(length, CHUNK)
    states = key.new_empty((batch, directions, heads, chunks, state, headdim))
    final = None
    if want_final:
        final = key.new_empty((batch, directions, heads, state, headdim), dtype=torch.float32)
    _launch(value, key, dt, A, start, states, final, None, chunks, 1, reverse, backward, None)
    return states, final


def segment_states(
    value: Tensor,
    key: Tensor,
    dt: Tensor,
    A: Tensor,
    reverse: tuple[bool, ...],
    chunks_per_segment: int,
    segments: int,
    conv: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What each of the first `segments` segments adds to a state of zero, (b, k, h, segments, n, p) float32, and
    its sum of dt A, (b, k, h, segments): a state H becomes exp(sum) H + added on the way through.

    conv: weight (k, taps, channels) and bias (k, channels), when value holds the channels before convolution.
    """
    batch, _, directions, heads, headdim = value.shape
    shape = (batch, directions, heads, segments)
    added = key.new_empty((*shape, key.shape[-1], headdim), dtype=torch.float32)
    totals = key.new_empty(shape, dtype=torch.float32)
    _launch(value, key, dt, A, None, None, added, totals, chunks_per_segment, segments, reverse, False, conv)
    return added, totals


def _launch(
    value: Tensor,
    key: Tensor,
    dt: Tensor,
    A: Tensor,
    start: Tensor | None,
    states: Tensor | None,
    final: Tensor | None,
    totals: Tensor | None,
    chunks_per_segment: int,
    segments: int,
    reverse: tuple[bool, ...],
    backward: bool,
    conv: tuple[Tensor, Tensor] | None,
) -> None:
    batch, length, directions, heads, headdim = value.shape
    weight, bias = conv or (A, A)
    states_kernel[(heads, batch * directions, segments)](
        value,
        key,
        dt,
        A,
        weight,
        bias,
        start,
        states,
        final,
        totals,
        length,
        chunks_per_segment,
        heads,
        value.stride(0),
        value.stride(1),
        value.stride(2),
        bias.shape[-1],
        GROUPS=key.shape[3],
        P=headdim,
        N=key.shape[-1],
        CONV=conv is not None,
        TAPS=weight.shape[1],
        BACKWARD=backward,
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        CHUNK=CHUNK,
        PRECISION=precision(key.dtype, key.shape[-1]),
        STAGES=1
        if conv or key.dtype == torch.float32
        else 3,  # with 2, Triton 3.6 waits for what it just asked for
        num_warps=4,
    )
