"""The peer: the minimal SSD of the Mamba-2 paper, twice, with flips.

Listing 1 of "Transformers are SSMs" (Dao and Gu, 2024, arXiv:2405.21060, section 6) is the chunked algorithm in four
einsums, and what a reader of the paper would write first. It is written here after the paper, so that our `chunked`
backend has a named opponent. In the listing every head has its own B and C; a model whose heads share them, as ours
do, repeats them. The authors' code later let the heads of a group share; that stronger form is timed beside it.

Shapes: b batch, c chunks, l and s positions in a chunk, h heads, p headdim, n state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def segsum(log_decay: Tensor) -> Tensor:
    """Sums over every segment: out[..., i, j] = sum of log_decay[..., j+1 : i+1], -inf above the diagonal.

    log_decay (..., length) -> (..., length, length). The masked cumulative sum of the paper, not a difference of
    two cumulative sums, which cancels badly.
    """
    length = log_decay.shape[-1]
    square = torch.ones(length, length, dtype=torch.bool, device=log_decay.device)
    terms = log_decay[..., None].expand(*log_decay.shape, length)
    sums = terms.masked_fill(~square.tril(-1), 0).cumsum(-2)
    return sums.masked_fill(~square.tril(), -torch.inf)


def ssd_minimal_discrete(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, chunk: int = 64) -> Tensor:
    """One causal scan over an already discretized input, chunk by chunk.

    x (batch, length, heads, headdim), multiplied by dt; log_decay (batch, length, heads) = dt * A;
    B, C (batch, length, heads, state), or (batch, length, 1, state) for all heads. Returns y, shaped as x.
    Raises ValueError when `chunk` does not divide the length.
    """
    if x.shape[1] % chunk:
        raise ValueError(f"length {x.shape[1]} is not a multiple of the listing's chunk, {chunk}")
    x, B, C = (tensor.unflatten(1, (-1, chunk)) for tensor in (x, B, C))
    decay = log_decay.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2)  # (b, h, c, l)
    decay_sum = decay.cumsum(-1)

    # 1. inside a chunk: the quadratic, attention-like form
    within = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, segsum(decay).exp(), x)
    # 2. the state that each chunk adds
    to_end = (decay_sum[..., -1:] - decay_sum).exp()
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, to_end, x)
    # 3. the recurrence over chunks, as one more quadratic form
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    between = segsum(F.pad(decay_sum[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    # 4. what the state before a chunk adds to each of its positions
    across = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, decay_sum.exp())
    return (within + across).flatten(1, 2)


def minimal_bidirectional(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = 64, *, repeat: bool = True
) -> Tensor:
    """Forward and reverse scan by two calls of the listing, with flips for the reverse one.

    Shapes as in `diffuapriel.ssd.ssd_bidirectional`, with one group: x (batch, length, 2, heads, headdim),
    dt (batch, length, 2, heads), A (2, heads), B, C (batch, length, 2, 1, state). Returns y, shaped as x.
    `repeat` gives every head its B and C, as the listing has it; without, the heads share them.
    """
    if repeat:
        B, C = (tensor.expand(-1, -1, -1, x.shape[3], -1) for tensor in (B, C))
    u, decay = x * dt[..., None], dt * A
    forward, reverse = ([tensor[:, :, k] for tensor in (u, decay, B, C)] for k in (0, 1))
    y_forward = ssd_minimal_discrete(*forward, chunk=chunk)
    y_reverse = ssd_minimal_discrete(*(tensor.flip(1) for tensor in reverse), chunk=chunk).flip(1)
    return torch.stack([y_forward, y_reverse], dim=2)
