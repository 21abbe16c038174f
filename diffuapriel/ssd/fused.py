"""The `triton` backend of the scan: our kernels behind the interface of the other backends.

Both directions run in one launch of `scan_kernel`, forward, and of three kernels, backward. A Mamba-2 mixer does not
come this way: mixer.py hands the same kernels its convolution, gate and norm as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffuapriel.ssd.triton_launch import why_not

__all__ = ["scan", "why_not"]


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    reverse: tuple[bool, ...],
) -> tuple[Tensor, Tensor]:
    """One scan for each direction; shapes as in `recurrent.scan`. Raises ValueError when the kernels cannot run."""
    reason = why_not(x, x.shape[-1], B.shape[-1])
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
        from diffuapriel.ssd.triton_scan import scan_chunks

        done = scan_chunks(x, B, C, dt, A, D, reverse, start=start, want_final=True)
        assert done.y is not None and done.final is not None
        ctx.save_for_backward(x, dt, A, B, C, D, start)
        ctx.reverse = reverse
        return done.y, done.final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        from diffuapriel.ssd.triton_gradients import scan_gradients

        x, dt, A, B, C, D, start = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous()
        return *scan_gradients(dy, dfinal.contiguous(), x, dt, A, B, C, D, start, ctx.reverse), None
