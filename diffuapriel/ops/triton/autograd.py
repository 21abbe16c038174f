"""The `triton` backend of the scan, and both backward passes: of the scan alone, and of the whole mixer.

The forward scan runs both directions in one launch of `scan_kernel` (scan.py). A Mamba-2 mixer does not come this way:
mixer.py adds convolution, gate and norm to the same kernels. The backward pass of the mixer:

    gate -> recompute x -> states H, gradients of states G -> scan, chunk by chunk -> convolution, softplus

Every kernel writes its channels of one tensor, the gradient of `projected`, and together they fill all of it. Memory
traffic per token and direction, in units of one d_inner vector in bfloat16 (8 KB at the 1.3b preset):

    gate      dg, y, z -> dy, dz                     5
    x         raw -> x                               2
    states    x -> H, dy -> G                        2 + 2 state / 64 tokens of a chunk
    scan      dy, H, G;  x, G -> dx;  x, dy, dx      7 + 3 state / 64
    conv      dx, raw -> draw                        3

A short text (`is_short`) has no states, and x is kept from the forward pass: x, dy -> dx is all of its scan.

Plain twins: `_backward` in chunked.py, and autograd through the plain mixer in model/mamba2.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton.backward import gate_backward, running_sums, scan_backward, step_gradients
from diffuapriel.ops.triton.chunk import text_backward
from diffuapriel.ops.triton.conv import conv_backward, convolve
from diffuapriel.ops.triton.launch import BOTH, CHUNK, is_short, unsupported_reason
from diffuapriel.ops.triton.scan import scan_chunks, walk_states


def scan(inputs: ScanInputs, reverse: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """The scan of every direction, without document ids; shapes in `ScanInputs`.

    Raises ValueError if the kernels cannot run.
    """
    x, dt, A, B, C, D, initial_state = inputs
    reason = unsupported_reason(x, x.shape[-1], B.shape[-1])
    if reason:
        raise ValueError(f"SSD backend 'triton' cannot run: {reason}")
    x, B, C = x.contiguous(), B.to(x.dtype).contiguous(), C.to(x.dtype).contiguous()
    dt = dt.float().permute(0, 2, 3, 1).contiguous()  # (b, k, h, l)
    return _Scan.apply(reverse, x, dt, A.float(), B, C, D.float(), initial_state.float().contiguous())


class _Scan(torch.autograd.Function):
    """Arguments as in `ScanInputs`, but dt (b, k, h, l)."""

    @staticmethod
    def forward(ctx: Any, reverse: tuple[bool, ...], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, A, B, C, D, start = inputs
        done = scan_chunks(x, B, C, dt, A, D, reverse, start=start, want_final=True)
        assert done.y is not None and done.final is not None
        ctx.save_for_backward(*inputs)
        ctx.reverse = reverse
        return done.y, done.final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        dy = dy.to(inputs[0].dtype).contiguous()
        return None, *scan_gradients(dy, dfinal.contiguous(), ScanInputs(*inputs), ctx.reverse)


def scan_gradients(dy: Tensor, dfinal: Tensor, inputs: ScanInputs, reverse: tuple[bool, ...]) -> ScanInputs:
    """The gradient of each input: of x, B and C in their dtype, of the others float32.

    dy, shaped and typed as x; dfinal (b, k, h, p, n) float32. Inputs as in `ScanInputs`, but dt (b, k, h, l); x, B and
    C of one dtype, the others float32; all contiguous.
    """
    x, dt, A, B, C, D, start = inputs
    entering, _ = walk_states(x, B, dt, A, start, reverse)
    leaving, dstart = walk_states(dy, C, dt, A, dfinal, reverse, backward=True, want_final=True)
    assert dstart is not None
    got = scan_backward(x, dy, B, C, dt, A, D, (entering, leaving), reverse)
    keys = B.shape[3] * B.shape[4]
    dx, dB, dC = got.xBC.split([got.xBC.shape[3] - 2 * keys, keys, keys], 3)
    dB, dC = dB.unflatten(3, B.shape[3:]), dC.unflatten(3, C.shape[3:])
    dx = dx.unflatten(3, x.shape[3:])
    return ScanInputs(dx, got.ddt, got.dA, dB, dC, got.dD, dstart.transpose(-1, -2))


class MixerGradients(NamedTuple):
    """projected in its dtype, the parameters float32. A itself, not its logarithm."""

    projected: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    norm_weight: Tensor


def mixer_gradients(
    dg: Tensor, dsquares: Tensor, projected: Tensor, kept: Sequence[Tensor], parameters: Sequence[Tensor]
) -> MixerGradients:
    """The mixer's backward pass, from dg (k, b, l, h p) and dsquares (k, b, l) float32.

    projected (b, l, k, z x B C dt). kept, from the forward pass: y and, of a short text, x after the convolution
    (b, l, k, h, p), B and C (b, l, k, g, n) and dt (b, k, h, l) float32. parameters: conv_weight, conv_bias, A, D and
    norm_weight as in `mixer`, float32, but A (k, h) itself. All contiguous.
    """
    y, x, B, C, dt = kept
    conv_weight, conv_bias, A, D, norm_weight = parameters
    inner, channels, heads = norm_weight.shape[1], conv_bias.shape[1], A.shape[1]
    z, xBC, _ = projected.split([inner, channels, heads], 3)
    gradient = torch.empty_like(projected)
    dz, draw, draw_dt = gradient.split([inner, channels, heads], 3)

    into = draw_dt.permute(0, 2, 3, 1)  # (b, k, h, l)
    dy, dnorm = gate_backward(dg, dsquares, y, z, norm_weight, dz)
    if is_short(y.shape[1], y.shape[4], B.shape[4]):
        s = running_sums(dt, A, BOTH, CHUNK)
        dxBC, sums, sides = text_backward(dy, x, B, C, dt, s, D)
        dA, dD, ddt_bias = step_gradients(dt, A, sums, sides, BOTH, into, softplus=True)
    else:
        x = convolve(xBC[..., :inner], conv_weight, conv_bias, BOTH).view(y.shape)
        entering, _ = walk_states(x, B, dt, A, None, BOTH)
        leaving, _ = walk_states(dy, C, dt, A, None, BOTH, backward=True)
        got = scan_backward(x, dy, B, C, dt, A, D, (entering, leaving), BOTH, before_softplus=into)
        dxBC, dA, dD, ddt_bias = got.xBC, got.dA, got.dD, got.dt_bias
    dweight, dbias = conv_backward(dxBC, xBC, conv_weight, conv_bias, BOTH, draw)
    return MixerGradients(gradient, dweight, dbias, ddt_bias, dA, dD, dnorm)
