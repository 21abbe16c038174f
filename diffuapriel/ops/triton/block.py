"""The mixer over blocks: the forward direction goes on from a state, the reverse one is confined to each block.

    y_t = C_t h_t + D x_t,   h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T    forward from h_{s-1} = the given state, over
                                                                           all blocks; in reverse from 0 in each

A walk from chunk to chunk (scan.py) takes a step per chunk, and for one text most of the device waits. A block of up to
MOST_TILES tiles is therefore not walked, but written out, with s the running sum of dt A in the block:

    y_t = sum_{u <= t} exp(s_t - s_u) (C_t . B_u) dt_u x_u + exp(s_t) C_t H + D x_t

C_t . B_u, which all heads of a group share, is computed once for each pair of tiles, and a program sums over the tiles
before its own; for so few this takes no more operations than the states between them. Four launches, of which the
first two run side by side:

    inputs_kernel   x, B, C = SiLU(convolution)
    pairs_kernel    s and log2(dt) - s, with s from 0 in each tile; C B^T of pairs of tiles
    tiles_kernel    g, and its squares of each head
    finish_kernel   where a block is committed, the state and the inputs of the convolution

A longer block and several blocks, as in a prompt, take the two launches of a text for each direction, the reverse one
with a block in place of a text.

    projected  (b, l, k, z x B C dt)    history  (b, taps - 1, x B C) before the first token, forward direction
    state      (b, h, p, n) float32     g  as in mixer.py    squares  (k, b, l, h), still to be summed over the heads
    convolved  (b, k, rows, x B C)      s, source  (b, k, h, rows) float32, in powers of two; rows in scan order
    products   (b, k, g, pairs, TILE, TILE), pair i (i + 1) / 2 + j for queries of tile i and keys of tile j <= i

Plain twin: `BidirectionalMamba2.forward_blocks` in model/mamba2.py.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.conv import load_conv_silu, scan_order, silu
from diffuapriel.ops.triton.launch import BOTH, CHUNK, MIN_TILE, directions, on_hopper, precision
from diffuapriel.ops.triton.scan import LOG2E, Scanned, prepare, scan_chunks, state_at

MOST_TILES = 8
CHANNELS, WARPS = 64, 8  # of a program of `inputs_kernel`
PIECE = 64  # of the state, at most, in `pairs_kernel`
STAGES = 2  # of the pipeline of `tiles_kernel`
HISTORY_CHANNELS = 512  # of a program of `finish_kernel`


@triton.jit
def inputs_kernel(
    projected,
    weight,  # of the convolution, (k, taps, channels)
    bias,
    history,
    convolved,
    length, batch_stride, row_stride: tl.constexpr, direction_stride: tl.constexpr,
    inner: tl.constexpr, channels: tl.constexpr, CHANNELS: tl.constexpr,
    TAPS: tl.constexpr, REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program (tile, tile of channels, batch and direction)."""
    i, bk = tl.program_id(0), tl.program_id(2).to(tl.int64)
    b, k, sign, first = scan_order(bk, 0, length, REVERSE, DIRECTIONS)
    within, columns = tl.arange(0, TILE), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    raw = projected + b * batch_stride + k * direction_stride + first * row_stride + inner
    history += b * (TAPS - 1) * channels
    row = sign * row_stride
    x = load_conv_silu(raw, row, weight, bias, channels, k, i * TILE, within, columns, length, TAPS, history)
    to = (bk * tl.num_programs(0) * TILE + i * TILE + within)[:, None] * channels + columns[None, :]
    tl.store(convolved + to, x.to(convolved.dtype.element_ty))


@triton.jit
def pairs_kernel(
    projected,
    weight,
    bias,
    dt_bias,  # (k, h)
    A_log,
    history,
    s, source, products,
    length, batch_stride, row_stride: tl.constexpr, direction_stride: tl.constexpr, heads: tl.constexpr,
    GROUPS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    HEADS: tl.constexpr,  # a power of two
    PIECE: tl.constexpr,  # of the state, for products
    TAPS: tl.constexpr, REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (tile, part, batch and direction); a part is a tile of keys of a group, or dt."""
    i, part, bk = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    tiles = tl.num_programs(0)
    b, k, sign, first = scan_order(bk, 0, length, REVERSE, DIRECTIONS)
    inner: tl.constexpr = heads * P
    channels: tl.constexpr = inner + 2 * GROUPS * N
    within, row = tl.arange(0, TILE), sign * row_stride
    rows = i * TILE + within
    raw = projected + b * batch_stride + k * direction_stride + first * row_stride + inner
    history += b * (TAPS - 1) * channels
    if part < tiles * GROUPS:
        j, group = part // GROUPS, part % GROUPS
        if j <= i:
            dtype = products.dtype.element_ty
            W = tl.zeros((TILE, TILE), tl.float32)
            for piece in tl.range(N // PIECE, num_stages=1):
                key = inner + group * N + piece * PIECE + tl.arange(0, PIECE)
                K = load_conv_silu(raw, row, weight, bias, channels, k, j * TILE, within, key, length, TAPS, history)
                key += GROUPS * N
                Q = load_conv_silu(raw, row, weight, bias, channels, k, i * TILE, within, key, length, TAPS, history)
                W = tl.dot(Q.to(dtype), tl.trans(K.to(dtype)), W, input_precision=PRECISION)
            pair = (bk * GROUPS + group) * (tiles * (tiles + 1) // 2) + i * (i + 1) // 2 + j
            pair_at = pair * TILE * TILE + within[:, None] * TILE + within[None, :]
            tl.store(products + pair_at, W.to(dtype))
    else:
        head = tl.arange(0, HEADS)
        real = (head < heads)[None, :]
        steps = raw + channels + (rows * row)[:, None] + head[None, :]
        step = tl.load(steps, mask=real & (rows < length)[:, None], other=0.0).to(tl.float32)
        step += tl.load(dt_bias + k * heads + head, mask=head < heads, other=0.0)[None, :]
        step = tl.maximum(step, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(step)))  # softplus without overflow
        step = tl.where((rows < length)[:, None], step, 0.0)
        rate = -tl.exp(tl.load(A_log + k * heads + head, mask=head < heads, other=0.0)) * LOG2E
        run = tl.cumsum(step * rate[None, :], 0)
        step_at = (bk * heads + head)[None, :] * (tiles * TILE) + rows[:, None]
        tl.store(s + step_at, run, mask=real)
        tl.store(source + step_at, tl.log2(step) - run, mask=real)  # minus infinity beyond the end


@triton.jit
def tiles_kernel(
    projected, convolved, s, source, products,
    D,
    norm_weight,  # (k, h p), or None: folded into out_proj
    start,
    gated,  # (k PARTS, b, l, h p / PARTS)
    squares,  # (k, b, l, h) float32
    length, batch_stride, row_stride: tl.constexpr, direction_stride: tl.constexpr, heads: tl.constexpr,
    PARTS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    HALF: tl.constexpr,  # of the state; at least 16, so that with N = 16 the second half is empty
    REVERSE: tl.constexpr, DIRECTIONS: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, batch and direction, tile)."""
    head, bk, tiles = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(2)
    i = tiles - 1 - tl.program_id(2)  # those with most to sum begin first
    b, k, sign, first = scan_order(bk, 0, length, REVERSE, DIRECTIONS)
    inner: tl.constexpr = heads * P
    channels: tl.constexpr = inner + 2 * GROUPS * N
    dtype = projected.dtype.element_ty
    within, lower, columns = tl.arange(0, TILE), tl.arange(0, HALF), head * P + tl.arange(0, P)
    rows = i * TILE + within
    inside, token = rows < length, first + sign * rows
    projected += b * batch_stride + k * direction_stride
    convolved += bk * tiles * TILE * channels
    s += (bk * heads + head) * tiles * TILE
    source += (bk * heads + head) * tiles * TILE
    group = head // (heads // GROUPS)
    pair = (bk * GROUPS + group) * (tiles * (tiles + 1) // 2) + i * (i + 1) // 2
    products += pair * TILE * TILE + within[:, None] * TILE + within[None, :]
    values = convolved + within[:, None] * channels + columns[None, :]

    out = tl.zeros((TILE, P), tl.float32)
    between = 0.0  # sum of dt A from a tile on to this one
    for back in range(0, i):
        j = i - 1 - back
        between += tl.load(s + j * TILE + TILE - 1)
        factor = tl.exp2(tl.load(source + j * TILE + within) + between)
        v = tl.load(values + j * TILE * channels).to(tl.float32) * factor[:, None]
        out = tl.dot(tl.load(products + j * TILE * TILE), v.to(dtype), out, input_precision=PRECISION)
    if k == 0:
        at = state_at(b * heads + head, HALF, P, N)
        query = convolved + rows[:, None] * channels + (inner + (GROUPS + group) * N + lower)[None, :]
        upper = HALF + lower < N
        H = (tl.load(start + at) * tl.exp2(between)).to(dtype)
        out = tl.dot(tl.load(query), H, out, input_precision=PRECISION)
        H = (tl.load(start + at + HALF, mask=upper[:, None], other=0.0) * tl.exp2(between)).to(dtype)
        Q = tl.load(query + HALF, mask=upper[None, :], other=0.0)
        out = tl.dot(Q, H, out, input_precision=PRECISION)
    gate = tl.load(projected + token[:, None] * row_stride + columns[None, :], mask=inside[:, None], other=0.0)
    own, own_source = tl.load(s + rows), tl.load(source + rows)
    distance = tl.where(within[:, None] >= within[None, :], own[:, None] + own_source[None, :], float("-inf"))
    W = tl.load(products + i * TILE * TILE).to(tl.float32) * tl.exp2(distance)
    W = tl.where(within[:, None] == within[None, :], W + tl.load(D + k * heads + head), W).to(dtype)
    v = tl.load(values + i * TILE * channels)
    out = tl.dot(W, v, tl.exp2(own)[:, None] * out, input_precision=PRECISION)

    g = out * silu(gate.to(tl.float32), dtype != tl.float32)
    texts, share = tl.num_programs(1) // DIRECTIONS, heads // PARTS  # heads of a part
    tl.store(squares + ((k * texts + b) * length + token) * heads + head, tl.sum(g * g, 1), mask=inside)
    if norm_weight is not None:
        g = g * tl.load(norm_weight + k * inner + columns)[None, :]
    gated += (((k * PARTS + head // share) * texts + b) * length * share + head % share) * P
    to = token[:, None] * (share * P) + tl.arange(0, P)[None, :]
    tl.store(gated + to, g.to(gated.dtype.element_ty), mask=inside[:, None])


@triton.jit
def finish_kernel(
    commit,  # (b,) bool: the rows in which state and history are replaced, or None: the state always, no history
    projected,
    history,
    convolved, s, source,
    start,
    final,  # may be `start`
    length, tiles, batch_stride, row_stride: tl.constexpr, heads: tl.constexpr, channels: tl.constexpr,
    GROUPS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, HALF: tl.constexpr,
    TAPS: tl.constexpr, DIRECTIONS: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
    HISTORY_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Program (part, batch); a part is the state of a head, or a tile of channels of the history."""
    part, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner: tl.constexpr = heads * P
    if commit is not None:  # noqa: SIM102, a branch of the program inside one of the compiler
        if tl.load(commit + b) == 0:
            return
    if part < heads:
        within, lower, columns = tl.arange(0, TILE), tl.arange(0, HALF), part * P + tl.arange(0, P)
        upper = HALF + lower < N
        first = b * DIRECTIONS * tiles * TILE  # row of direction 0
        decay = first * heads + part * tiles * TILE
        rows = convolved + (first + within)[:, None] * channels
        key = inner + part // (heads // GROUPS) * N + lower
        H0 = tl.zeros((HALF, P), tl.float32)
        H1 = tl.zeros((HALF, P), tl.float32)
        after = 0.0  # sum of dt A from a tile on
        for back in range(0, tiles):
            begin = (tiles - 1 - back) * TILE
            after += tl.load(s + decay + begin + TILE - 1)
            factor = tl.exp2(tl.load(source + decay + begin + within) + after)
            v = tl.load(rows + begin * channels + columns[None, :])
            v = (v.to(tl.float32) * factor[:, None]).to(v.dtype)
            K0 = tl.load(rows + begin * channels + key[None, :])
            K1 = tl.load(rows + begin * channels + HALF + key[None, :], mask=upper[None, :], other=0.0)
            H0 = tl.dot(tl.trans(K0), v, H0, input_precision=PRECISION)
            H1 = tl.dot(tl.trans(K1), v, H1, input_precision=PRECISION)
        at = state_at(b * heads + part, HALF, P, N)
        H0 += tl.load(start + at) * tl.exp2(after)
        H1 += tl.load(start + at + HALF, mask=upper[:, None], other=0.0) * tl.exp2(after)
        tl.store(final + at, H0)
        tl.store(final + at + HALF, H1, mask=upper[:, None])
    else:
        column = (part - heads) * HISTORY_CHANNELS + tl.arange(0, HISTORY_CHANNELS)
        real = column < channels
        raw, into = projected + b * batch_stride + inner + column, history + b * (TAPS - 1) * channels + column
        kept = ()
        for t in tl.static_range(TAPS - 1):  # a block may be shorter than the history
            row = b - b + length - (TAPS - 1) + t  # of 64 bits
            limit = tl.where(row >= 0, channels, 0)
            new = tl.load(raw + row * row_stride, mask=real & (column < limit), other=0.0)
            old = tl.load(into + (row + TAPS - 1) * channels, mask=real & (column >= limit), other=0.0)
            kept += (tl.where(row >= 0, new, old.to(new.dtype)).to(history.dtype.element_ty),)
        for t in tl.static_range(TAPS - 1):
            tl.store(into + t * channels, kept[t], mask=real)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def beside(device: torch.device) -> Iterator[Callable[[], None]]:
    """What is launched within runs beside what follows, until the function that this gives is called."""
    if device.type != "cuda":
        yield lambda: None
        return
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield lambda: current.wait_stream(side)


class Weights(NamedTuple):
    """Of the mixer, float32; shapes in mixer.py."""

    conv: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    norm: Tensor | None

    def direction(self, k: int) -> Weights:
        return Weights(*(None if v is None else v[k : k + 1] for v in self))  # type: ignore[arg-type]


def mix_blocks(
    projected: Tensor,
    weights: Weights,
    history: Tensor,
    state: Tensor,
    block_length: int,
    groups: int,
    *,
    in_place: bool = False,
    commit: Tensor | None = None,
    parts: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """g (2, b, l, h p), squares (2, b, l, h) and the state after the last token, of whole blocks.

    projected, history and state contiguous. in_place, with one block only: in the rows where commit (b,) bool is True
    `state` itself, which is returned, becomes the final state, and `history` that after the block; without commit
    nothing is changed. parts, with one block of up to MOST_TILES tiles: g is (2 parts, b, l, h p / parts).
    """
    batch, length = projected.shape[:2]
    if length <= min(block_length, MOST_TILES * CHUNK):
        return _tiles(projected, weights, history, state, groups, in_place, commit, parts)
    size = min(block_length, length)
    forward, reverse = projected[:, :, :1], projected[:, :, 1:].unflatten(1, (-1, size)).flatten(0, 1)
    options: Any = {"start": state[:, None], "history": history, "want_final": True}
    done = _scanned(forward, weights.direction(0), groups, BOTH[:1], **options)
    back = _scanned(reverse, weights.direction(1), groups, BOTH[1:])
    assert done.gated is not None and back.gated is not None and done.final is not None
    assert done.squares is not None and back.squares is not None
    squares = torch.stack([v[:, 0].mT.reshape(batch, length, -1) for v in (done.squares, back.squares)])
    final = done.final[:, 0]
    if commit is not None:
        inner, taps = _sizes(projected, weights, groups)[0], history.shape[1]
        last = projected[:, length - taps :, 0, inner : inner + history.shape[2]].to(history.dtype)
        history.copy_(torch.where(commit[:, None, None], last, history))
        state.copy_(torch.where(commit[:, None, None, None], final, state))
    g = torch.cat([done.gated, back.gated.view(done.gated.shape)])
    return g, squares, state if in_place else final


def _scanned(projected: Tensor, w: Weights, groups: int, reverse: tuple[bool, ...], **options: Any) -> Scanned:
    """prepare and scan, as for a whole text."""
    inner, heads, headdim, state = _sizes(projected, w, groups)
    B, C, dt = prepare(
        projected, w.conv, w.conv_bias, w.dt_bias, heads, headdim, groups, state, reverse, options.get("history")
    )
    z, x = (projected[..., i * inner : (i + 1) * inner].unflatten(3, (heads, -1)) for i in (0, 1))
    A, conv, gate = -torch.exp(w.A_log), (w.conv, w.conv_bias), (z, w.norm)
    return scan_chunks(x, B, C, dt, A, w.D, reverse, conv=conv, gate=gate, want_y=False, **options)


def _tiles(
    projected: Tensor,
    w: Weights,
    history: Tensor,
    state: Tensor,
    groups: int,
    in_place: bool,
    commit: Tensor | None,
    parts: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, count, _ = projected.shape
    inner, heads, headdim, n = _sizes(projected, w, groups)
    tile, channels = min(CHUNK, max(MIN_TILE, triton.next_power_of_2(length))), w.conv_bias.shape[1]
    tiles = triton.cdiv(length, tile)
    convolved = projected.new_empty((batch, count, tiles * tile, channels))
    s, source = state.new_empty((2, batch, count, heads, tiles * tile))
    products = projected.new_empty((batch, count, groups, tiles * (tiles + 1) // 2, tile, tile))
    made = convolved, s, source, products
    wide = max(size for size in (16, 32, 64, CHANNELS) if channels % size == 0)
    options: dict[str, Any] = {"GROUPS": groups, "P": headdim, "N": n, "TILE": tile, **directions(BOTH)}
    options["PRECISION"] = precision(projected.dtype, min(n, headdim, tile))
    sizes = length, *projected.stride()[:3], heads
    taps = w.conv.shape[1]
    with beside(projected.device) as join:
        pairs_kernel[(tiles, 1 + tiles * groups, batch * count)](
            projected, w.conv, w.conv_bias, w.dt_bias, w.A_log, history, *made[1:], *sizes, **options,
            HEADS=triton.next_power_of_2(heads), PIECE=min(n, PIECE), TAPS=taps, num_warps=8
        )  # fmt: skip
    inputs_kernel[(tiles, channels // wide, batch * count)](
        projected, w.conv, w.conv_bias, history, convolved, *sizes[:4], inner, channels,
        CHANNELS=wide, TAPS=taps, TILE=tile, **directions(BOTH), num_warps=WARPS
    )  # fmt: skip
    join()
    g = projected.new_empty((count * parts, batch, length, inner // parts))
    squares = state.new_empty((count, batch, length, heads))
    options |= {"HALF": max(MIN_TILE, n // 2), "num_stages": STAGES, "num_warps": 4}
    # Of 16 bits on Hopper a limit costs no spill, and four programs share a multiprocessor: 512 run at once.
    limit = {"maxnreg": 128} if on_hopper() and projected.dtype != torch.float32 else {}
    inputs_of = projected, *made, w.D, w.norm, state, g, squares
    tiles_kernel[(heads, batch * count, tiles)](*inputs_of, *sizes, PARTS=parts, **options, **limit)
    if in_place and commit is None:
        return g, squares, state
    final = state if in_place else torch.empty_like(state)
    del options["REVERSE"], options["num_stages"]
    programs = heads + (0 if commit is None else triton.cdiv(channels, HISTORY_CHANNELS))
    finish_kernel[(programs, batch)](
        commit, projected, history, *made[:3], state, final, length, tiles, *projected.stride()[:2], heads, channels,
        **options, TAPS=taps, HISTORY_CHANNELS=HISTORY_CHANNELS
    )  # fmt: skip
    return g, squares, final


def _sizes(projected: Tensor, w: Weights, groups: int) -> tuple[int, int, int, int]:
    """Channels of z, heads, headdim and state."""
    heads, channels = w.D.shape[1], w.conv_bias.shape[1]
    inner = projected.shape[3] - channels - heads
    return inner, heads, inner // heads, (channels - inner) // (2 * groups)
