"""The Mamba-2 scan as matrix products alone, without a loop over chunks: the form that is exported to ONNX.

The same block decomposition as in chunked.py, in the form of `ssd_minimal_discrete` (arXiv:2405.21060, listing 1): the
states are carried from chunk to chunk by one product with a matrix of decays. With i and j chunks, j before i in scan
order, and E_i the sum of dt A up to and including chunk i:

    H_i = sum_j exp(E_{i-1} - E_j) (what chunk j writes)  +  exp(E_{i-1}) H_start        the state entering chunk i

A graph of these products has no loop and no branch, so one graph serves every length. The products between chunks grow
with the square of their number, which stays small: 32 chunks for 1,024 tokens. Differentiable by PyTorch; for training
`chunked` is faster.

Axes as in ops/recurrent.py, and c chunks of q tokens (t reads u).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.ops.recurrent import ScanInputs

CHUNK = 32  # tokens; longer chunks waste more on a short text, shorter ones cost more between chunks


def scan(
    inputs: ScanInputs,
    reverse: tuple[bool, ...],
    document_ids: Tensor | None = None,
    *,
    block_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan of every direction; shapes in `ScanInputs`.

    Products run in x's dtype; sums of dt A and the state run in float32, or float64 for float64 input. With
    `block_length`, which divides the length, chunks are blocks, and reverse directions carry nothing from one to the
    next (block_scan.py).
    """
    x, dt, A, B, C, D, start = inputs
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    length, per_group = x.shape[1], x.shape[3] // B.shape[3]
    dt = dt.to(exact)
    written = (x * dt.to(x.dtype)[..., None], dt * A.to(exact), B, C)
    x, log_decay, B, C = (_into_chunks(v, block_length) for v in written)  # (b, k, h or g, c, q, ...)
    scores = C @ B.mT  # of a group
    if B.shape[2] > 1:  # a single group serves all heads as it is
        scores, B, C = (v.repeat_interleave(per_group, dim=2) for v in (scores, B, C))
    start = start.to(exact).transpose(-1, -2)  # (b, k, h, n, p)

    # Inside a chunk.
    s, end = log_decay @ _no_later(log_decay, reverse), log_decay.sum(-1)  # (b, k, h, c, q) and (b, k, h, c)
    within = _exp(s, s, _no_later(s, reverse).mT[:, :, None])  # (b, k, h, c, t, u)
    to_end, from_start = torch.exp(end[..., None] - s), torch.exp(s)

    # Between chunks. E - end is E of the chunk before.
    no_later = _no_later(end, reverse)
    E, total = (end[..., None, :] @ no_later)[..., 0, :], end.sum(-1, keepdim=True)  # (b, k, h, c) and (b, k, h, 1)
    across = _exp(E - end, E, 1 - no_later)  # (b, k, h, i, j): all of chunk j comes before chunk i
    first_to, to_final, first_to_final = torch.exp(E - end), torch.exp(total - E), torch.exp(total)

    if block_length is not None:
        carries = torch.tensor([not backwards for backwards in reverse], device=across.device)[:, None, None]
        across, first_to = across * carries[..., None], first_to * carries
    if document_ids is not None:
        kept = _OneDocument.of(document_ids, reverse)
        within, to_end, from_start = within * kept.within, to_end * kept.to_end, from_start * kept.from_start
        across, first_to = across * kept.across, first_to * kept.first_to
        to_final, first_to_final = to_final * kept.to_final, first_to_final * kept.first_to_final

    writes = (B.mT @ (x * to_end[..., None].to(x.dtype))).to(exact).flatten(4)  # (b, k, h, c, n p)
    states = (across @ writes).unflatten(4, start.shape[3:]) + first_to[..., None, None] * start[:, :, :, None]
    final_state = (to_final[..., None, :] @ writes)[..., 0, :].unflatten(3, start.shape[3:])
    final_state = final_state + first_to_final[..., None] * start

    y = (within.to(x.dtype) * scores) @ x + from_start[..., None].to(x.dtype) * (C @ states.to(x.dtype))
    y = y.permute(0, 3, 4, 1, 2, 5).flatten(1, 2)[:, :length]  # (b, l, k, h, p)
    return y + inputs.x * D.to(x.dtype)[..., None], final_state.transpose(-1, -2)


def _into_chunks(v: Tensor, block_length: int | None = None) -> Tensor:
    """(b, l, k, h, ...) to (b, k, h, c, q, ...), filled up with zeros: dt = 0 changes no state."""
    if block_length is not None:
        return v.unflatten(1, (-1, block_length)).movedim((1, 2), (3, 4))
    chunks = (v.shape[1] + CHUNK - 1) // CHUNK
    v = F.pad(v, (0, 0) * (v.ndim - 2) + (0, chunks * CHUNK - v.shape[1]))
    return v.reshape(v.shape[0], chunks, CHUNK, *v.shape[2:]).movedim((1, 2), (3, 4))


def _no_later(like: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """(k, 1, n, n) for the n entries of the last axis: 1 at (u, t) if u is no later than t in scan order, else 0."""
    ones = torch.ones(like.shape[-1], like.shape[-1], dtype=like.dtype, device=like.device)
    return torch.stack([ones.tril() if backwards else ones.triu() for backwards in reverse])[:, None]


def _exp(s: Tensor, other: Tensor, allowed: Tensor) -> Tensor:
    """exp(s_i - other_j) where `allowed` (i, j) is 1, else 0; minus infinity first, so that nothing overflows."""
    return torch.exp((s[..., :, None] - other[..., None, :]).masked_fill(allowed == 0, float("-inf")))


class _OneDocument(NamedTuple):
    """Which decays stay within one document, bool: (b, k, 1, ...), the rest of the shape as that of the decay."""

    within: Tensor
    to_end: Tensor
    from_start: Tensor
    across: Tensor
    first_to: Tensor
    to_final: Tensor
    first_to_final: Tensor

    @classmethod
    def of(cls, document_ids: Tensor, reverse: tuple[bool, ...]) -> _OneDocument:
        """document_ids (b, l). Beyond the end: the last token's document."""
        ids = F.pad(document_ids, (0, -document_ids.shape[1] % CHUNK), mode="constant", value=-1)
        ids = torch.where(ids < 0, document_ids[:, -1:], ids).unflatten(1, (-1, CHUNK))  # (b, c, q)
        last = torch.stack([ids[..., 0 if backwards else -1] for backwards in reverse], dim=1)  # (b, k, c)
        ends = [(-1, 0) if backwards else (0, -1) for backwards in reverse]  # in scan order
        first, final = (torch.stack([document_ids[:, end] for end in side], dim=1) for side in zip(*ends))  # (b, k)
        entering = torch.stack(
            [
                torch.cat([last[:, k, 1:], first[:, k, None]] if backwards else [first[:, k, None], last[:, k, :-1]], 1)
                for k, backwards in enumerate(reverse)
            ],
            dim=1,
        )  # (b, k, c): the document of the last token before each chunk
        ids = ids[:, None]
        factors = (
            ids[..., :, None] == ids[..., None, :],
            ids == last[..., None],
            ids == entering[..., None],
            entering[..., :, None] == last[..., None, :],
            entering == first[..., None],
            last == final[..., None],
            (first == final)[..., None],
        )
        return cls(*(factor[:, :, None] for factor in factors))
