"""The kernels that multiply C and B of a chunk once and walk the heads of its group.

product_kernel, product_backward_kernel    the masked product (masked_product.py has its equations and shapes)
text_kernel, text_backward_kernel          the scan of a whole short text, with gate, and its backward pass

A text of at most SHORT tokens that starts from a state of zero needs no states: its scan is a product of all pairs of
tokens, in tiles of TILE, one or two a side. Equations and symbols are those of scan.py, forward, and of backward.py;
d(C B^T) is added up on chip. The convolution and the gate's backward pass stay kernels of their own: in the walk they
would take the registers, and no head could be loaded ahead of its turn. On an H200 a backward kernel with both took
twice the time of the kernels that it replaced.

Axes of a stride: b batch, c chunk, g group, h head, q token; those of p and n are contiguous. Plain twins: those of
masked_product.py, and `_plain` in model/mamba2.py.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.conv import silu
from diffuapriel.ops.triton.launch import CHUNK, MIN_TILE, multiprocessors, precision

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def allowed(MASK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """(t, u) bool, of the masks in MASKS."""
    at = tl.arange(0, TILE)
    t, u = at[:, None], at[None, :]
    if MASK == 0:
        return u <= t
    if MASK == 1:
        return (u <= t) & (u // BLOCK == t // BLOCK)
    if MASK == 2:
        return u // BLOCK < t // BLOCK
    return (u >= t) & (u // BLOCK == t // BLOCK)


@triton.jit
def load_rows(source, stride, q, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """(TILE, WIDTH): the rows of the q tokens of a chunk, and zeros after."""
    at, columns = tl.arange(0, TILE), tl.arange(0, WIDTH)
    return tl.load(source + (at * stride)[:, None] + columns[None, :], mask=(at < q)[:, None], other=0.0)


@triton.jit
def weights_of(r, s, row, q, MASK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """m(t, u) exp(r_t - s_u) of the head whose r and s begin at `row`."""
    at = tl.arange(0, TILE)
    distance = tl.load(r + row + at, mask=at < q, other=0.0)[:, None] - tl.load(s + row + at, mask=at < q)[None, :]
    inside = allowed(MASK, BLOCK, TILE) & (at < q)[None, :] & (at < q)[:, None]
    return tl.exp(tl.where(inside, distance, float("-inf")))


@triton.jit
def product_kernel(
    C,
    B,
    x,
    r,
    s,
    D,  # (g, h), or None: zero
    H,  # (b, c, g, h, p, n) contiguous, or None: zero
    y,
    q,
    chunks,
    groups,
    C_b, C_c, C_g, C_q,
    B_b, B_c, B_g, B_q,
    x_b, x_c, x_g, x_h, x_q,
    HEADS: tl.constexpr,  # of a group
    P: tl.constexpr,
    N: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, batch and group)."""
    c, bg = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, g = bg // groups, bg % groups
    at, channels = tl.arange(0, TILE), tl.arange(0, P)
    inside = (at < q)[:, None]
    queries = load_rows(C + b * C_b + c * C_c + g * C_g, C_q, q, N, TILE)
    sources = load_rows(B + b * B_b + c * B_c + g * B_g, B_q, q, N, TILE)
    scores = tl.dot(queries, tl.trans(sources), input_precision=PRECISION)
    first = (b * chunks + c) * groups + g  # of this chunk's heads, in units of HEADS
    x += b * x_b + c * x_c + g * x_g
    y += ((b * chunks + c) * q * groups + g) * HEADS * P
    for head in range(HEADS):
        here = first * HEADS + head
        weights = scores * weights_of(r, s, here * q, q, MASK, BLOCK, TILE)
        if D is not None:
            weights = tl.where(at[:, None] == at[None, :], weights + tl.load(D + g * HEADS + head), weights)
        value = load_rows(x + head * x_h, x_q, q, P, TILE)
        out = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        if H is not None:
            state = load_rows(H + here * P * N, N, P, N, P)
            decay = tl.exp(tl.load(r + here * q + at, mask=at < q, other=0.0))
            out += tl.dot(queries, tl.trans(state), input_precision=PRECISION) * decay[:, None]
        to = (at * groups * HEADS + head)[:, None] * P + channels[None, :]
        tl.store(y + to, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def product_backward_kernel(
    dy,
    C,
    B,
    x,
    r,
    s,
    D,
    H,
    dC,  # (b, c, g, q, n), contiguous, as dB
    dB,
    dx,  # (b, c, q, g, h, p), contiguous
    dr,
    ds,
    dD,  # (b, c, g, h), or None
    dH,  # as H
    q,
    chunks,
    groups,
    C_b, C_c, C_g, C_q,
    B_b, B_c, B_g, B_q,
    x_b, x_c, x_g, x_h, x_q,
    dy_b, dy_c, dy_g, dy_h, dy_q,
    HEADS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, batch and group)."""
    c, bg = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, g = bg // groups, bg % groups
    at, channels, keys = tl.arange(0, TILE), tl.arange(0, P), tl.arange(0, N)
    inside = (at < q)[:, None]
    queries = load_rows(C + b * C_b + c * C_c + g * C_g, C_q, q, N, TILE)
    sources = load_rows(B + b * B_b + c * B_c + g * B_g, B_q, q, N, TILE)
    scores = tl.dot(queries, tl.trans(sources), input_precision=PRECISION)
    dscores = tl.zeros((TILE, TILE), tl.float32)
    dqueries = tl.zeros((TILE, N), tl.float32)  # through the state
    first = (b * chunks + c) * groups + g
    x += b * x_b + c * x_c + g * x_g
    dy += b * dy_b + c * dy_c + g * dy_g
    start = ((b * chunks + c) * q * groups + g) * HEADS * P
    for head in range(HEADS):
        here = first * HEADS + head
        row = here * q
        dout = load_rows(dy + head * dy_h, dy_q, q, P, TILE)
        drow = tl.zeros((TILE,), tl.float32)
        if H is not None:
            state = load_rows(H + here * P * N, N, P, N, P)
            left = tl.exp(tl.load(r + row + at, mask=at < q, other=0.0))[:, None] * dout.to(tl.float32)
            read = tl.dot(queries, tl.trans(state), input_precision=PRECISION)
            drow += tl.sum(read * left, 1)
            left = left.to(dout.dtype)
            dqueries = tl.dot(left, state, dqueries, input_precision=PRECISION)
            dstate = tl.dot(tl.trans(left), queries, input_precision=PRECISION)
            to_state = dH + here * P * N + channels[:, None] * N + keys[None, :]
            tl.store(to_state, dstate.to(dH.dtype.element_ty))
        decay = weights_of(r, s, row, q, MASK, BLOCK, TILE)
        value = load_rows(x + head * x_h, x_q, q, P, TILE)
        to = start + (at * groups * HEADS + head)[:, None] * P + channels[None, :]
        dweights = tl.dot(dout, tl.trans(value), input_precision=PRECISION) * decay
        weights = scores * decay
        dvalue = tl.dot(tl.trans(weights.to(dout.dtype)), dout, input_precision=PRECISION)
        if D is not None:
            dvalue += dout.to(tl.float32) * tl.load(D + g * HEADS + head)
            tl.store(dD + here, tl.sum(tl.sum(dout.to(tl.float32) * value.to(tl.float32), 1), 0))
        tl.store(dx + to, dvalue.to(dx.dtype.element_ty), mask=inside)
        dscores += dweights
        dexponent = dweights * scores
        tl.store(ds + row + at, -tl.sum(dexponent, 0), mask=at < q)
        drow += tl.sum(dexponent, 1)
        tl.store(dr + row + at, drow, mask=at < q)
    dscores = dscores.to(queries.dtype)
    to = (first * q + at)[:, None] * N + keys[None, :]
    got = tl.dot(dscores, sources, dqueries, input_precision=PRECISION)
    tl.store(dC + to, got.to(dC.dtype.element_ty), mask=inside)
    got = tl.dot(tl.trans(dscores), queries, input_precision=PRECISION)
    tl.store(dB + to, got.to(dB.dtype.element_ty), mask=inside)


@triton.jit
def tile_at(source, stride, columns, TILE: tl.constexpr):
    """Addresses (TILE, columns), in few registers: rows 16 apart have a common part."""
    at = tl.arange(0, TILE)
    return source + (at % 16 * stride)[:, None] + columns[None, :] + (at // 16 * (16 * stride))[:, None]


@triton.jit
def load_tile(source, stride, q, columns, TILE: tl.constexpr):
    """(TILE, columns): the rows of the q tokens of a tile, and zeros after."""
    return tl.load(tile_at(source, stride, columns, TILE), mask=(tl.arange(0, TILE) < q)[:, None], other=0.0)


@triton.jit
def store_tile(to, stride, q, columns, values, TILE: tl.constexpr):
    """The rows of the q tokens of a tile."""
    inside = (tl.arange(0, TILE) < q)[:, None]
    tl.store(tile_at(to, stride, columns, TILE), values.to(to.dtype.element_ty), mask=inside)


@triton.jit
def heads_of(part, programs, per_program, heads, GROUPS: tl.constexpr):
    """Group of program `part`, of `programs` for all groups, its first head and the one behind its last."""
    parts, per_group = programs // GROUPS, heads // GROUPS
    group = part // parts
    begin = group * per_group + part % parts * per_program
    return group, begin, tl.minimum(begin + per_program, (group + 1) * per_group)


@triton.jit
def causal(scores, t_u: tl.constexpr, TILE: tl.constexpr):
    """The scores of (u, t), or of (t, u), zero for u later than t."""
    at = tl.arange(0, TILE)
    return tl.where(at[:, None] >= at[None, :] if t_u else at[:, None] <= at[None, :], scores, 0.0)


@triton.jit
def weights(s, source):
    """exp(s - source), s and source = s - log2(dt) in powers of two: the decay between two tokens times the earlier
    one's step. Finite, though without meaning, for a later one; zero for one without a step, beyond the end."""
    return tl.exp2(tl.minimum(s - source, 60.0))


@triton.jit
def text_kernel(
    z, x, B, C, dt, A, D, norm_weight, y, gated, squares,  # as of `text_forward`; y and norm_weight may be None
    length, per_program, z_batch, z_row: tl.constexpr, z_direction: tl.constexpr, heads: tl.constexpr,
    GROUPS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    TILES: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (part of a group's heads, batch and direction)."""
    part, bk = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, batches = bk // 2, tl.num_programs(1) // 2
    k = tl.program_id(1) % 2
    sign = 1 - 2 * k
    first = (bk - bk + length - 1) * k
    group, begin, end = heads_of(part, tl.num_programs(0), per_program, heads, GROUPS)
    at, n, p = tl.arange(0, TILE), tl.arange(0, N), tl.arange(0, P)
    diagonal = at[:, None] == at[None, :]
    far = sign * TILE  # to the second tile, in tokens

    key_row = sign * (2 * GROUPS * N)
    key = ((b * length + first) * 2 + k) * GROUPS * N + group * N
    sources = load_tile(B + key, key_row, length, n, TILE)
    queries = load_tile(C + key, key_row, length, n, TILE)
    scores = causal(tl.dot(queries, tl.trans(sources), input_precision=PRECISION), True, TILE)
    total = tl.zeros((TILE,), tl.float32)
    if TILES == 2:
        key += far * (2 * GROUPS * N)
        queries = load_tile(C + key, key_row, length - TILE, n, TILE)
        across = tl.dot(queries, tl.trans(sources), input_precision=PRECISION).to(sources.dtype)
        sources = load_tile(B + key, key_row, length - TILE, n, TILE)
        scores1 = causal(tl.dot(queries, tl.trans(sources), input_precision=PRECISION), True, TILE)
        total1 = tl.zeros((TILE,), tl.float32)

    row, token = sign * (2 * heads * P), ((b * length + first) * 2 + k) * (heads * P)
    x += token
    z += b * z_batch + k * z_direction + first * z_row
    gated += ((k * batches + b) * length + first) * (heads * P)
    if y is not None:
        y += token
    for head in tl.range(begin, end, num_stages=STAGES):
        columns = head * P + p
        rate = tl.load(A + k * heads + head) * LOG2E
        skip = tl.load(D + k * heads + head)
        steps = dt + (bk * heads + head) * length + first
        step = tl.load(steps + sign * at, mask=at < length, other=0.0)
        gate = load_tile(z + head * P, sign * z_row, length, p, TILE)
        v = load_tile(x + head * P, row, length, p, TILE)
        w = 1.0
        if norm_weight is not None:
            w = tl.load(norm_weight + k * heads * P + columns)[None, :]

        s = tl.cumsum(step * rate, 0)  # in powers of two
        W = scores * weights(s[:, None], (s - tl.log2(step))[None, :])
        W = tl.where(diagonal, W + skip, W).to(sources.dtype)
        out = tl.dot(W, v, input_precision=PRECISION)
        if y is not None:
            store_tile(y + head * P, row, length, p, out, TILE)
        g = out * silu(gate.to(tl.float32), z.dtype.element_ty != tl.float32)
        total += tl.sum(g * g, 1)
        store_tile(gated + head * P, sign * (heads * P), length, p, g * w, TILE)
        if TILES == 2:
            q = length - TILE
            v = (v.to(tl.float32) * (tl.exp2(tl.sum(step * rate, 0) - s) * step)[:, None]).to(sources.dtype)
            step = tl.load(steps + far + sign * at, mask=at < q, other=0.0)
            gate = load_tile(z + far * z_row + head * P, sign * z_row, q, p, TILE)
            s = tl.cumsum(step * rate, 0)
            out = tl.dot(across, v, input_precision=PRECISION) * tl.exp2(s)[:, None]
            v = load_tile(x + TILE * row + head * P, row, q, p, TILE)
            W = scores1 * weights(s[:, None], (s - tl.log2(step))[None, :])
            W = tl.where(diagonal, W + skip, W).to(sources.dtype)
            out = tl.dot(W, v, out, input_precision=PRECISION)
            if y is not None:
                store_tile(y + TILE * row + head * P, row, q, p, out, TILE)
            g = out * silu(gate.to(tl.float32), z.dtype.element_ty != tl.float32)
            total1 += tl.sum(g * g, 1)
            store_tile(gated + far * (heads * P) + head * P, sign * (heads * P), q, p, g * w, TILE)

    squares += (bk * tl.num_programs(0) + part) * length + first
    tl.store(squares + sign * at, total, mask=at < length)
    if TILES == 2:
        tl.store(squares + far + sign * at, total1, mask=at < length - TILE)


@triton.jit
def within(scores, x, dy, s, source, step, skip, out, total, PRECISION: tl.constexpr):
    """Of a tile (u, t) of a head: `out` with dx added, `total` with dt M, and column, row and, if D is given as `skip`,
    the diagonal's x . dy. Symbols in backward.py; s and source as of `weights`."""
    at = tl.arange(0, scores.shape[0])
    diagonal = at[:, None] == at[None, :]
    W = weights(s[None, :], source[:, None])
    V = scores * W
    if skip is not None:
        V = tl.where(diagonal, V + skip, V)
    out = tl.dot(V.to(x.dtype), dy, out, input_precision=PRECISION)
    M = tl.dot(x, tl.trans(dy), input_precision=PRECISION)
    own = tl.zeros(step.shape, tl.float32)
    if skip is not None:
        own = tl.sum(tl.where(diagonal, M, 0.0), 1)
    M *= W
    total += M
    M *= scores
    return out, total, tl.sum(M, 0), tl.sum(M, 1) / tl.where(step > 0, step, 1.0), own


@triton.jit
def text_backward_kernel(
    dy, x, B, C, dt, s, D, dx,  # as of `text_backward`
    dB,  # (parts, b, l, k, g, n), as dC
    dC,
    sums,
    sides,
    length, per_program, dx_batch, dB_part, dB_batch, dx_row: tl.constexpr, dx_direction: tl.constexpr,
    dB_row: tl.constexpr, dB_direction: tl.constexpr, heads: tl.constexpr,
    GROUPS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, NOW: tl.constexpr,
    TILES: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (part of a group's heads, batch and direction): tile NOW of the text, and what the one after it reads."""
    part, bk = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b = bk // 2
    k = tl.program_id(1) % 2
    sign = 1 - 2 * k
    far = sign * TILE  # to the next tile, in tokens
    first = (bk - bk + length - 1) * k + far * NOW
    q = length - NOW * TILE  # tokens from there on
    group, begin, end = heads_of(part, tl.num_programs(0), per_program, heads, GROUPS)
    at, n, p = tl.arange(0, TILE), tl.arange(0, N), tl.arange(0, P)

    key_row = sign * (2 * GROUPS * N)
    key = ((b * length + first) * 2 + k) * GROUPS * N + group * N
    key1 = key + far * (2 * GROUPS * N)
    sources = load_tile(B + key, key_row, q, n, TILE)
    queries = load_tile(C + key, key_row, q, n, TILE)
    scores = causal(tl.dot(sources, tl.trans(queries), input_precision=PRECISION), False, TILE)  # (u, t)
    total = tl.zeros((TILE, TILE), tl.float32)
    if NOW + 1 < TILES:
        queries = load_tile(C + key1, key_row, q - TILE, n, TILE)
        across = tl.dot(sources, tl.trans(queries), input_precision=PRECISION)
        total_across = tl.zeros((TILE, TILE), tl.float32)

    row, token = sign * (2 * heads * P), ((b * length + first) * 2 + k) * (heads * P)
    x += token
    dy += token
    dx += b * dx_batch + k * dx_direction + first * dx_row
    plane = tl.num_programs(1).to(tl.int64) * heads * TILES * TILE
    for head in tl.range(begin, end, num_stages=STAGES):
        skip = tl.load(D + k * heads + head)
        here = ((bk * heads + head) * TILES + NOW) * TILE
        step = tl.load(dt + (bk * heads + head) * length + first + sign * at, mask=at < q, other=0.0)
        log = tl.load(s + here + at) * LOG2E
        source = log - tl.log2(step)
        v = load_tile(x + head * P, row, q, p, TILE)
        dout = load_tile(dy + head * P, row, q, p, TILE)
        out = tl.zeros((TILE, P), tl.float32)
        if NOW + 1 < TILES:
            later = load_tile(dy + TILE * row + head * P, row, q - TILE, p, TILE)
            log1 = (tl.load(s + here + TILE + at) + tl.load(s + here + TILE - 1)) * LOG2E
            out, total_across, column, through, _ = within(
                across, v, later, log1, source, step, None, out, total_across, PRECISION
            )
            tl.store(sides + here + TILE + at, column)
            tl.store(sides + plane + here + at, through)
        out, total, column, through, own = within(scores, v, dout, log, source, step, skip, out, total, PRECISION)
        tl.store(sums + here + at, column)
        tl.store(sums + plane + here + at, through)
        tl.store(sums + 2 * plane + here + at, own)
        store_tile(dx + head * P, sign * dx_row, q, p, out, TILE)

    to = part % (tl.num_programs(0) // GROUPS) * dB_part + b * dB_batch + k * dB_direction + first * dB_row + group * N
    dB += to
    dC += to
    sources = load_tile(B + key, key_row, q, n, TILE)
    queries = load_tile(C + key, key_row, q, n, TILE)
    total = causal(total, False, TILE).to(sources.dtype)
    got = tl.dot(tl.trans(total), sources, input_precision=PRECISION)
    if NOW > 0:
        got += load_tile(dC, sign * dB_row, q, n, TILE).to(tl.float32)
    store_tile(dC, sign * dB_row, q, n, got, TILE)
    got = tl.dot(total, queries, input_precision=PRECISION)
    if NOW + 1 < TILES:
        queries = load_tile(C + key1, key_row, q - TILE, n, TILE)
        total_across = total_across.to(sources.dtype)
        got = tl.dot(total_across, queries, got, input_precision=PRECISION)
    store_tile(dB, sign * dB_row, q, n, got, TILE)
    if NOW + 1 < TILES:
        got = tl.dot(tl.trans(total_across), sources, input_precision=PRECISION)
        store_tile(dC + far * dB_row, sign * dB_row, q - TILE, n, got, TILE)


def text_forward(
    z: Tensor, scan: tuple[Tensor, ...], norm_weight: Tensor | None, want_y: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """y (b, l, k, h, p), g (k, b, l, h p) and its squares (b, k, parts, l), to be summed over the parts.

    z (b, l, k, h p), last axis contiguous. scan: x after convolution and SiLU (b, l, k, h, p), B and C (b, l, k, g, n),
    dt (b, k, h, l), A and D (k, h), contiguous; these three and norm_weight (k, h p), if not folded, float32.
    """
    x, B, _, dt, *_ = scan
    batch, length, count, heads, headdim = x.shape
    per_program, programs = _division(x, B)
    y = torch.empty_like(x) if want_y else None
    gated = x.new_empty((count, batch, length, heads * headdim))
    squares = dt.new_empty((batch, count, programs, length))
    inputs = z, *scan, norm_weight, y, gated, squares, length, per_program, *z.stride()[:3], heads
    text_kernel[(programs, batch * count)](*inputs, **_tiles(x, B), num_warps=4)
    return y, gated, squares


def text_backward(
    dy: Tensor, x: Tensor, B: Tensor, C: Tensor, dt: Tensor, s: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, None]]:
    """dx, dB and dC side by side (b, l, k, h p + 2 g n), and sums and sides of `step_gradients`.

    Arguments as of `text_forward`, dy as x, and s (b, k, h, tiles, CHUNK): the running sums of the tiles.
    """
    batch, length, count, heads, headdim = x.shape
    keys, inner = B.shape[3] * B.shape[4], heads * headdim
    per_program, programs = _division(x, B)
    parts = programs // B.shape[3]
    xBC, sums, sides = (
        x.new_empty((*x.shape[:3], inner + 2 * keys)),
        s.new_empty((3, *s.shape)),
        s.new_zeros((2, *s.shape)),
    )
    got = xBC[None, ..., inner:] if parts == 1 else dt.new_empty((parts, *x.shape[:3], 2 * keys))
    inputs = dy, x, B, C, dt, s, D, xBC, *got.split(keys, 4), sums, sides
    sizes = length, per_program, xBC.stride(0), *got.stride()[:2], *xBC.stride()[1:3], *got.stride()[2:4], heads
    for now in range(s.shape[3]):
        text_backward_kernel[(programs, batch * count)](*inputs, *sizes, NOW=now, **_tiles(x, B), num_warps=4)
    if parts > 1:
        xBC[..., inner:] = torch.sum(got, 0)
    return xBC, sums, (sides[0], sides[1], None)


def _division(x: Tensor, B: Tensor) -> tuple[int, int]:
    """Heads of a program, and programs for a text and direction: enough to fill the device."""
    groups, per_group = B.shape[3], x.shape[3] // B.shape[3]
    texts = x.shape[0] * x.shape[2] * groups
    parts = triton.cdiv(multiprocessors(x.device), texts) if x.is_cuda else 2  # the division should be tested
    per_program = triton.cdiv(per_group, min(parts, per_group))
    return per_program, groups * triton.cdiv(per_group, per_program)


def _tiles(x: Tensor, B: Tensor) -> dict[str, Any]:
    (groups, state), headdim = B.shape[3:], x.shape[4]
    shape = {"GROUPS": groups, "P": headdim, "N": state, "TILES": triton.cdiv(x.shape[1], CHUNK), "TILE": CHUNK}
    stages = 1 if x.dtype == torch.float32 else 3  # the next head is loaded while one is computed
    return {**shape, "PRECISION": precision(x.dtype, min(headdim, state)), "STAGES": stages}


def forward(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    D: Tensor | None,
    H: Tensor | None,
    mask: int,
    block_length: int,
) -> Tensor:
    """y as (b, c, q, g, h, p)."""
    b, c, g, h, q, p = x.shape
    y = x.new_empty(b, c, q, g, h, p)
    inputs = C, B, x, r, s, D, H, y, *_sizes(C, B, x)
    product_kernel[(c, b * g)](*inputs, **_options(C, x, mask, block_length), num_warps=4)
    return y


def backward(
    dy: Tensor,
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    D: Tensor | None,
    H: Tensor | None,
    mask: int,
    block_length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of C, B, x as (b, c, q, g, h, p), r, s, D and H. dy as x."""
    b, c, g, h, q, p = x.shape
    dC, dB = (torch.empty(v.shape, dtype=x.dtype, device=x.device) for v in (C, B))
    dx, dr, ds = x.new_empty(b, c, q, g, h, p), torch.empty_like(r), torch.empty_like(s)
    dD = None if D is None else r.new_empty(b, c, g, h)
    dH = None if H is None else torch.empty_like(H)
    inputs = dy, C, B, x, r, s, D, H, dC, dB, dx, dr, ds, dD, dH, *_sizes(C, B, x), *dy.stride()[:5]
    product_backward_kernel[(c, b * g)](*inputs, **_options(C, x, mask, block_length), num_warps=8, num_stages=2)
    return dC, dB, dx, dr, ds, None if dD is None else torch.sum(dD, (0, 1)), dH


def _sizes(C: Tensor, B: Tensor, x: Tensor) -> tuple[int, ...]:
    return x.shape[4], x.shape[1], x.shape[2], *C.stride()[:4], *B.stride()[:4], *x.stride()[:5]


def _options(C: Tensor, x: Tensor, mask: int, block_length: int) -> dict[str, Any]:
    (*_, heads, q, p), n = x.shape, C.shape[4]
    tile = max(MIN_TILE, triton.next_power_of_2(q))
    shape = {"HEADS": heads, "P": p, "N": n, "MASK": mask, "BLOCK": block_length, "TILE": tile}
    return shape | {"PRECISION": precision(x.dtype, min(tile, p, n))}
