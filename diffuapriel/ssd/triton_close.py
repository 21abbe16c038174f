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
    key,
    products,
    sides,  # through the state, or None: no states
    dkey,
    length,
    count,  # of the parts
    out_batch,
    out_row,
    out_direction,
    TURNED: tl.constexpr,
    GROUPS: tl.constexpr,
    N: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dB from M' and key C, or with TURNED dC from M'^T and key B; program (chunk, group, batch and direction)."""
    c, group, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks = tl.num_programs(0)
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1) + sign * c * CHUNK).to(tl.int64)
    i, n = tl.arange(0, CHUNK), tl.arange(0, N)
    inside = (c * CHUNK + i < length)[:, None]
    u, t = (i[None, :], i[:, None]) if TURNED else (i[:, None], i[None, :])

    M = tl.zeros((CHUNK, CHUNK), tl.float32)
    for part in range(count):
        here = ((bk * GROUPS + group) * count + part) * chunks + c
        square = tl.load(products + here * CHUNK * CHUNK + (u * CHUNK + t))
        M += tl.where(u <= t, square, 0.0)  # a mask in the load would make it a number at a time
    at = (((b * length + first) * DIRECTIONS + k) * GROUPS + group) * N
    row = sign * i[:, None] * (DIRECTIONS * GROUPS * N) + n[None, :]
    keys = tl.load(key + at + row, mask=inside, other=0.0)
    total = tl.dot(M.to(keys.dtype), keys, input_precision=PRECISION)
    if sides is not None:
        for part in range(count):
            here = ((bk * GROUPS + group) * count + part) * chunks + c
            total += tl.load(sides + here * CHUNK * N + (i[:, None] * N + n[None, :]))
    out = b * out_batch + k * out_direction + first * out_row + group * N
    row = sign * i[:, None] * out_row + n[None, :]
    tl.store(dkey + out + row, total.to(dkey.dtype.element_ty), mask=inside)


def close(
    B: Tensor,
    C: Tensor,
    products: Tensor,
    sides: tuple[Tensor | None, Tensor | None],
    dB: Tensor,
    dC: Tensor,
    reverse: tuple[bool, ...],
) -> None:
    """Fill dB and dC (b, l, k, g n), views with the same strides, the last 1.

    B and C (b, l, k, g, n) contiguous; products (b, k, g, parts, chunks, q, q) and the sides of dB and of dC
    (b, k, g, parts, chunks, q, n), float32, or None where there are no states.
    """
    batch, length, directions, groups, state = B.shape
    parts, chunks, chunk = products.shape[3:6]
    for turned, key, side, dkey in ((False, C, sides[0], dB), (True, B, sides[1], dC)):
        close_kernel[(chunks, groups, batch * directions)](
            key,
            products,
            side,
            dkey,
            length,
            parts,
            *dkey.stride()[:3],
            TURNED=turned,
            GROUPS=groups,
            N=state,
            REVERSE=bits(reverse),
            DIRECTIONS=directions,
            CHUNK=chunk,
            PRECISION=precision(B.dtype, state),
            num_warps=4 if B.dtype != torch.float32 and state <= 128 and chunk <= CHUNK else 8,
        )
