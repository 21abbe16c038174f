"""The whole bidirectional mixer between in_proj and out_proj, by our kernels.

    projected -> prepare -> (states of the splits) -> scan -> g, squares

Plain twin: `BidirectionalMamba2._plain` in model/mamba2.py, with one difference of order. The gated RMSNorm scales each
token of a direction by a scalar, which commutes with out_proj. So the kernels return g = y SiLU(z) times the norm's
weight (unless out_proj has it) and the sum of (y SiLU(z))^2, and the scaling follows out_proj, where a token has
d_model numbers instead of 2 d_inner.

    projected  (b, l, 2 (z x B C dt))       output of in_proj, bfloat16 or float32
    g          (2, b, l, d_inner)           in the same dtype
    squares    (2, b, l)                    float32

For torch.compile the mixer is one opaque operator, so everything that needs Triton is imported at the call.

`block_mixer` is the mixer of a pass over blocks (block.py), without gradients, `mix_in_place` that of a recorded one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffuapriel.ops.triton.launch import BOTH, is_short, multiprocessors


def mixer(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor | None,
    *,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """g (2, b, l, d_inner) and squares (2, b, l), forward and backward.

    conv_weight (2, taps, channels of x B C), conv_bias (2, channels), dt_bias, A_log and D (2, heads), norm_weight
    (2, d_inner), or None if it is folded into out_proj (without gradients only); converted to float32.
    The plain mixer's output is g / sqrt(squares / d_inner + eps).
    """
    parameters = _in_float32(conv_weight, conv_bias, dt_bias, A_log, D, norm_weight)
    g, squares, *_ = _mixer(projected.contiguous(), *parameters, groups, torch.is_grad_enabled())
    return g, squares


def _in_float32(*parameters: Tensor | None) -> list[Any]:
    return [None if v is None else v.float() for v in parameters]


def _sizes(projected: Tensor, conv_bias: Tensor, A_log: Tensor) -> tuple[int, int, int]:
    """heads, headdim, and keys = groups x state."""
    heads, conv_channels = A_log.shape[1], conv_bias.shape[1]
    inner = projected.shape[2] // 2 - conv_channels - heads  # of a direction, x B C and dt leave z
    return heads, inner // heads, (conv_channels - inner) // 2


@torch.library.custom_op("diffuapriel::mixer", mutates_args=())
def _mixer(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor | None,
    groups: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """g, squares, and for the backward pass y (b, l, 2, h, p), x as y (of a short text, else empty), B and C
    (b, l, 2, g, n), dt (b, 2, h, l)."""
    from diffuapriel.ops.triton.chunk import text_forward
    from diffuapriel.ops.triton.conv import convolve
    from diffuapriel.ops.triton.scan import prepare, scan_chunks

    heads, headdim, keys = _sizes(projected, conv_bias, A_log)
    inner = heads * headdim
    both = projected.unflatten(2, (2, -1))  # (b, l, 2, z x B C dt)
    B, C, dt = prepare(both, conv_weight, conv_bias, dt_bias, heads, headdim, groups, keys // groups)
    z, x = (both[..., i * inner : (i + 1) * inner].unflatten(3, (heads, headdim)) for i in (0, 1))
    conv, rest = (conv_weight, conv_bias), (B, C, dt, -torch.exp(A_log), D)
    convolved = projected.new_empty(0)
    fills = 2 * len(x) * groups >= multiprocessors(x.device)
    if is_short(x.shape[1], headdim, keys // groups) and (keep or fills):
        convolved = convolve(both[..., inner : 2 * inner], *conv, BOTH).view(x.shape)
        y, gated, squares = text_forward(z.flatten(3), (convolved, *rest), norm_weight, keep)
    else:
        y, gated, squares, _ = scan_chunks(x, *rest, BOTH, conv=conv, gate=(z, norm_weight), want_y=keep)
    assert gated is not None and squares is not None
    squares = squares.sum(2).transpose(0, 1).contiguous()
    nothing = [projected.new_empty(0) for _ in range(5)]
    kept = [y, convolved, B, C, dt] if y is not None else nothing
    return gated, squares, kept[0], kept[1], kept[2], kept[3], kept[4]


@_mixer.register_fake
def _(projected, conv_weight, conv_bias, dt_bias, A_log, D, norm_weight, groups, keep):
    heads, headdim, keys = _sizes(projected, conv_bias, A_log)
    batch, length = projected.shape[:2]
    g = projected.new_empty(2, batch, length, heads * headdim)
    squares = projected.new_empty(2, batch, length, dtype=torch.float32)
    if not keep:
        return g, squares, *(projected.new_empty(0) for _ in range(5))
    B = projected.new_empty(batch, length, 2, groups, keys // groups)
    y = projected.new_empty(batch, length, 2, heads, headdim)
    dt = projected.new_empty(batch, 2, heads, length, dtype=torch.float32)
    x = torch.empty_like(y) if is_short(length, headdim, keys // groups) else projected.new_empty(0)
    return g, squares, y, x, B, torch.empty_like(B), dt


@torch.library.custom_op("diffuapriel::mixer_backward", mutates_args=())
def _mixer_backward(
    dg: Tensor,
    dsquares: Tensor,
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    y: Tensor,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `projected`, conv_weight, conv_bias, dt_bias, A_log, D and norm_weight."""
    from diffuapriel.ops.triton.autograd import mixer_gradients

    A, both = -torch.exp(A_log), projected.unflatten(2, (2, -1))
    kept, parameters = (y, x, B, C, dt), (conv_weight, conv_bias, A, D, norm_weight)
    got = mixer_gradients(dg.contiguous(), dsquares.contiguous(), both, kept, parameters)
    dA_log = got.A * A  # A = -exp(A_log) is its own derivative
    small = got.conv_weight, got.conv_bias, got.dt_bias, dA_log, got.D, got.norm_weight
    dw, db, ddt_bias, dA_log, dD, dnorm = (v.clone() for v in small)  # results must not share memory
    return got.projected.flatten(2), dw, db, ddt_bias, dA_log, dD, dnorm


@_mixer_backward.register_fake
def _(dg, dsquares, projected, conv_weight, conv_bias, A_log, D, norm_weight, *kept):
    like = (projected, conv_weight, conv_bias, A_log, A_log, D, norm_weight)
    return tuple(torch.empty_like(v) for v in like)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    projected, conv_weight, conv_bias, _, A_log, D, norm_weight, _, _ = inputs
    ctx.save_for_backward(projected, conv_weight, conv_bias, A_log, D, norm_weight, *output[2:])


def _gradients(ctx: Any, dg: Tensor, dsquares: Tensor, *kept: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_mixer_backward(dg, dsquares, *ctx.saved_tensors), None, None


_mixer.register_autograd(_gradients, setup_context=_keep)


def mix_in_place(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor | None,
    *,
    state: Tensor,
    history: Tensor,
    commit: Tensor | None,
    groups: int = 1,
    parts: int = 1,
) -> tuple[Tensor, Tensor]:
    """As `block_mixer` for one block, whose state and history, contiguous, become those after it in the rows where
    commit (b,) bool is True: g (2 parts, b, l, d_inner / parts), and squares (2, b, l, heads), still to be summed over
    the heads. parts: 1 for a block of more than 512 tokens."""
    from diffuapriel.ops.triton.block import Weights, mix_blocks

    weights = Weights(*_in_float32(conv_weight, conv_bias, dt_bias, A_log, D, norm_weight))
    both = projected.contiguous().unflatten(2, (2, -1))
    options: Any = {"in_place": True, "commit": commit, "parts": parts}
    return mix_blocks(both, weights, history, state, both.shape[1], groups, **options)[:2]


def block_mixer(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor | None,
    *,
    state: Tensor,
    history: Tensor,
    block_length: int,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """g and squares as `mixer`, and the forward state after the last token, of whole blocks; forward only.

    The forward direction goes on from state (b, heads, headdim, d_state) float32 and history (b, taps - 1, channels),
    the inputs of its convolution; the reverse one is confined to each block of `block_length` tokens.
    """
    parameters = _in_float32(conv_weight, conv_bias, dt_bias, A_log, D, norm_weight)
    before = history.contiguous(), state.float().contiguous()
    return _block_mixer(projected.contiguous(), *parameters, *before, block_length, groups)


@torch.library.custom_op("diffuapriel::block_mixer", mutates_args=())
def _block_mixer(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor | None,
    history: Tensor,
    state: Tensor,
    block_length: int,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """g, squares and the final state."""
    from diffuapriel.ops.triton.block import Weights, mix_blocks

    weights = Weights(conv_weight, conv_bias, dt_bias, A_log, D, norm_weight)
    g, squares, final = mix_blocks(projected.unflatten(2, (2, -1)), weights, history, state, block_length, groups)
    return g, squares.sum(3), final


@_block_mixer.register_fake
def _(projected, conv_weight, conv_bias, dt_bias, A_log, D, norm_weight, history, state, block_length, groups):
    heads, headdim, _ = _sizes(projected, conv_bias, A_log)
    batch, length = projected.shape[:2]
    g = projected.new_empty(2, batch, length, heads * headdim)
    return g, projected.new_empty(2, batch, length, dtype=torch.float32), torch.empty_like(state)
