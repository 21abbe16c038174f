"""The masked product of a chunk, forward and backward, for scans in which a chunk holds several blocks.

    y_t = sum_u m(t, u) exp(r_t - s_u) (C_t . B_u) x_u + D x_t + exp(r_t) H C_t     t, u tokens of a chunk, m of `MASKS`

A program takes one chunk and one group, multiplies C and B once and walks the heads of the group: nothing of size
tokens x tokens leaves the chip, and the gradients of B and C, which the heads share, need no second pass. With W the
weights of the sum and G = dy x^T,

    dx_u = sum_t W_tu dy_t + D dy_u           d(C B^T) = sum over heads of m exp(r_t - s_u) G
    dr_t = sum_u W_tu G_tu + exp(r_t) dy_t . (H C_t)     ds_u = -sum_t W_tu G_tu
    dH   = sum_t exp(r_t) dy_t C_t^T          dC also gets the sum over heads of exp(r_t) H^T dy_t

    C, B  (b, c, g, q, n)    x, y  (b, c, g, h, q, p)    r, s  (b, c, g, h, q) float32       c chunks of q tokens
    D  (g, h) float32        H  (b, c, g, h, p, n)

Plain twin: `_weigh` in ops/block_scan.py. For torch.compile the product is one opaque operator.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = 64  # tokens of a chunk
MASKS = ("causal", "causal in block", "earlier blocks", "ahead in block")


def masked_product(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    mask: str,
    block_length: int,
    *,
    D: Tensor | None = None,
    H: Tensor | None = None,
) -> Tensor:
    """y, shaped and typed as x. C, B and x of one dtype, their last axes contiguous; q at most LONGEST.

    mask: "causal" u no later than t; "causal in block" and "ahead in block" (u no earlier) for tokens of one block;
    "earlier blocks" u in an earlier block than t. The blocks of `block_length` tokens begin with the chunk.
    D and H: None for zero.
    """
    given = (_rows(v) for v in (C, B, x))
    D = None if D is None else D.float().contiguous()
    H = None if H is None else H.to(C.dtype).contiguous()
    y = _product(*given, r.contiguous(), s.contiguous(), D, H, MASKS.index(mask), block_length)
    return y.movedim(2, 4)


def _rows(v: Tensor) -> Tensor:
    return v if v.stride(-1) == 1 else v.contiguous()


@torch.library.custom_op("diffuapriel::masked_product", mutates_args=())
def _product(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    D: Tensor | None,
    H: Tensor | None,
    mask: int,
    block_length: int,
) -> Tensor:
    """y as (b, c, q, g, h, p), contiguous: the order of tokens."""
    from diffuapriel.ops.triton.chunk import forward

    return forward(C, B, x, r, s, D, H, mask, block_length)


@_product.register_fake
def _(C, B, x, r, s, D, H, mask, block_length):
    return _like(x)


@torch.library.custom_op("diffuapriel::masked_product_backward", mutates_args=())
def _product_backward(
    dy: Tensor,
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    D: Tensor | None,
    H: Tensor | None,
    mask: int,
    block_length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of C, B, x as (b, c, q, g, h, p), r, s, D and H, the last two empty where those are None; dy as x."""
    from diffuapriel.ops.triton.chunk import backward

    dC, dB, dx, dr, ds, dD, dH = backward(_rows(dy), C, B, x, r, s, D, H, mask, block_length)
    dD, dH = (r.new_empty(0) if v is None else v for v in (dD, dH))
    return dC, dB, dx, dr, ds, dD, dH


@_product_backward.register_fake
def _(dy, C, B, x, r, s, D, H, mask, block_length):
    got = C.new_empty(C.shape), B.new_empty(B.shape), _like(x), torch.empty_like(r), torch.empty_like(s)
    return *got, *(r.new_empty(0) if v is None else torch.empty_like(v) for v in (D, H))


def _like(x: Tensor) -> Tensor:
    b, c, g, h, q, p = x.shape
    return x.new_empty(b, c, q, g, h, p)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options = inputs[7:]


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    D, H = ctx.saved_tensors[5:]
    dC, dB, dx, dr, ds, dD, dH = _product_backward(dy.movedim(2, 4), *ctx.saved_tensors, *ctx.options)
    return dC, dB, dx.movedim(2, 4), dr, ds, None if D is None else dD, None if H is None else dH, None, None


_product.register_autograd(_gradients, setup_context=_keep)
