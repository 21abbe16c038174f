"""Attention of one block over a cache of keys, whose length is a tensor: softmax(q k^T / sqrt(d)) v, forward only; and
the kernel between in_proj and it, which writes the block's own keys and values into the cache.

A block has few queries and a long context, so a program per tile of queries would leave most of the device idle. Each
row's keys are therefore cut into splits, as in flash-decoding, and a second launch joins them:

    partial  for each split  o_s = sum_u exp(q k_u - lse_s) v_u    and    lse_s = log sum_u exp(q k_u)
    join     y = sum_s w_s o_s,  w_s = exp(lse_s - log sum_s exp(lse_s))

Only keys that a row has are read, so one recorded pass serves every length up to the capacity.

    projected  (b, s, 3 h d)    q  (b, h, s, d)    k, v  (b, h, capacity, d)
    lengths    (b,) int64: keys before the block's own s

Plain twins: `F.scaled_dot_product_attention` with the mask of `BlockPass.masks`, and `Attention._project`.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.launch import MIN_TILE, multiprocessors, on_hopper, precision
from diffuapriel.ops.triton.scan import LOG2E

TILE_QUERIES, TILE_KEYS = 128, 64
MOST_SPLITS = 64


@triton.jit
def read_keys(
    Q, k, v, at, end, scale, most, total, out, PART: tl.constexpr, TILE_KEYS: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """most, total and out after one more tile of keys; with PART the tile may go beyond `end`."""
    keys, columns = at + tl.arange(0, TILE_KEYS), tl.arange(0, Q.shape[1])
    where = keys[:, None] * Q.shape[1] + columns[None, :]
    K = tl.load(k + where, mask=(keys < end)[:, None], other=0.0) if PART else tl.load(k + where)
    V = tl.load(v + where, mask=(keys < end)[:, None], other=0.0) if PART else tl.load(v + where)
    scores = tl.dot(Q, tl.trans(K), input_precision=PRECISION)
    if PART:
        scores = tl.where((keys < end)[None, :], scores, float("-inf"))
    before, most = most, tl.maximum(most, scale * tl.max(scores, 1))
    weights = tl.exp2(scores * scale - most[:, None])
    kept = tl.exp2(before - most)
    total = total * kept + tl.sum(weights, 1)
    out = tl.dot(weights.to(V.dtype), V, out * kept[:, None], input_precision=PRECISION)
    return most, total, out


@triton.jit
def partial_kernel(
    q,
    k,
    v,
    lengths,
    partial,  # (splits, b, h, s, d) float32
    lse,  # (splits, b, h, s) float32, in powers of two
    queries,
    capacity,
    heads: tl.constexpr,
    scale,
    batch_stride,
    head_stride,
    row_stride: tl.constexpr,
    D: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile of queries, split, batch and head)."""
    tile, split, bh = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    b = bh // heads
    rows, columns = tile * TILE_QUERIES + tl.arange(0, TILE_QUERIES), tl.arange(0, D)
    inside = (rows < queries)[:, None]
    q += b * batch_stride + bh % heads * head_stride
    Q = tl.load(q + rows[:, None] * row_stride + columns[None, :], mask=inside, other=0.0)
    scale *= LOG2E

    length = tl.load(lengths + b).to(tl.int32) + queries
    share = tl.cdiv(tl.cdiv(length, TILE_KEYS), tl.num_programs(1)) * TILE_KEYS
    start = split * share
    end = tl.minimum(start + share, length)
    whole = start + tl.maximum(end - start, 0) // TILE_KEYS * TILE_KEYS
    most = tl.full((TILE_QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_QUERIES,), tl.float32)
    out = tl.zeros((TILE_QUERIES, D), tl.float32)
    k += bh * capacity * D
    v += bh * capacity * D
    for at in range(start, whole, TILE_KEYS):
        most, total, out = read_keys(Q, k, v, at, end, scale, most, total, out, False, TILE_KEYS, PRECISION)
    if whole < end:
        most, total, out = read_keys(Q, k, v, whole, end, scale, most, total, out, True, TILE_KEYS, PRECISION)

    at = (split * tl.num_programs(2) + bh) * queries + rows
    some = tl.where(total > 0, total, 1.0)  # a split beyond the end has no keys
    tl.store(lse + at, most + tl.log2(some), mask=rows < queries)
    tl.store(partial + at[:, None] * D + columns[None, :], out / some[:, None], mask=inside)


@triton.jit
def join_kernel(
    partial,
    lse,
    y,  # (b, s, h, d)
    queries,
    heads: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Program (tile of queries, batch and head)."""
    tile, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, columns = tile * TILE + tl.arange(0, TILE), tl.arange(0, D)
    inside = rows < queries
    most = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    out = tl.zeros((TILE, D), tl.float32)
    for split in tl.static_range(SPLITS):
        at = (split * tl.num_programs(1) + bh) * queries + rows
        one = tl.load(lse + at, mask=inside, other=0.0)
        before, most = most, tl.maximum(most, one)  # the first split always has a key
        kept, weight = tl.exp2(before - most), tl.exp2(one - most)
        part = tl.load(partial + at[:, None] * D + columns[None, :], mask=inside[:, None], other=0.0)
        out = out * kept[:, None] + part * weight[:, None]
        total = total * kept + weight
    to = ((bh // heads * queries + rows) * heads + bh % heads)[:, None] * D + columns[None, :]
    tl.store(y + to, (out / total[:, None]).to(y.dtype.element_ty), mask=inside[:, None])


@triton.jit
def rotated(x, weight, cos, sin, inside, D: tl.constexpr, eps):
    """Both halves of norm(x) weight, each pair rotated by its angle; x points to the first halves (rows, D / 2)."""
    column = tl.arange(0, D // 2)
    a = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + D // 2, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / D + eps)[:, None]
    a *= scale * tl.load(weight + column)[None, :]
    b *= scale * tl.load(weight + D // 2 + column)[None, :]
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def project_kernel(
    projected,
    q_weight,  # (d,) float32
    k_weight,
    cos,  # (b, s, d / 2) float32
    sin,
    q,
    keys,
    values,
    lengths,
    queries,
    capacity,
    heads: tl.constexpr,
    eps,
    D: tl.constexpr,
    TILE: tl.constexpr,
):
    """Program (tile of tokens, batch and head)."""
    rows, half, bh = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, D // 2), tl.program_id(1).to(tl.int64)
    b, h, inside = bh // heads, bh % heads, (rows < queries)[:, None]
    angle = (b * queries + rows)[:, None] * (D // 2) + half[None, :]
    c, s = tl.load(cos + angle, mask=inside, other=0.0), tl.load(sin + angle, mask=inside, other=0.0)
    at = projected + ((b * queries + rows) * 3 * heads + h)[:, None] * D + half[None, :]
    first, second = rotated(at, q_weight, c, s, inside, D, eps)
    to = (bh * queries + rows)[:, None] * D + half[None, :]
    tl.store(q + to, first.to(q.dtype.element_ty), mask=inside)
    tl.store(q + to + D // 2, second.to(q.dtype.element_ty), mask=inside)
    first, second = rotated(at + heads * D, k_weight, c, s, inside, D, eps)
    to = (bh * capacity + tl.load(lengths + b) + rows)[:, None] * D + half[None, :]
    tl.store(keys + to, first.to(keys.dtype.element_ty), mask=inside)
    tl.store(keys + to + D // 2, second.to(keys.dtype.element_ty), mask=inside)
    for part in tl.static_range(0, D, D // 2):
        v = tl.load(at + 2 * heads * D + part, mask=inside, other=0.0)
        tl.store(values + to + part, v.to(values.dtype.element_ty), mask=inside)


def project(
    projected: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    eps: float,
) -> Tensor:
    """Queries, contiguous; keys and values are written behind the first lengths[b] of each row. Weights in float32."""
    (batch, queries, _), (heads, _, headdim) = projected.shape, keys.shape[1:]
    q = projected.new_empty(batch, heads, queries, headdim)
    tile = min(TILE_KEYS, triton.next_power_of_2(queries))
    sizes = queries, keys.stride(1) // headdim, heads, eps
    project_kernel[(triton.cdiv(queries, tile), batch * heads)](
        projected, q_weight, k_weight, cos, sin, q, keys, values, lengths, *sizes, D=headdim, TILE=tile
    )
    return q


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """(b, s, h, d), in q's dtype: row r over its first lengths[r] + s keys, at most the capacity.

    Of q the last axis is contiguous; k and v may be the first keys of a longer, contiguous cache.
    """
    (batch, heads, queries, headdim), most, exact = q.shape, k.shape[2], q.dtype == torch.float32
    most_queries = TILE_QUERIES // 4 if exact else TILE_QUERIES
    if on_hopper() and headdim <= 128 and not exact:
        most_queries = 256  # 16 warps without a spilled register: the keys of a block of 256 are read once
    tile = min(most_queries, max(MIN_TILE, triton.next_power_of_2(queries)))
    programs = triton.cdiv(queries, tile) * batch * heads
    splits = max(1, min(MOST_SPLITS, multiprocessors(q.device) // programs, triton.cdiv(most, TILE_KEYS)))
    partial = q.new_empty((splits, batch, heads, queries, headdim), dtype=torch.float32)
    lse = partial.new_empty(partial.shape[:-1])
    y = q.new_empty((batch, queries, heads, headdim))
    sizes = queries, k.stride(1) // headdim, heads, headdim**-0.5, *q.stride()[:3]
    options = {"D": headdim, "TILE_QUERIES": tile, "TILE_KEYS": TILE_KEYS}
    options["PRECISION"] = precision(q.dtype, min(tile, headdim))
    stages = 1 if exact else 3 if headdim <= 128 else 2  # more would not fit into shared memory
    partial_kernel[(triton.cdiv(queries, tile), splits, batch * heads)](
        q, k, v, lengths, partial, lse, *sizes, **options, num_warps=max(4, tile // 16), num_stages=stages
    )
    rows = min(tile, 32)
    join_kernel[(triton.cdiv(queries, rows), batch * heads)](
        partial, lse, y, queries, heads=heads, D=headdim, TILE=rows, SPLITS=splits, num_warps=4
    )
    return y
