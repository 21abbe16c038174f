"""The backward kernels: of the gate, and of the scan, chunk by chunk.

With u and t tokens of a chunk in scan order, u no later than t, s the running sum of dt A, H the state that enters the
chunk and G the gradient of the state that leaves it (both from `walk_states` in scan.py):

    M_ut    = exp(s_t - s_u) (x_u . dy_t)                  W_ut = exp(s_t - s_u) (B_u . C_t)
    d(dt x) = W dy + exp(s_end - s) (B G)                  dx   = dt d(dt x) + D dy
    dC      = M'^T B + sum over heads of (exp(s) dy) H^T           M' = sum over heads of dt M
    dB      = M' C   + sum over heads of (exp(s_end - s) dt x) G^T

side_kernel      what comes through the states, once with (C, dy, H) and once with (B, x, G)
within_kernel    what stays inside the chunk
close_kernel     the products with M', once all heads of a group are done

Several small kernels, so that each fits in registers. A program takes the heads of a group one after another; they
share B and C, so their gradients accumulate on chip. With too few chunks to fill the device the heads are divided
among programs, and the partial sums are added at the close. Nothing is added atomically, so the same call gives the
same bits. Of a mixer's short texts all this is one kernel (`text_backward` in chunk.py).

The gradients of dt and A need sums over a token's row, which those kernels leave for step_gradient_kernel:

    da_t = sum over t' no earlier than t of ds_t', inside the chunk
    ddt  = da A + x . d(dt x),  dA = sum of da dt
    ds_t = column_t + query_t - dt_t row_t - dt_t key_t,   and at the end of the chunk  + sum of dt key + carried

In a sum from the end, the key terms of the tokens from t on cancel against the same terms at the end of the chunk, so
only those of the tokens before t are added. query, key and carried come through the states. Column and row sums of
M (B . C) are taken of the same float32 numbers: a token's own term is in both, cancels exactly, and may be far larger
than what remains. (The shorter dy . y - dt x . d(dt x) would lose that in the rounding of y.) With a softplus the
gradient continues to its argument: softplus' = sigmoid = 1 - exp(-dt).

The gate, with w the norm's weight, one number per channel:

    g = y SiLU(z) w            square = sum over channels of (y SiLU(z))^2
    d(y SiLU(z)) = dg w + 2 y SiLU(z) dsquare;   dy and dz by the product rule;   dw = sum over tokens of dg y SiLU(z)

    dt, ddt (b, k, h, l);  s and each of the sums (b, k, h, chunks, q);  carried (b, k, h, chunks), float32

Plain twins: `_backward` in chunked.py, and autograd through the last line of `_plain` in model/mamba2.py. Products
take their operands as loaded, or as computed and not transposed, because Triton has miscompiled transposed results of
products on Hopper.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.conv import scan_order, sigmoid
from diffuapriel.ops.triton.launch import (
    CHUNK,
    TILE_CHANNELS,
    TILE_ROWS,
    directions,
    multiprocessors,
    precision,
)

TILE_HEADS = 16
SUMS = ("column", "row", "skip")


@triton.jit
def running_sums_kernel(
    dt,
    A,
    s,
    length,
    heads,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    HEADS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Program (chunk, tile of heads, batch and direction)."""
    c, bk, chunks = tl.program_id(0), tl.program_id(2).to(tl.int64), tl.num_programs(0)
    k = (bk % DIRECTIONS).to(tl.int32)
    reverse = (REVERSE >> k) & 1
    head, i = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, CHUNK)
    rows = c * CHUNK + i
    tokens = reverse * (length - 1) + (1 - 2 * reverse) * rows
    real = (head < heads)[:, None]
    here = (bk * heads + head)[:, None]
    step = tl.load(dt + here * length + tokens[None, :], mask=real & (rows < length)[None, :], other=0.0)
    rate = tl.load(A + k * heads + head, mask=head < heads, other=0.0)
    tl.store(s + (here * chunks + c) * CHUNK + i[None, :], tl.cumsum(step * rate[:, None], 1), mask=real)


@triton.jit
def step_gradient_kernel(
    dt,
    A,
    sums,  # (3, b, k, h, chunks, q)
    query,
    key,
    carried,  # or None: zero
    ddt,
    totals,  # of dA, dD and the gradient of dt's bias: (3, b, k, h, chunks)
    length,
    heads,
    out_batch,
    out_direction,
    out_head,
    out_token,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    HEADS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Program (chunk, tile of heads, batch and direction)."""
    c, bk, chunks = tl.program_id(0), tl.program_id(2).to(tl.int64), tl.num_programs(0)
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    reverse = (REVERSE >> k) & 1
    head, i = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, CHUNK)
    rows = c * CHUNK + i
    tokens = reverse * (length - 1) + (1 - 2 * reverse) * rows
    real = head < heads
    inside = real[:, None] & (rows < length)[None, :]
    line = bk * heads + head
    step = tl.load(dt + line[:, None] * length + tokens[None, :], mask=inside, other=0.0)
    rate = tl.load(A + k * heads + head, mask=real, other=0.0)

    count = tl.num_programs(2).to(tl.int64) * heads * chunks
    here = line * chunks + c
    at, plane = here[:, None] * CHUNK + i[None, :], count * CHUNK
    column = tl.load(sums + at, mask=inside, other=0.0)
    row = tl.load(sums + plane + at, mask=inside, other=0.0)
    skip = tl.load(sums + 2 * plane + at, mask=inside, other=0.0)

    ds = column - step * row
    ds += tl.load(query + at, mask=inside, other=0.0)
    through = tl.load(key + at, mask=inside, other=0.0)
    written = step * through
    da = tl.cumsum(ds, 1, reverse=True) + tl.cumsum(written, 1) - written
    if carried is not None:
        da += tl.load(carried + here, mask=real, other=0.0)[:, None]
    row += through
    gradient = da * rate[:, None] + row
    if SOFTPLUS:  # 1 - exp(-dt), by its series where that would cancel
        series = step * (1 - step / 2 * (1 - step / 3 * (1 - step / 4 * (1 - step / 5))))
        gradient *= tl.where(step < 0.1, series, 1 - tl.exp(-step))
    out = b * out_batch + k * out_direction
    out += head[:, None] * out_head + tokens[None, :].to(tl.int64) * out_token
    tl.store(ddt + out, gradient.to(ddt.dtype.element_ty), mask=inside)
    tl.store(totals + here, tl.sum(da * step, 1), mask=real)
    tl.store(totals + count + here, tl.sum(skip, 1), mask=real)
    tl.store(totals + 2 * count + here, tl.sum(tl.where(inside, gradient, 0.0), 1), mask=real)


def running_sums(dt: Tensor, A: Tensor, reverse: tuple[bool, ...], chunk: int) -> Tensor:
    """s (b, k, h, chunks, q) of chunks of q = `chunk` tokens, from dt (b, k, h, l) and A (k, h), all float32."""
    batch, count, heads, length = dt.shape
    chunks = triton.cdiv(length, chunk)
    s = dt.new_empty((batch, count, heads, chunks, chunk))
    grid = chunks, triton.cdiv(heads, TILE_HEADS), batch * count
    options = {**directions(reverse), "HEADS": TILE_HEADS, "CHUNK": chunk}
    running_sums_kernel[grid](dt, A, s, length, heads, **options, num_warps=4)
    return s


def step_gradients(
    dt: Tensor,
    A: Tensor,
    sums: Tensor,
    sides: tuple[Tensor, Tensor, Tensor | None],
    reverse: tuple[bool, ...],
    ddt: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of A, D and of a bias added to dt before the softplus, each (k, h) float32; fills `ddt`.

    dt (b, k, h, l), A (k, h), sums (3, b, k, h, chunks, q), float32. sides: query and key, each (b, k, h, chunks, q),
    and carried (b, k, h, chunks) or None for zero, float32. ddt (b, k, h, l), any strides and dtype, receives the
    gradient of dt, or with `softplus` that of its argument.
    """
    batch, count, heads, length = dt.shape
    chunks, chunk = sums.shape[4:]
    totals = dt.new_empty((3, batch, count, heads, chunks))
    inputs = dt, A, sums, *sides
    options = {**directions(reverse), "HEADS": TILE_HEADS, "CHUNK": chunk}
    grid = chunks, triton.cdiv(heads, TILE_HEADS), batch * count
    step_gradient_kernel[grid](
        *inputs, ddt, totals, length, heads, *ddt.stride(), SOFTPLUS=softplus, **options, num_warps=4
    )
    dA, dD, dbias = torch.sum(totals, (1, 4))
    return dA, dD, dbias


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
    """Program (tile of tokens, tile of channels, batch and direction)."""
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
    z and dz (b, l, k, c), last axis contiguous.
    """
    batch, length, count, channels = z.shape
    dy, tiles = torch.empty_like(y), triton.cdiv(length, TILE_ROWS)
    totals = dsquares.new_empty((batch, tiles, count, channels))
    sizes = length, channels, *z.stride()[:3], *dz.stride()[:3]
    options = {"DIRECTIONS": count, "ROWS": TILE_ROWS, "CHANNELS": TILE_CHANNELS}
    grid = tiles, triton.cdiv(channels, TILE_CHANNELS), batch * count
    gate_backward_kernel[grid](dg, dsquares, y, z, norm_weight, dy, dz, totals, *sizes, **options, num_warps=4)
    return dy, torch.sum(totals, (0, 1))


@triton.jit
def close_kernel(
    key,
    products,  # (b, k, g, parts, chunks, q, q)
    sides,  # through the state, (b, k, g, parts, chunks, q, n)
    dkey,
    length,
    count,  # of the parts
    out_batch,
    out_row,
    out_direction,
    TRANSPOSED: tl.constexpr,
    GROUPS: tl.constexpr,
    N: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk, group, batch and direction): dB from M' and key C, or with TRANSPOSED dC from M'^T and key B."""
    c, group, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks = tl.num_programs(0)
    b, k, sign, first = scan_order(bk, c * CHUNK, length, REVERSE, DIRECTIONS)
    i, n = tl.arange(0, CHUNK), tl.arange(0, N)
    inside = (c * CHUNK + i < length)[:, None]
    u, t = (i[None, :], i[:, None]) if TRANSPOSED else (i[:, None], i[None, :])

    M = tl.zeros((CHUNK, CHUNK), tl.float32)
    for part in range(count):
        here = ((bk * GROUPS + group) * count + part) * chunks + c
        square = tl.load(products + here * CHUNK * CHUNK + (u * CHUNK + t))
        M += tl.where(u <= t, square, 0.0)  # as a mask in the load it would load one number at a time
    at = (((b * length + first) * DIRECTIONS + k) * GROUPS + group) * N
    row = sign * i[:, None] * (DIRECTIONS * GROUPS * N) + n[None, :]
    keys = tl.load(key + at + row, mask=inside, other=0.0)
    total = tl.dot(M.to(keys.dtype), keys, input_precision=PRECISION)
    for part in range(count):
        here = ((bk * GROUPS + group) * count + part) * chunks + c
        total += tl.load(sides + here * CHUNK * N + (i[:, None] * N + n[None, :]))
    out = b * out_batch + k * out_direction + first * out_row + group * N
    row = sign * i[:, None] * out_row + n[None, :]
    tl.store(dkey + out + row, total.to(dkey.dtype.element_ty), mask=inside)


@triton.jit
def side_kernel(
    value,
    key,
    dt,
    s,
    states,
    others,
    dvalue,
    dkey,
    sums,
    carried,
    length,
    heads,
    per_program,
    out_batch,
    out_row,
    out_direction,
    KEYS: tl.constexpr,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program (chunk, part of a group's heads, batch and direction).

    Without KEYS: key C, value dy, states H, others G. Computes dC through the state, the sums dy . (exp(s) C H), and
    exp(s_end) <G, H>. With KEYS: key B, value x, states G. Computes dB through the state, the sums
    x . (exp(s_end - s) B G), and dx through the state.
    """
    c, part, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks, parts = tl.num_programs(0), tl.num_programs(1) // GROUPS
    b, k, sign, first = scan_order(bk, c * CHUNK, length, REVERSE, DIRECTIONS)  # the chunk's first token in scan order
    group, per_group = part // parts, heads // GROUPS
    i, p, n = tl.arange(0, CHUNK), tl.arange(0, P), tl.arange(0, N)
    inside = (c * CHUNK + i < length)[:, None]
    token = (b * length + first) * DIRECTIONS + k

    row = sign * i[:, None] * (DIRECTIONS * GROUPS * N) + n[None, :]
    keys = tl.load(key + (token * GROUPS + group) * N + row, mask=inside, other=0.0)
    row = sign * i[:, None] * (DIRECTIONS * heads * P) + p[None, :]
    value += token * heads * P
    state = n[:, None] * P + p[None, :]
    if KEYS:
        dvalue += b * out_batch + k * out_direction + first * out_row
        out_rows = sign * i[:, None] * out_row + p[None, :]

    total = tl.zeros((CHUNK, N), tl.float32)
    begin = (part % parts) * per_program
    end = tl.minimum(begin + per_program, per_group)
    for member in tl.range(begin, end, num_stages=STAGES):
        head = group * per_group + member
        here = (bk * heads + head) * chunks + c
        S = tl.load(states + here * N * P + state)
        v = tl.load(value + head * P + row, mask=inside, other=0.0)
        log_decay = tl.load(s + here * CHUNK + i)
        log_end = tl.load(s + here * CHUNK + CHUNK - 1)
        factor = tl.exp(log_end - log_decay) if KEYS else tl.exp(log_decay)
        read = tl.dot(keys, S, input_precision=PRECISION) * factor[:, None]
        tl.store(sums + here * CHUNK + i, tl.sum(read * v.to(tl.float32), 1))
        if KEYS:
            at = dt + (bk * heads + head) * length + first
            step = tl.load(at + sign * i, mask=c * CHUNK + i < length, other=0.0)
            factor *= step
            read *= step[:, None]
            tl.store(dvalue + head * P + out_rows, read.to(dvalue.dtype.element_ty), mask=inside)
        else:
            other = tl.load(others + here * N * P + state)
            overlap = tl.sum(tl.sum(S.to(tl.float32) * other.to(tl.float32), 1), 0)
            tl.store(carried + here, overlap * tl.exp(log_end))
        v = (v.to(tl.float32) * factor[:, None]).to(keys.dtype)
        total = tl.dot(v, tl.trans(S), total, input_precision=PRECISION)

    out = ((bk * GROUPS * parts + part) * chunks + c) * CHUNK * N
    tl.store(dkey + out + (i[:, None] * N + n[None, :]), total)


@triton.jit
def within_kernel(
    x,
    dy,
    B,
    C,
    dt,
    s,
    D,
    dx,  # holds what came through the state, and is added to
    products,  # M', (b, k, g, parts, chunks, q, q)
    sums,  # (3, b, k, h, chunks, q)
    length,
    heads,
    per_program,
    out_batch,
    out_row,
    out_direction,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program (chunk, part of a group's heads, batch and direction)."""
    c, part, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks, parts = tl.num_programs(0), tl.num_programs(1) // GROUPS
    b, k, sign, first = scan_order(bk, c * CHUNK, length, REVERSE, DIRECTIONS)
    group, per_group = part // parts, heads // GROUPS
    i, p, n = tl.arange(0, CHUNK), tl.arange(0, P), tl.arange(0, N)
    inside = (c * CHUNK + i < length)[:, None]
    token = (b * length + first) * DIRECTIONS + k

    row = sign * (DIRECTIONS * GROUPS * N)
    key = (token * GROUPS + group) * N
    keys = tl.load(B + key + (i[:, None] * row + n[None, :]), mask=inside, other=0.0)
    queries = tl.load(C + key + (i[:, None] * row + n[None, :]), mask=inside, other=0.0)
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
    row = sign * (DIRECTIONS * heads * P)
    at = i[:, None] * row + p[None, :]
    x += token * heads * P
    dy += token * heads * P
    dx += b * out_batch + k * out_direction + first * out_row
    dx_at = i[:, None] * (sign * out_row) + p[None, :]
    plane = tl.num_programs(2).to(tl.int64) * heads * chunks * CHUNK

    total = tl.zeros((CHUNK, CHUNK), tl.float32)
    begin = (part % parts) * per_program
    end = tl.minimum(begin + per_program, per_group)
    for member in tl.range(begin, end, num_stages=STAGES):
        head = group * per_group + member
        here = (bk * heads + head) * chunks + c
        dy_ = tl.load(dy + head * P + at, mask=inside, other=0.0)
        x_ = tl.load(x + head * P + at, mask=inside, other=0.0)
        log = tl.load(s + here * CHUNK + i)
        steps = dt + (bk * heads + head) * length + first
        step = tl.load(steps + sign * i, mask=c * CHUNK + i < length, other=0.0)[:, None]

        log_ratio = log[None, :] - log[:, None]
        decay = tl.exp(tl.where(i[:, None] <= i[None, :], log_ratio, float("-inf")))
        W = (decay * scores).to(keys.dtype)
        out = tl.dot(W, dy_, input_precision=PRECISION) * step
        to = dx + head * P + dx_at
        out += tl.load(to, mask=inside, other=0.0).to(tl.float32)
        out += tl.load(D + k * heads + head) * dy_.to(tl.float32)
        tl.store(to, out.to(dx.dtype.element_ty), mask=inside)

        M = tl.dot(x_, tl.trans(dy_), input_precision=PRECISION)
        to = sums + here * CHUNK + i
        tl.store(to + 2 * plane, tl.sum(tl.where(i[:, None] == i[None, :], M, 0.0), 1))  # x . dy
        M *= decay
        total += M * step
        M *= scores
        tl.store(to + plane, tl.sum(M, 1))
        tl.store(to, tl.sum(M * step, 0))

    square = ((bk * GROUPS * parts + part) * chunks + c) * CHUNK * CHUNK
    tl.store(products + square + (i[:, None] * CHUNK + i[None, :]), total)


class ChunkGradients(NamedTuple):
    """The results of `scan_backward`."""

    xBC: Tensor  # (b, l, k, h p + 2 g n) in x's dtype: dx, dB and dC side by side, as in_proj lays them out
    ddt: Tensor  # (b, k, h, l), float32 or as given
    dA: Tensor  # (k, h) float32
    dD: Tensor  # (k, h) float32
    dt_bias: Tensor  # (k, h) float32; meaningful with `before_softplus` only


def scan_backward(
    x: Tensor,
    dy: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    A: Tensor,
    D: Tensor,
    states: tuple[Tensor, Tensor],
    reverse: tuple[bool, ...],
    *,
    before_softplus: Tensor | None = None,
) -> ChunkGradients:
    """Gradients of everything but the initial state, which the walk over `leaving` ends in.

    x, after convolution and SiLU, and dy (b, l, k, h, p), B and C (b, l, k, g, n), states: those that enter the chunks
    and the gradients of those that leave (b, k, h, chunks, n, p), all contiguous and of one dtype; dt (b, k, h, l), A
    and D (k, h) float32. before_softplus (b, k, h, l), any strides, receives the gradient of the argument of the
    softplus that made dt.
    """
    batch, length, count, heads, headdim = x.shape
    groups, state = B.shape[3:]
    chunks, per_group = triton.cdiv(length, CHUNK), heads // groups
    per_program = triton.cdiv(per_group, _parts(x, batch * count * groups * chunks, per_group))
    parts = triton.cdiv(per_group, per_program)

    s = running_sums(dt, A, reverse, CHUNK)
    xBC = x.new_empty((batch, length, count, heads * headdim + 2 * groups * state))
    _, dB, dC = xBC.split([heads * headdim, groups * state, groups * state], dim=3)
    sums = dt.new_empty((len(SUMS), *s.shape))
    sides = read, written, carried = *torch.empty_like(sums[:2]), dt.new_empty(s.shape[:-1])
    products = dt.new_empty((batch, count, groups, parts, chunks, CHUNK, CHUNK))
    dB_parts = dt.new_empty((*products.shape[:-1], state))
    dC_parts = torch.empty_like(dB_parts)
    sizes = (length, heads, per_program, *xBC.stride()[:3])
    options = {"GROUPS": groups, "P": headdim, "N": state, **directions(reverse), "CHUNK": CHUNK}
    options |= _tuning(x.dtype, headdim, state)
    entering, leaving = states
    grid = (chunks, groups * parts, batch * count)
    out = (xBC, dC_parts, read, carried, *sizes)
    side_kernel[grid](dy, C, dt, s, entering, leaving, *out, KEYS=False, **options)
    out = (xBC, dB_parts, written, carried, *sizes)
    side_kernel[grid](x, B, dt, s, leaving, entering, *out, KEYS=True, **options)
    within_kernel[grid](x, dy, B, C, dt, s, D, xBC, products, sums, *sizes, **options)
    few = x.dtype != torch.float32 and state <= 128
    options = {"GROUPS": groups, "N": state, **directions(reverse), "CHUNK": CHUNK}
    options |= {"PRECISION": precision(x.dtype, state), "num_warps": 4 if few else 8}
    for transposed, key, side, dkey in ((False, C, dB_parts, dB), (True, B, dC_parts, dC)):
        out = (dkey, length, parts, *dkey.stride()[:3])
        grid = (chunks, groups, batch * count)
        close_kernel[grid](key, products, side, *out, TRANSPOSED=transposed, **options)
    ddt = torch.empty_like(dt) if before_softplus is None else before_softplus
    totals = step_gradients(dt, A, sums, sides, reverse, ddt, before_softplus is not None)
    return ChunkGradients(xBC, ddt, *totals)


def _parts(x: Tensor, programs: int, per_group: int) -> int:
    """Into how many programs to divide the heads of a group: two rounds of two programs per multiprocessor."""
    if x.device.type != "cuda":
        return 2  # the interpreter has nothing to fill, but the division should be tested
    return max(1, min(triton.cdiv(4 * multiprocessors(x.device), programs), per_group // 4))


def _tuning(dtype: torch.dtype, headdim: int, state: int) -> dict[str, Any]:
    """PRECISION, STAGES (STAGES - 2 heads are loaded ahead) and warps: two programs of 4 share a multiprocessor."""
    products, small = precision(dtype, state), headdim * state <= 64 * 128
    if dtype == torch.float32:  # with a large state the split operands do not fit on chip
        return {"PRECISION": products if small else "ieee", "STAGES": 1, "num_warps": 8}
    if headdim * state > 128 * 256:
        return {"PRECISION": products, "STAGES": 1, "num_warps": 8}
    return {"PRECISION": products, "STAGES": 3 if small else 2, "num_warps": 4 if small else 8}
