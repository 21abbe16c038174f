"""What surrounds the masked products of a folded pass: the short convolution with its SiLU, and gate and norm.

The first half of the rows are clean texts, the second half corrupted copies whose blocks see the clean ones before.
With S tokens in a block and r the raw channels, i and what follows in scan order (conv.py),

    a_i = bias + sum_d w_d read_d(i)        x_i = SiLU(a_i)         d = 0 .. taps - 1, back from i
    read_d(i)   r_(i - d) of the own row where i - d is in the block of i, that is i mod S >= d; else
                forward      r_(i - d) of the clean row, and of the history before the text
                in reverse   0

    dr_i = sum_d w_d da_(i + d)     over all that read it: of a clean token also corrupted ones, in later blocks

Plain twin: `block_convolution` in model/mamba2.py, and the SiLU after it. Gate and norm are those of `mixer`, for any
rows: g and squares of mixer.py. For torch.compile each is one opaque operator.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def convolve_blocks(x: Tensor, weight: Tensor, bias: Tensor, history: Tensor, block_length: int) -> Tensor:
    """SiLU of `block_convolution` of 2 streams, (rows, length, 2, channels) contiguous.

    x (rows, length, 2, channels), last axis contiguous; history (texts, taps - 1, channels).
    """
    history = history.to(x.dtype).contiguous()
    return _convolve(x, weight.float().contiguous(), bias.float().contiguous(), history, block_length)


@torch.library.custom_op("diffuapriel::convolve_blocks", mutates_args=())
def _convolve(x: Tensor, weight: Tensor, bias: Tensor, history: Tensor, block_length: int) -> Tensor:
    from diffuapriel.ops.triton.conv import convolve
    from diffuapriel.ops.triton.launch import BOTH

    return convolve(_rows(x), weight, bias, BOTH, history, block_length)


@_convolve.register_fake
def _(x, weight, bias, history, block_length):
    return x.new_empty(x.shape)


@torch.library.custom_op("diffuapriel::convolve_blocks_backward", mutates_args=())
def _convolve_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, history: Tensor, block_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, contiguous, weight, bias and history."""
    from diffuapriel.ops.triton.conv import blocks_backward

    return blocks_backward(_rows(dy), _rows(x), weight, bias, history, block_length)


@_convolve_backward.register_fake
def _(dy, x, weight, bias, history, block_length):
    return x.new_empty(x.shape), torch.empty_like(weight), torch.empty_like(bias), torch.empty_like(history)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _keep_for_convolution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.block_length = inputs[4]


def _convolution_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_convolve_backward(dy, *ctx.saved_tensors, ctx.block_length), None


_convolve.register_autograd(_convolution_gradients, setup_context=_keep_for_convolution)


def gate(y: Tensor, z: Tensor, norm_weight: Tensor) -> tuple[Tensor, Tensor]:
    """g (2, rows, length, d_inner) in y's dtype and squares (2, rows, length) float32.

    y and z (rows, length, 2, d_inner), z with its last axis contiguous; norm_weight (2, d_inner).
    """
    return _gate(y.contiguous(), z, norm_weight.float().contiguous())


@torch.library.custom_op("diffuapriel::gate", mutates_args=())
def _gate(y: Tensor, z: Tensor, norm_weight: Tensor) -> tuple[Tensor, Tensor]:
    from diffuapriel.ops.triton.gate import gate

    return gate(y, _rows(z), norm_weight)


@_gate.register_fake
def _(y, z, norm_weight):
    rows, length, count, channels = z.shape
    return y.new_empty(count, rows, length, channels), norm_weight.new_empty(count, rows, length)


@torch.library.custom_op("diffuapriel::gate_backward", mutates_args=())
def _gate_backward(
    dg: Tensor, dsquares: Tensor, y: Tensor, z: Tensor, norm_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y and z, contiguous, and norm_weight."""
    from diffuapriel.ops.triton.backward import gate_backward

    dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    dy, dweight = gate_backward(dg.contiguous(), dsquares.contiguous(), y, _rows(z), norm_weight, dz)
    return dy, dz, dweight


@_gate_backward.register_fake
def _(dg, dsquares, y, z, norm_weight):
    return torch.empty_like(y), z.new_empty(z.shape), torch.empty_like(norm_weight)


def _keep_for_gate(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _gate_gradients(ctx: Any, dg: Tensor, dsquares: Tensor) -> tuple[Tensor, ...]:
    return _gate_backward(dg, dsquares, *ctx.saved_tensors)


_gate.register_autograd(_gate_gradients, setup_context=_keep_for_gate)
