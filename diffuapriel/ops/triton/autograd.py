"""Both backward passes over our kernels: of the scan alone, and of the whole mixer between in_proj and out_proj.

    mixer   gate -> x once more -> states H, gradients of states G -> scan, chunk by chunk -> convolution, softplus

Every kernel of the mixer writes its channels of one tensor, the gradient of `projected`, and fills all of it. What a
token costs in memory traffic, a direction, in units of one d_inner vector in bfloat16 (8 KB at the 1.3b preset):

    gate      dg, y, z -> dy, dz                     5
    x         raw -> x                               2
    states    x -> H, dy -> G                        2 + 2 state / 64 tokens of a chunk
    scan      dy, H, G;  x, G -> dx;  x, dy, dx      7 + 3 state / 64
    conv      dx, raw -> draw                        3

A short text is one chunk and has no states: x, dy -> dx is all of its scan.

Plain twins: `_backward` in chunked.py, and what autograd makes of the plain mixer in model/mamba2.py.

The `triton` backend of the scan: our kernels behind the interface of the other backends.

Both directions run in one launch of `scan_kernel`, forward, and of three kernels, backward. A Mamba-2 mixer does not
come this way: mixer.py hands the same kernels its convolution, gate and norm as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton.backward import SHORT, gate_backward, scan_backward
from diffuapriel.ops.triton.conv import conv_backward, convolve
from diffuapriel.ops.triton.launch import unsupported_reason
from diffuapriel.ops.triton.scan import walk_states


class ScanGradients(NamedTuple):
    """Of each argument of the scan, in its shape: B, C and x in x's dtype, the others float32."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    start: Tensor


class MixerGradients(NamedTuple):
    """projected in its dtype, the parameters float32; A, not its logarithm."""

    projected: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    norm_weight: Tensor


def scan_gradients(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    start: Tensor,
    reverse: tuple[bool, ...],
) -> ScanGradients:
    """The scan's backward pass, from dy (b, l, k, h, p) and dfinal (b, k, h, p, n) float32.

    x, dy (b, l, k, h, p), B and C (b, l, k, g, n) of one dtype; dt (b, k, h, l), A and D (k, h) and start
    (b, k, h, p, n) float32; all contiguous.
    """
    entering, _ = walk_states(x, B, dt, A, start, reverse)
    leaving, dstart = walk_states(dy, C, dt, A, dfinal, reverse, backward=True, want_final=True)
    assert dstart is not None
    got = scan_backward(x, dy, B, C, dt, A, D, (entering, leaving), reverse)
    written = B.shape[3] * B.shape[4]
    dx, dB, dC = got.xBC.split([got.xBC.shape[3] - 2 * written, written, written], 3)
    dB, dC = dB.unflatten(3, B.shape[3:]), dC.unflatten(3, C.shape[3:])
    dx = dx.unflatten(3, x.shape[3:])
    return ScanGradients(dx, got.ddt, got.dA, dB, dC, got.dD, dstart.transpose(-1, -2))


def mixer_gradients(
    dg: Tensor,
    dsquares: Tensor,
    projected: Tensor,
    y: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    reverse: tuple[bool, ...],
) -> MixerGradients:
    """The mixer's backward pass, from dg (k, b, l, h p) and dsquares (k, b, l) float32.

    projected (b, l, k, z x B C dt); y (b, l, k, h, p), B and C (b, l, k, g, n) and dt (b, k, h, l) float32 as the
    forward pass made them; the parameters as in `mixer`, float32, but A (k, h) itself. All contiguous.
    """
    inner, channels, heads = norm_weight.shape[1], conv_bias.shape[1], A.shape[1]
    z, xBC, _ = projected.split([inner, channels, heads], 3)
    gradient = torch.empty_like(projected)
    dz, draw, draw_dt = gradient.split([inner, channels, heads], 3)

    dy, dnorm = gate_backward(dg, dsquares, y, z, norm_weight, dz)
    x = convolve(xBC[..., :inner], conv_weight, conv_bias, reverse).view(y.shape)
    states = None
    if x.shape[1] > SHORT:
        entering, _ = walk_states(x, B, dt, A, None, reverse)
        leaving, _ = walk_states(dy, C, dt, A, None, reverse, backward=True)
        states = entering, leaving
    into = draw_dt.permute(0, 2, 3, 1)  # (b, k, h, l)
    got = scan_backward(x, dy, B, C, dt, A, D, states, reverse, before_softplus=into)
    dweight, dbias = conv_backward(got.xBC, xBC, conv_weight, conv_bias, reverse, draw)
    return MixerGradients(gradient, dweight, dbias, got.dt_bias, got.dA, got.dD, dnorm)


__all__ = ["scan", "unsupported_reason"]


def scan(inputs: ScanInputs, reverse: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """The scan of every direction, without document ids; shapes in `ScanInputs`.

    Raises ValueError if the kernels cannot run.
    """
    x, dt, A, B, C, D, initial_state = inputs
    reason = unsupported_reason(x, x.shape[-1], B.shape[-1])
    if reason:
        raise ValueError(f"SSD backend 'triton' cannot run: {reason}")
    x, B, C = x.contiguous(), B.to(x.dtype).contiguous(), C.to(x.dtype).contiguous()
    steps = dt.float().permute(0, 2, 3, 1).contiguous()  # (b, k, h, l)
    y, final = _Scan.apply(x, steps, A.float(), B, C, D.float(), initial_state.float().contiguous(), reverse)
    return y, final


class _Scan(torch.autograd.Function):
    """x (b, l, k, h, p), dt (b, k, h, l), A and D (k, h), B and C (b, l, k, g, n), start (b, k, h, p, n)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        start: Tensor,
        reverse: tuple[bool, ...],
    ) -> tuple[Tensor, Tensor]:
        from diffuapriel.ops.triton.scan import scan_chunks

        done = scan_chunks(x, B, C, dt, A, D, reverse, start=start, want_final=True)
        assert done.y is not None and done.final is not None
        ctx.save_for_backward(x, dt, A, B, C, D, start)
        ctx.reverse = reverse
        return done.y, done.final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, start = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous()
        return *scan_gradients(dy, dfinal.contiguous(), x, dt, A, B, C, D, start, ctx.reverse), None
