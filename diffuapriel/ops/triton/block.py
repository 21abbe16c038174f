"""The mixer over blocks: the forward direction goes on from a state, the reverse one is confined to each block.

    y_t = C_t h_t + D x_t,   h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T    forward from h_{s-1} = the given state, over
                                                                           all blocks; in reverse from 0 in each

A block of at most CHUNK tokens is one chunk and one launch. Its program computes all that its head needs from
in_proj's output, B and C included, which the heads of a group share: with so few tokens that costs less than a launch.
A longer block takes the two launches of a whole text (scan.py). Several blocks, as in a prompt, take two for each
direction, the reverse one with a block in place of a text.

    projected  (b, l, k, z x B C dt)    history  (b, taps - 1, x B C) before the first token, forward direction
    state      (b, h, p, n) float32     g, squares  as in mixer.py, but squares of each head, (b, k, h, l)

Plain twin: `BidirectionalMamba2.forward_blocks` in model/mamba2.py.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.conv import load_conv_silu, scan_order, silu
from diffuapriel.ops.triton.launch import BOTH, CHUNK, MIN_TILE, directions, precision
from diffuapriel.ops.triton.scan import LOG2E, Scanned, prepare, scan_chunks, state_at


@triton.jit
def block_kernel(
    projected,
    weight,  # of the convolution, (k, taps, channels)
    bias,
    dt_bias,  # (k, h)
    A_log,
    D,
    norm_weight,  # (k, h p), or None: folded into out_proj
    history,
    commit,  # (b,) bool: whether the row's final state is stored, or None: always
    start,
    final,  # may be `start`
    gated,  # (k, b, l, h p)
    squares,  # (b, k, h, l) float32
    length,
    batch_stride,
    row_stride: tl.constexpr,
    direction_stride: tl.constexpr,
    heads: tl.constexpr,
    GROUPS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    HALF: tl.constexpr,  # of the state; at least 16, so that with N = 16 the second half is empty
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (head, batch and direction): a text of at most CHUNK tokens."""
    head, bk = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, k, sign, first = scan_order(bk, 0, length, REVERSE, DIRECTIONS)
    inner: tl.constexpr = heads * P
    channels: tl.constexpr = inner + 2 * GROUPS * N
    row: tl.constexpr = row_stride
    dtype = projected.dtype.element_ty
    within, lower = tl.arange(0, CHUNK), tl.arange(0, HALF)
    columns, inside = head * P + tl.arange(0, P), within < length
    projected += b * batch_stride + k * direction_stride + first * row
    history += b * (TAPS - 1) * channels

    step = tl.load(projected + inner + channels + head + sign * within * row, mask=inside, other=0.0).to(tl.float32)
    step += tl.load(dt_bias + k * heads + head)
    step = tl.maximum(step, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(step)))  # softplus without overflow
    step = tl.where(inside, step, 0.0)
    gate = tl.load(projected + (sign * within * row)[:, None] + columns[None, :], mask=inside[:, None], other=0.0)

    raw, stride = projected + inner, sign * row
    key = inner + head // (heads // GROUPS) * N + lower
    # With N = 16 the upper half is read from the lower one and dropped.
    upper_key = key + (HALF if N > HALF else 0)
    upper = (HALF + lower < N)[None, :]
    v = load_conv_silu(raw, stride, weight, bias, channels, k, 0, within, columns, length, TAPS, history)
    K0 = load_conv_silu(raw, stride, weight, bias, channels, k, 0, within, key, length, TAPS, history).to(dtype)
    K1 = load_conv_silu(raw, stride, weight, bias, channels, k, 0, within, upper_key, length, TAPS, history)
    K1 = tl.where(upper, K1, 0.0).to(dtype)
    key += GROUPS * N
    upper_key += GROUPS * N
    Q0 = load_conv_silu(raw, stride, weight, bias, channels, k, 0, within, key, length, TAPS, history).to(dtype)
    Q1 = load_conv_silu(raw, stride, weight, bias, channels, k, 0, within, upper_key, length, TAPS, history)
    Q1 = tl.where(upper, Q1, 0.0).to(dtype)

    at, states = state_at(b, k, head, heads, HALF, P, N, DIRECTIONS, True)
    H0 = tl.load(start + at, mask=lower[:, None] < states, other=0.0)
    H1 = tl.load(start + at + HALF, mask=HALF + lower[:, None] < states, other=0.0)
    decay = step * (-tl.exp(tl.load(A_log + k * heads + head)) * LOG2E)
    s, s_end = tl.cumsum(decay, 0), tl.sum(decay, 0)  # in powers of two
    source = s - tl.log2(step)  # infinite for a token without a step (beyond the end)
    distance = tl.where(within[:, None] >= within[None, :], s[:, None] - source[None, :], float("-inf"))
    W = tl.dot(Q0, tl.trans(K0), input_precision=PRECISION)
    W = tl.dot(Q1, tl.trans(K1), W, input_precision=PRECISION) * tl.exp2(distance)
    W = tl.where(within[:, None] == within[None, :], W + tl.load(D + k * heads + head), W).to(dtype)
    out = tl.dot(Q0, H0.to(dtype), input_precision=PRECISION)
    out = tl.dot(Q1, H1.to(dtype), out, input_precision=PRECISION)
    out = tl.dot(W, v.to(dtype), tl.exp2(s)[:, None] * out, input_precision=PRECISION)

    g = out * silu(gate.to(tl.float32), dtype != tl.float32)
    token = first + sign * within
    tl.store(squares + (bk * heads + head) * length + token, tl.sum(g * g, 1), mask=inside)
    if norm_weight is not None:
        g = g * tl.load(norm_weight + k * inner + columns)[None, :]
    to = ((k * (tl.num_programs(1) // DIRECTIONS) + b) * length + token)[:, None] * inner + columns[None, :]
    tl.store(gated + to, g.to(gated.dtype.element_ty), mask=inside[:, None])

    if commit is not None:
        states = tl.where(tl.load(commit + b) != 0, states, 0)
    v = (v * (tl.exp2(s_end - s) * step)[:, None]).to(dtype)
    H0 = tl.dot(tl.trans(K0), v, H0 * tl.exp2(s_end), input_precision=PRECISION)
    H1 = tl.dot(tl.trans(K1), v, H1 * tl.exp2(s_end), input_precision=PRECISION)
    tl.store(final + at, H0, mask=lower[:, None] < states)
    tl.store(final + at + HALF, H1, mask=HALF + lower[:, None] < states)


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
    commit: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """g (2, b, l, h p), squares (b, 2, h, l) and the state after the last token, of whole blocks.

    projected, history and state contiguous. commit (b,) bool, with one block only: `state` itself becomes, in the rows
    where it is True, the final state, and is returned.
    """
    length = projected.shape[1]
    if length <= min(block_length, CHUNK):
        return _one_chunk(projected, weights, history, state, groups, commit)
    if length <= block_length:
        options: Any = {"start": state, "history": history, "want_final": commit is None}
        options |= {"into": None if commit is None else state, "commit": commit}
        done = _scanned(projected, weights, groups, BOTH, **options)
        assert done.gated is not None and done.squares is not None and done.final is not None
        return done.gated, done.squares, done.final
    assert commit is None, "a state is replaced after one block"
    forward, reverse = projected[:, :, :1], projected[:, :, 1:].unflatten(1, (-1, block_length)).flatten(0, 1)
    options = {"start": state, "history": history, "want_final": True}
    done = _scanned(forward, weights.direction(0), groups, BOTH[:1], **options)
    back = _scanned(reverse, weights.direction(1), groups, BOTH[1:])
    assert done.gated is not None and back.gated is not None and done.final is not None
    assert done.squares is not None and back.squares is not None
    squares = back.squares.unflatten(0, (projected.shape[0], -1)).permute(0, 2, 3, 1, 4).flatten(3)  # (b, 1, h, l)
    return (
        torch.cat([done.gated, back.gated.view(done.gated.shape)]),
        torch.cat([done.squares, squares], 1),
        done.final,
    )


def _scanned(projected: Tensor, w: Weights, groups: int, reverse: tuple[bool, ...], **options: Any) -> Scanned:
    """prepare and scan, as for a whole text."""
    heads = w.D.shape[1]
    inner, keys = _sizes(projected, w)
    sizes = heads, inner // heads, groups, keys // groups
    history = options.get("history")
    B, C, dt = prepare(projected, w.conv, w.conv_bias, w.dt_bias, *sizes, reverse, history)
    z, x = (projected[..., i * inner : (i + 1) * inner].unflatten(3, (heads, -1)) for i in (0, 1))
    conv, gate = (w.conv, w.conv_bias), (z, w.norm)
    return scan_chunks(x, B, C, dt, w.A_log, w.D, reverse, conv=conv, gate=gate, want_y=False, log_A=True, **options)


def _one_chunk(
    projected: Tensor, w: Weights, history: Tensor, state: Tensor, groups: int, commit: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, count, _ = projected.shape
    heads, (inner, keys) = w.D.shape[1], _sizes(projected, w)
    n, chunk = keys // groups, max(MIN_TILE, triton.next_power_of_2(length))
    g = projected.new_empty((count, batch, length, inner))
    squares = state.new_empty((batch, count, heads, length))
    final = torch.empty_like(state) if commit is None else state
    inputs = projected, w.conv, w.conv_bias, w.dt_bias, w.A_log, w.D, w.norm, history, commit, state
    sizes = length, *projected.stride()[:3], heads
    options: dict[str, Any] = {"GROUPS": groups, "P": inner // heads, "N": n, "HALF": max(MIN_TILE, n // 2)}
    options |= {"TAPS": w.conv.shape[1], "CHUNK": chunk, **directions(BOTH)}
    options["PRECISION"] = precision(projected.dtype, min(n, chunk))
    warps = 8 if chunk * n > 32 * 128 else 4  # with 4 they would spill many registers
    block_kernel[(heads, batch * count)](*inputs, final, g, squares, *sizes, **options, num_warps=warps)
    return g, squares, final


def _sizes(projected: Tensor, w: Weights) -> tuple[int, int]:
    """Channels of z, h p, and of B, g n."""
    inner = projected.shape[3] - w.conv_bias.shape[1] - w.D.shape[1]
    return inner, (w.conv_bias.shape[1] - inner) // 2
