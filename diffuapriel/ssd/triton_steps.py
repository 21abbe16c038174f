"""What depends on the step sizes alone: running sums of dt A for the backward pass, and the gradients of dt and A.

    s_t  = sum of dt A over the chunk up to and including t, in scan order
    da_t = sum over t' no earlier than t of ds_t', inside the chunk
    ddt  = da A + x . d(dt x),  dA = sum of da dt

ds, the gradient of s, comes as sums over a token's row, from the kernels of triton_backward.py:

    ds_t = column_t + query_t - dt_t row_t - dt_t key_t,   and at the end of the chunk  + sum of dt key + carried

Summed up from the end, the key terms of the tokens from t on cancel against the same terms at the end of the chunk,
so that what is added are those of the tokens before t. query, key and carried come through states, which a short text
does without. Plain twin: the ends of `_backward` in chunked.py.

With a softplus the gradient goes on to what dt was made of: softplus' = sigmoid = 1 - exp(-dt).

    dt, ddt (b, k, h, l);  s and each of the sums (b, k, h, chunks, q);  carried (b, k, h, chunks), float32
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_launch import bits

HEADS = 16  # of a tile
SUMS = (
    "column",
    "row",
    "skip",
)  # of each tile: of those on the diagonal of a chunk, then of those beside them


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
    sums,  # (tiles, 3, b, k, h, chunks, q)
    query,
    key,
    carried,  # or None, as query and key: no states
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
    TILES: tl.constexpr,
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
    for ahead in tl.static_range(
        1, TILES
    ):  # no tile stands above the first columns, and none beside the last rows
        off, beside = ahead * (CHUNK // TILES), sums + 3 * ahead * plane + at
        column += tl.load(beside, mask=inside & (i >= off)[None, :], other=0.0)
        row += tl.load(beside + plane, mask=inside & (i < CHUNK - off)[None, :], other=0.0)

    ds = column - step * row
    if carried is not None:
        ds += tl.load(query + at, mask=inside, other=0.0)
        through = tl.load(key + at, mask=inside, other=0.0)
        written = step * through
        da = tl.cumsum(ds, 1, reverse=True) + tl.cumsum(written, 1) - written
        da += tl.load(carried + here, mask=real, other=0.0)[:, None]
        row += through
    else:
        da = tl.cumsum(ds, 1, reverse=True)
    gradient = da * rate[:, None] + row
    if SOFTPLUS:  # 1 - exp(-dt), by its series where that would cancel
        series = step * (1 - step / 2 * (1 - step / 3 * (1 - step / 4 * (1 - step / 5))))
        gradient *= tl.where(step < 0.1, series, 1 - tl.exp(-step))
    out = (
        b * out_batch
        + k * out_direction
        + head[:, None] * out_head
        + tokens[None, :].to(tl.int64) * out_token
    )
    tl.store(ddt + out, gradient.to(ddt.dtype.element_ty), mask=inside)
    tl.store(totals + here, tl.sum(da * step, 1), mask=real)
    tl.store(totals + count + here, tl.sum(skip, 1), mask=real)
    tl.store(totals + 2 * count + here, tl.sum(tl.where(inside, gradient, 0.0), 1), mask=real)


def running_sums(dt: Tensor, A: Tensor, reverse: tuple[bool, ...], chunk: int) -> Tensor:
    """s (b, k, h, chunks, q) of chunks of q = `chunk` tokens, from dt (b, k, h, l) and A (k, h), all float32."""
    batch, directions, heads, length = dt.shape
    chunks = triton.cdiv(length, chunk)
    s = dt.new_empty((batch, directions, heads, chunks, chunk))
    running_sums_kernel[(chunks, triton.cdiv(heads, HEADS), batch * directions)](
        dt,
        A,
        s,
        length,
        heads,
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        HEADS=HEADS,
        CHUNK=chunk,
        num_warps=4,
    )
    return s


def step_gradients(
    dt: Tensor,
    A: Tensor,
    sums: Tensor,
    sides: tuple[Tensor, Tensor, Tensor] | None,
    reverse: tuple[bool, ...],
    ddt: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of A, D and of a bias added to dt before the softplus, each (k, h) float32; fills `ddt`.

    dt (b, k, h, l), A (k, h), sums (tiles, 3, b, k, h, chunks, q), float32. sides: query and key, each
    (b, k, h, chunks, q), and carried (b, k, h, chunks), float32, or None without states. ddt (b, k, h, l), of any
    strides and dtype, receives the gradient of dt, or with `softplus` of what dt is the softplus of.
    """
    batch, directions, heads, length = dt.shape
    chunks, chunk = sums.shape[5:]
    totals = dt.new_empty((3, batch, directions, heads, chunks))
    step_gradient_kernel[(chunks, triton.cdiv(heads, HEADS), batch * directions)](
        dt,
        A,
        sums,
        *(sides or (None, None, None)),
        ddt,
        totals,
        length,
        heads,
        *ddt.stride(),
        SOFTPLUS=softplus,
        REVERSE=bits(reverse),
        DIRECTIONS=directions,
        HEADS=HEADS,
        CHUNK=chunk,
        TILES=len(sums),
        num_warps=4,
    )
    dA, dD, dbias = torch.sum(totals, (1, 4))
    return dA, dD, dbias
