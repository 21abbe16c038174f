"""The backward pass of the scan, chunk by chunk; a program takes the heads of a group one after another.

With u and t tokens of a chunk in scan order, u no later than t, s the running sum of dt A, H the state that enters
the chunk and G the gradient of the state that leaves it (both from triton_states.py):

    M_ut    = exp(s_t - s_u) (x_u . dy_t)                  W_ut = exp(s_t - s_u) (B_u . C_t)
    d(dt x) = W dy + exp(s_end - s) (B G)                  dx   = dt d(dt x) + D dy
    dC      = M'^T B + sum over heads of (exp(s) dy) H^T           M' = sum over heads of dt M
    dB      = M' C   + sum over heads of (exp(s_end - s) dt x) G^T

Small kernels, so that each stays in registers: `side_kernel` for what comes through the states, once with (C, dy, H)
and once with (B, x, G); `within_kernel` for what stays inside the chunk; triton_close.py for the products with M'.
The heads of a group share B and C, so their gradients add up on chip; where chunks are too few to fill the device,
the heads are split over programs and the parts added at the close. Nothing is added atomically: the same call gives
the same bits.

A short text that begins with a state of zero is one chunk, of two tiles: nothing comes through states then.

The gradients of dt and A come from sums over a token's row that these kernels leave for triton_steps.py. The sums of
M (B . C) over u and over t are taken of the same float32 numbers: a token's own term is in both, cancels exactly,
and may be far larger than what is left. (dy . y - dt x . d(dt x), shorter, would lose that to the rounding of y.)

Plain twin: `_backward` in chunked.py. Products take their operands as loaded, or as computed and not transposed:
Triton has miscompiled transposed results of products on Hopper.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ssd.triton_close import close
from diffuapriel.ssd.triton_launch import bits, precision
from diffuapriel.ssd.triton_states import CHUNK
from diffuapriel.ssd.triton_steps import SUMS, running_sums, step_gradients

SHORT = 2 * CHUNK  # tokens of a text that is one chunk


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
    """One side of the state, program (chunk, part of a group's heads, batch and direction).

    Without KEYS: key C, value dy, states H, others G. Gives dC through the state, the sums dy . (exp(s) C H), and
    exp(s_end) <G, H>. With KEYS: key B, value x, states G. Gives dB through the state, the sums
    x . (exp(s_end - s) B G), and dx through the state.
    """
    c, part, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks, parts = tl.num_programs(0), tl.num_programs(1) // GROUPS
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    group, per_group = part // parts, heads // GROUPS
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1) + sign * c * CHUNK).to(tl.int64)  # the chunk's first token in scan order
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
    dx,  # with ADD holds what came through the state or from other tiles, and gets the rest
    products,  # M', (b, k, g, parts, chunks, q, q), in tiles; those below the diagonal stay as they are
    sums,  # (tiles, 3, b, k, h, chunks, q)
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
    SIDE: tl.constexpr,
    AHEAD: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """What stays inside the chunk, program (tile, part of a group's heads, batch and direction).

    Tiles are (u, t), SIDE by SIDE: with AHEAD 0 those on the diagonal of a chunk, with 1 those beside them, and so on.
    """
    c, tile = tl.program_id(0) // (CHUNK // SIDE - AHEAD), tl.program_id(0) % (CHUNK // SIDE - AHEAD)
    chunks = tl.num_programs(0) // (CHUNK // SIDE - AHEAD)
    part, bk, parts = tl.program_id(1), tl.program_id(2).to(tl.int64), tl.num_programs(1) // GROUPS
    b, k = bk // DIRECTIONS, (bk % DIRECTIONS).to(tl.int32)
    group, per_group = part // parts, heads // GROUPS
    reverse = (REVERSE >> k) & 1
    sign = 1 - 2 * reverse
    first = (reverse * (length - 1) + sign * c * CHUNK).to(tl.int64)
    i, p, n = tl.arange(0, SIDE), tl.arange(0, P), tl.arange(0, N)
    u, t = tile * SIDE + i, (tile + AHEAD) * SIDE + i
    real_u, real_t = (c * CHUNK + u < length)[:, None], (c * CHUNK + t < length)[:, None]
    token = (b * length + first) * DIRECTIONS + k

    row = sign * (DIRECTIONS * GROUPS * N)
    key = (token * GROUPS + group) * N
    keys = tl.load(B + key + (u[:, None] * row + n[None, :]), mask=real_u, other=0.0)
    queries = tl.load(C + key + (t[:, None] * row + n[None, :]), mask=real_t, other=0.0)
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
    row = sign * (DIRECTIONS * heads * P)
    x_at, dy_at = u[:, None] * row + p[None, :], t[:, None] * row + p[None, :]
    x += token * heads * P
    dy += token * heads * P
    dx += b * out_batch + k * out_direction + first * out_row
    dx_at = u[:, None] * (sign * out_row) + p[None, :]
    plane = tl.num_programs(2).to(tl.int64) * heads * chunks * CHUNK
    sums += 3 * AHEAD * plane

    total = tl.zeros((SIDE, SIDE), tl.float32)
    begin = (part % parts) * per_program
    end = tl.minimum(begin + per_program, per_group)
    for member in tl.range(begin, end, num_stages=STAGES):
        head = group * per_group + member
        here = (bk * heads + head) * chunks + c
        dy_ = tl.load(dy + head * P + dy_at, mask=real_t, other=0.0)
        x_ = tl.load(x + head * P + x_at, mask=real_u, other=0.0)
        log_u, log_t = tl.load(s + here * CHUNK + u), tl.load(s + here * CHUNK + t)
        at = dt + (bk * heads + head) * length + first
        step = tl.load(at + sign * u, mask=c * CHUNK + u < length, other=0.0)[:, None]

        log_ratio = log_t[None, :] - log_u[:, None]
        decay = tl.exp(tl.where(u[:, None] <= t[None, :], log_ratio, float("-inf")))
        W = (decay * scores).to(keys.dtype)
        out = tl.dot(W, dy_, input_precision=PRECISION) * step
        to = dx + head * P + dx_at
        if ADD:
            out += tl.load(to, mask=real_u, other=0.0).to(tl.float32)
        if AHEAD == 0:
            out += tl.load(D + k * heads + head) * dy_.to(tl.float32)
        tl.store(to, out.to(dx.dtype.element_ty), mask=real_u)

        M = tl.dot(x_, tl.trans(dy_), input_precision=PRECISION)
        to = sums + here * CHUNK
        if AHEAD == 0:
            tl.store(to + 2 * plane + u, tl.sum(tl.where(u[:, None] == t[None, :], M, 0.0), 1))  # x . dy
        M *= decay
        total += M * step
        M *= scores
        tl.store(to + plane + u, tl.sum(M, 1))
        tl.store(to + t, tl.sum(M * step, 0))

    square = ((bk * GROUPS * parts + part) * chunks + c) * CHUNK * CHUNK
    tl.store(products + square + (u[:, None] * CHUNK + t[None, :]), total)


class ScanGradients(NamedTuple):
    """xBC (b, l, k, h p + 2 g n) in x's dtype: dx, dB and dC side by side, as in_proj lays them out; ddt, as given or
    (b, k, h, l) float32; dA, dD and dt_bias (k, h) float32, the last of use with `softplus` only."""

    xBC: Tensor
    ddt: Tensor
    dA: Tensor
    dD: Tensor
    dt_bias: Tensor


def scan_backward(
    x: Tensor,
    dy: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    A: Tensor,
    D: Tensor,
    states: tuple[Tensor, Tensor] | None,
    reverse: tuple[bool, ...],
    *,
    before_softplus: Tensor | None = None,
) -> ScanGradients:
    """Gradients of everything but the initial state, which is what the walk over `leaving` ends in.

    x, after convolution and SiLU, and dy (b, l, k, h, p), B and C (b, l, k, g, n), states (b, k, h, chunks, n, p) that
    enter the chunks and gradients of those that leave, all contiguous and of one dtype; dt (b, k, h, l), A and D (k, h)
    float32. states: None for a text of at most SHORT tokens that begins with a state of zero, and ends in one that
    nothing reads. before_softplus (b, k, h, l), any strides: receives the gradient of what dt is the softplus of.
    """
    batch, length, directions, heads, headdim = x.shape
    groups, state = B.shape[3:]
    tiles = 1 if states else triton.cdiv(length, CHUNK)
    chunk = tiles * CHUNK
    chunks, per_group = triton.cdiv(length, chunk), heads // groups
    per_program = triton.cdiv(per_group, _parts(x, batch * directions * groups * chunks, per_group))
    parts = triton.cdiv(per_group, per_program)

    s = running_sums(dt, A, reverse, chunk)
    xBC = x.new_empty((batch, length, directions, heads * headdim + 2 * groups * state))
    _, dB, dC = xBC.split([heads * headdim, groups * state, groups * state], dim=3)
    sums = dt.new_empty((tiles, len(SUMS), batch, directions, heads, chunks, chunk))
    products = dt.new_empty((batch, directions, groups, parts, chunks, chunk, chunk))
    sides = dB_parts = dC_parts = None
    sizes = (length, heads, per_program, *xBC.stride()[:3])
    options = {
        "GROUPS": groups,
        "P": headdim,
        "N": state,
        "REVERSE": bits(reverse),
        "DIRECTIONS": directions,
        "CHUNK": chunk,
        **_tuning(x.dtype, headdim, state),
    }
    if states:
        entering, leaving = states
        sides = query, key, carried = *torch.empty_like(sums[0, :2]), sums.new_empty(sums.shape[2:-1])
        dB_parts = dt.new_empty((batch, directions, groups, parts, chunks, chunk, state))
        dC_parts = torch.empty_like(dB_parts)
        grid = (chunks, groups * parts, batch * directions)
        out = (xBC, dC_parts, query, carried, *sizes)
        side_kernel[grid](dy, C, dt, s, entering, leaving, *out, KEYS=False, **options)
        out = (xBC, dB_parts, key, carried, *sizes)
        side_kernel[grid](x, B, dt, s, leaving, entering, *out, KEYS=True, **options)
    for ahead in range(tiles):
        grid = (chunks * (tiles - ahead), groups * parts, batch * directions)
        out = (xBC, products, sums, *sizes)
        add = ahead > 0 or states is not None
        within_kernel[grid](x, dy, B, C, dt, s, D, *out, SIDE=CHUNK, AHEAD=ahead, ADD=add, **options)
    close(B, C, products, (dB_parts, dC_parts), dB, dC, reverse)
    ddt = torch.empty_like(dt) if before_softplus is None else before_softplus
    totals = step_gradients(dt, A, sums, sides, reverse, ddt, before_softplus is not None)
    return ScanGradients(xBC, ddt, *totals)


def _parts(x: Tensor, programs: int, per_group: int) -> int:
    """Into how many programs to split the heads of a group: two fit a multiprocessor, and two rounds even out."""
    if x.device.type != "cuda":
        return 2  # the interpreter has nothing to fill, but the split is to be tested
    wanted = 4 * torch.cuda.get_device_properties(x.device).multi_processor_count
    return max(1, min(-(-wanted // programs), per_group // 4))


def _tuning(dtype: torch.dtype, headdim: int, state: int) -> dict[str, Any]:
    """Precision, heads loaded ahead (STAGES - 2), and warps: two programs of 4 share a multiprocessor of a Hopper."""
    products, small = precision(dtype, state), headdim * state <= 64 * 128
    if dtype == torch.float32:  # for a large state the split operands would not fit on chip
        return {"PRECISION": products if small else "ieee", "STAGES": 1, "num_warps": 8}
    if headdim * state > 128 * 256:
        return {"PRECISION": products, "STAGES": 1, "num_warps": 8}
    return {"PRECISION": products, "STAGES": 3 if small else 2, "num_warps": 4 if small else 8}
