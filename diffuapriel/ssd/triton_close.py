"""The gradients of B and C, once the heads of a group are done: parts added up, and the products inside the chunk.

    dB = M' C   + sum of the parts            dC = M'^T B + sum of the parts

M' (u, t), the parts and the letters are those of triton_backward.py. Plain twin: `dscores` in chunked.py.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_launch import bits, precision
from diffuapriel.ssd.triton_states import CHUNK


@triton.jit
def close_kernel(
    B,
    C,
    products,
    dB_parts,
    dC_parts,
    dB,
    dC,
    length,
    parts,
    out_batch,
    out_row,
    out_direction,
    GROUPS: tl.constexpr,
    N: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dB and dC of a chunk: the parts added up, and the products with M'; program (chunk, group, batch, direction)."""
    c, group, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks = tl.num_programs(0)
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1) + sign * c * CHUNK).to(tl.int64)
    i, n = tl.arange(0, CHUNK), tl.arange(0, N)
    inside = (c * CHUNK + i < length)[:, None]
    square, rows = i[:, None] * CHUNK + i[None, :], i[:, None] * N + n[None, :]

    M = tl.zeros((CHUNK, CHUNK), tl.float32)
    M_turned = tl.zeros((CHUNK, CHUNK), tl.float32)
    for part in range(parts):
        here = ((bk * GROUPS + group) * parts + part) * chunks + c
        M += tl.load(products + here * CHUNK * CHUNK + square)
        M_turned += tl.load(products + here * CHUNK * CHUNK + (i[None, :] * CHUNK + i[:, None]))
    key = (((b * length + first) * DIRECTIONS + k) * GROUPS + group) * N
    row = sign * i[:, None] * (DIRECTIONS * GROUPS * N) + n[None, :]
    out = b * out_batch + k * out_direction + first * out_row + group * N
    out_rows = sign * i[:, None] * out_row + n[None, :]

    queries = tl.load(C + key + row, mask=inside, other=0.0)
    total = tl.dot(M.to(queries.dtype), queries, input_precision=PRECISION)
    for part in range(parts):
        here = ((bk * GROUPS + group) * parts + part) * chunks + c
        total += tl.load(dB_parts + here * CHUNK * N + rows)
    tl.store(dB + out + out_rows, total.to(dB.dtype.element_ty), mask=inside)

    keys = tl.load(B + key + row, mask=inside, other=0.0)
    total = tl.dot(M_turned.to(keys.dtype), keys, input_precision=PRECISION)
    for part in range(parts):
        here = ((bk * GROUPS + group) * parts + part) * chunks + c
        total += tl.load(dC_parts + here * CHUNK * N + rows)
    tl.store(dC + out + out_rows, total.to(dC.dtype.element_ty), mask=inside)


def close(
    B: Tensor,
    C: Tensor,
    products: Tensor,
    dB_parts: Tensor,
    dC_parts: Tensor,
    dB: Tensor,
    dC: Tensor,
    reverse: tuple[bool, ...],
) -> None:
    """Fill dB and dC (b, l, k, g n), views with the same strides, the last 1.

    B and C (b, l, k, g, n) contiguous; products (b, k, g, parts, chunks, q, q) and the parts
    (b, k, g, parts, chunks, q, n), float32.
    """
    batch, length, directions, groups, state = B.shape
    parts, chunks = products.shape[3:5]
    close_kernel[(chunks, groups, batch * directions)](
        B,
        C,
        products,
        dB_parts,
        dC_parts,
        dB,
        dC,
        length,
        parts,
        *dB.stride()[:3],
        GROUPS=groups,
        N=state,
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        CHUNK=CHUNK,
        PRECISION=precision(B.dtype, state),
        num_warps=4 if B.dtype != torch.float32 and state <= 128 else 8,
    )
