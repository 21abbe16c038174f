"""The masked product of a chunk, forward and backward, for scans in which a chunk holds several blocks.

    y_t = sum_u m(t, u) exp(r_t - s_u) (C_t . B_u) w_u          t, u tokens of one chunk, m a mask of `MASKS`

A program takes one chunk and one group, multiplies C and B once and walks the heads of the group: nothing of size
tokens x tokens leaves the chip, and the gradients of B and C, which the heads share, need no second pass. With W the
weights of the sum and G = dy w^T,

    dw_u = sum_t W_tu dy_t    d(C B^T) = sum over heads of m exp(r_t - s_u) G
    dr_t = sum_u W_tu G_tu    ds_u = -sum_t W_tu G_tu

    C, B  (b, c, g, q, n)    w, y  (b, c, g, h, q, p)    r, s  (b, c, g, h, q) float32       c chunks of q tokens

Plain twin: `_weigh` in ops/block_scan.py. For torch.compile the product is one opaque operator.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = 64  # tokens of a chunk
MASKS = ("causal", "causal in block", "earlier blocks", "ahead in block")


def masked_product(C: Tensor, B: Tensor, w: Tensor, r: Tensor, s: Tensor, mask: str, block_length: int) -> Tensor:
    """y, shaped and typed as w. C, B and w of one dtype, their last axes contiguous; q at most LONGEST.

    mask: "causal" u no later than t; "causal in block" and "ahead in block" (u no earlier) for tokens of one block;
    "earlier blocks" u in an earlier block than t. The blocks of `block_length` tokens begin with the chunk.
    """
    given = (v if v.stride(-1) == 1 else v.contiguous() for v in (C, B, w))
    y = _product(*given, r.contiguous(), s.contiguous(), MASKS.index(mask), block_length)
    return y.movedim(2, 4)


@torch.library.custom_op("diffuapriel::masked_product", mutates_args=())
def _product(C: Tensor, B: Tensor, w: Tensor, r: Tensor, s: Tensor, mask: int, block_length: int) -> Tensor:
    """y as (b, c, q, g, h, p), contiguous: the order of tokens."""
    from diffuapriel.ops.triton.chunk import forward

    return forward(C, B, w, r, s, mask, block_length)


@_product.register_fake
def _(C, B, w, r, s, mask, block_length):
    return _like(w)


@torch.library.custom_op("diffuapriel::masked_product_backward", mutates_args=())
def _product_backward(
    dy: Tensor, C: Tensor, B: Tensor, w: Tensor, r: Tensor, s: Tensor, mask: int, block_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of C, B, w as (b, c, q, g, h, p), r and s."""
    from diffuapriel.ops.triton.chunk import backward

    return backward(dy, C, B, w, r, s, mask, block_length)


@_product_backward.register_fake
def _(dy, C, B, w, r, s, mask, block_length):
    shapes = (C.new_empty(C.shape), B.new_empty(B.shape), _like(w))
    return *shapes, torch.empty_like(r), torch.empty_like(s)


def _like(w: Tensor) -> Tensor:
    b, c, g, h, q, p = w.shape
    return w.new_empty(b, c, q, g, h, p)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[5:]


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dC, dB, dw, dr, ds = _product_backward(dy.contiguous(), *ctx.saved_tensors, *ctx.options)
    return dC, dB, dw.movedim(2, 4), dr, ds, None, None


_product.register_autograd(_gradients, setup_context=_keep)
