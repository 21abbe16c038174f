"""The Mamba-2 scan as batched matrix products over chunks, in plain PyTorch, forward and backward.

The block decomposition of Mamba-2 (arXiv:2405.21060, section 6): inside a chunk the scan is a masked product, similar
to attention; between chunks only the state travels. With u and t tokens of a chunk, u no later than t:

    s_t   = sum of dt A over the chunk up to and including t, in scan order; s_end over the whole chunk
    W_tu  = exp(s_t - s_u) (C_t . B_u)
    y_t   = sum_u W_tu (dt_u x_u)  +  exp(s_t) C_t H  +  D x_t                H: the state entering the chunk
    H'    = exp(s_end) H  +  sum_u B_u exp(s_end - s_u) (dt_u x_u)

The backward pass is derived from the same four lines; it keeps the decays, C H and the states.
What makes it fast on a CPU: a reverse scan is a suffix sum and an upper-triangular mask, never a flip; C B^T is
computed once for all heads of a group; the products with the state take all heads of a group as one wide matrix, in
the layout that x already has; chunks are short. Minus infinity before exp prevents overflow.

With document_ids, factors of zero separate the documents of a row: exp(s_t - s_u) becomes 0 if t and u belong to two
documents, exp(s_t) if t's document began inside the chunk, exp(s_end - s_u) if u's document ended before the chunk
does, and exp(s_end) if the document that enters the chunk does not leave it.

Axes as in ops/recurrent.py, and:

    c chunks   q tokens of a chunk   m batch and chunks as one axis   r heads of a group
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffuapriel.ops.recurrent import ScanInputs


def scan(
    inputs: ScanInputs,
    reverse: tuple[bool, ...],
    document_ids: Tensor | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan of every direction; shapes in `ScanInputs`.

    Products run in x's dtype; sums of dt A and the state run in float32, or float64 for float64 input.
    """
    x, dt, A, B, C, D, initial_state = inputs
    length, exact = x.shape[1], torch.float64 if x.dtype == torch.float64 else torch.float32
    q = min(length, chunk_size or chunk_length(x.device))
    # dt = 0 beyond the end: such a token neither decays the state nor writes to it, in either direction.
    x, dt, B, C = (_into_chunks(v, q) for v in (x, dt.to(exact), B, C))  # (b, c, q, k, ...)
    start = initial_state.to(exact).transpose(-1, -2)  # (b, k, h, n, p)
    if document_ids is not None:
        filling = document_ids[:, -1:].expand(-1, -length % q)  # beyond the end: the last token's document
        document_ids = torch.cat([document_ids, filling], dim=1).unflatten(1, (-1, q))
    y, final = _ChunkedScan.apply(document_ids, reverse, x, dt, A.to(exact), B, C, D.to(exact), start)
    return y.flatten(1, 2)[:, :length], final.transpose(-1, -2)


def chunk_length(device: torch.device) -> int:
    """Tokens of a chunk: short ones are faster on a CPU."""
    return 32 if device.type == "cpu" else 64


def _into_chunks(v: Tensor, q: int) -> Tensor:
    """(b, l, ...) to (b, c, q, ...), the last chunk padded with zeros."""
    missing = -v.shape[1] % q
    if missing:
        v = F.pad(v, (0, 0) * (v.ndim - 2) + (0, missing))
    return v.unflatten(1, (-1, q))


class _Part(NamedTuple):
    """One direction and one group of the call: views, nothing is copied."""

    x: Tensor  # (m, q, r, p)
    dt: Tensor  # (m, q, r)
    A: Tensor  # (r,)
    B: Tensor  # (m, q, n)
    C: Tensor  # (m, q, n)
    D: Tensor  # (r,)
    start: Tensor  # (b, r, n, p)
    backwards: bool
    documents: _Documents | None


class _Documents(NamedTuple):
    """Factors of 1 and 0 of one direction: what belongs to one document."""

    same: Tensor  # (m, 1, t, u): t and u
    enters: Tensor  # (m, q, 1): the token, and the state that enters the chunk
    leaves: Tensor  # (m, q, 1): the token, and the chunk's last one
    passes: Tensor  # (m, 1): the state that enters, and the last token


def _documents(document_ids: Tensor, backwards: bool, dtype: torch.dtype) -> _Documents:
    """document_ids (b, c, q) int64."""
    first, last = (-1, 0) if backwards else (0, -1)  # in scan order
    ends = document_ids[:, :, last]  # (b, c): of the last token of every chunk
    if backwards:
        entering = torch.cat([ends[:, 1:], document_ids[:, -1:, first]], dim=1)
    else:
        entering = torch.cat([document_ids[:, :1, first], ends[:, :-1]], dim=1)
    rows, ends, entering = document_ids.flatten(0, 1), ends.flatten()[:, None], entering.flatten()[:, None]
    same = rows[:, None, :, None] == rows[:, None, None, :]
    factors = same, (rows == entering)[..., None], (rows == ends)[..., None], entering == ends
    return _Documents(*(factor.to(dtype) for factor in factors))


def _parts(
    inputs: Sequence[Tensor], document_ids: Tensor | None, reverse: tuple[bool, ...]
) -> list[tuple[tuple[int, slice, int], _Part]]:
    """Every (direction, heads of a group, group) of the call, and its tensors."""
    x, dt, A, B, C, D, start = inputs
    groups = B.shape[4]
    per_group = x.shape[4] // groups
    parts = []
    for k, backwards in enumerate(reverse):
        documents = None if document_ids is None else _documents(document_ids, backwards, dt.dtype)
        for g in range(groups):
            heads = slice(g * per_group, (g + 1) * per_group)
            x_, dt_ = x[:, :, :, k, heads].flatten(0, 1), dt[:, :, :, k, heads].flatten(0, 1)
            B_, C_ = B[:, :, :, k, g].flatten(0, 1), C[:, :, :, k, g].flatten(0, 1)
            part = _Part(x_, dt_, A[k, heads], B_, C_, D[k, heads], start[:, k, heads], backwards, documents)
            parts.append(((k, heads, g), part))
    return parts


def _decays(part: _Part) -> tuple[Tensor, Tensor, Tensor]:
    """The functions of dt A alone, in float32 or float64: s, end and within, as in `_Kept`."""
    a = (part.dt * part.A).transpose(1, 2)  # (m, r, q)
    no_later = _no_later(part, a)
    s = a @ no_later  # inclusive sums in scan order
    differences = s[..., :, None] - s[..., None, :]  # (m, r, t, u)
    within = torch.exp(differences.masked_fill_(no_later.mT == 0, float("-inf")))
    if part.documents is not None:
        within *= part.documents.same
    return s, s[..., 0 if part.backwards else -1], within


def _from_start(part: _Part, s: Tensor) -> Tensor:
    """The share of the state that entered the chunk left at each token, exp(s): (m, q, r, 1) in x's dtype."""
    left = torch.exp(s).transpose(1, 2)
    if part.documents is not None:
        left = left * part.documents.enters
    return left.to(part.x.dtype)[..., None]


def _to_end(part: _Part, s: Tensor, end: Tensor) -> Tensor:
    """The share of each token's write left at the chunk's end, exp(s_end - s): (m, q, r, 1) in x's dtype."""
    left = torch.exp(end[..., None] - s).transpose(1, 2)
    if part.documents is not None:
        left = left * part.documents.leaves
    return left.to(part.x.dtype)[..., None]


def _across(part: _Part, end: Tensor) -> Tensor:
    """The share of the state that entered the chunk left at its end, exp(s_end): (m, r)."""
    left = torch.exp(end)
    return left if part.documents is None else left * part.documents.passes


def _no_later(part: _Part, like: Tensor) -> Tensor:
    """(u, t), one where token u is no later than token t in scan order, else zero."""
    ones = like.new_ones(like.shape[-1], like.shape[-1])
    return ones.tril() if part.backwards else ones.triu()


class _Kept(NamedTuple):
    """What the forward pass saves for the backward pass."""

    s: Tensor  # (m, r, q)
    end: Tensor  # (m, r): s of the last token in scan order
    within: Tensor  # (m, r, t, u), in x's dtype: exp(s_t - s_u), zero where u is later than t
    y_state: Tensor  # (m, q, r, p): C H
    entering: Tensor  # (m, n, r, p): the state entering each chunk


class _ChunkedScan(torch.autograd.Function):
    """x (b, c, q, k, h, p), dt (b, c, q, k, h), A and D (k, h), B and C (b, c, q, k, g, n), start (b, k, h, n, p)."""

    @staticmethod
    def forward(
        ctx: Any, document_ids: Tensor | None, reverse: tuple[bool, ...], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, start = inputs[0], inputs[-1]
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        final, kept = torch.empty_like(start), []
        with torch.autocast(x.device.type, enabled=False):
            for (k, heads, _), part in _parts(inputs, document_ids, reverse):
                y_part, final[:, k, heads], keep = _forward(part)
                y[:, :, :, k, heads] = y_part.unflatten(0, x.shape[:2])
                kept += keep
        ctx.save_for_backward(document_ids, *inputs, *kept)
        ctx.reverse = reverse
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        document_ids, *saved = ctx.saved_tensors
        inputs, kept = saved[:7], saved[7:]
        chunks = inputs[0].shape[:2]
        grads = [torch.empty_like(v, memory_format=torch.contiguous_format) for v in inputs]
        dx, ddt, dA, dB, dC, dD, dstart = grads
        with torch.autocast(dy.device.type, enabled=False):
            parts = _parts(inputs, document_ids, ctx.reverse)
            for i, ((k, heads, g), part) in enumerate(parts):
                keep = _Kept(*kept[len(_Kept._fields) * i :][: len(_Kept._fields)])
                got = _backward(part, keep, dy[:, :, :, k, heads].flatten(0, 1), dfinal[:, k, heads])
                dx[:, :, :, k, heads], ddt[:, :, :, k, heads] = (v.unflatten(0, chunks) for v in got[:2])
                dA[k, heads], dD[k, heads], dstart[:, k, heads] = got[2], got[5], got[6]
                dB[:, :, :, k, g], dC[:, :, :, k, g] = (v.unflatten(0, chunks) for v in got[3:5])
        return None, None, *grads


def _forward(part: _Part) -> tuple[Tensor, Tensor, _Kept]:
    """y (m, q, r, p), the final state (b, r, n, p), and what to save for the backward pass."""
    x, dt, _, B, C, D, start, backwards, _ = part
    s, end, within = _decays(part)
    within = within.to(x.dtype)
    xdt = x * dt.to(x.dtype)[..., None]
    W = within * (C @ B.transpose(1, 2))[:, None]  # (m, r, t, u)
    y = W @ xdt.transpose(1, 2)  # (m, r, q, p)

    to_end = _to_end(part, s, end)
    writes = (B.transpose(1, 2) @ (xdt * to_end).flatten(2)).unflatten(2, x.shape[2:])  # (m, n, r, p)
    entering, final = _carry(writes, _across(part, end), start, backwards)

    y_state = (C @ entering.flatten(2)).view(x.shape)
    y = torch.addcmul(y.transpose(1, 2), y_state, _from_start(part, s))
    kept = _Kept(s, end, within, y_state, entering)
    return torch.addcmul(y, x, D.to(x.dtype)[:, None]), final, kept


def _carry(writes: Tensor, decay: Tensor, start: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
    """Carry the state from chunk to chunk in scan order.

    writes (m, n, r, p): what each chunk adds; decay (m, r) over a whole chunk; start (b, r, n, p).
    Returns the state that enters each chunk, with the shape and dtype of writes, and the final state.
    """
    batch = start.shape[0]
    state = start.transpose(1, 2)  # (b, n, r, p)
    writes, decay = writes.unflatten(0, (batch, -1)), decay.unflatten(0, (batch, -1))[:, :, None, :, None]
    entering = torch.empty_like(writes)
    chunks = range(writes.shape[1])
    for c in reversed(chunks) if backwards else chunks:
        entering[:, c] = state
        state = torch.addcmul(writes[:, c].to(state.dtype), decay[:, c], state)
    return entering.flatten(0, 1), state.transpose(1, 2)


def _backward(part: _Part, kept: _Kept, dy: Tensor, dfinal: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, dt, A, B, C, D and start, from dy (m, q, r, p) and dfinal (b, r, n, p)."""
    x, dt, A, B, C, D, _, backwards, _ = part
    s, end, within, y_state, entering = kept
    to_end, across = _to_end(part, s, end), _across(part, end)
    xdt = x * dt.to(x.dtype)[..., None]

    # y = W xdt, W = within * (C B^T)
    heads_first = dy.transpose(1, 2).contiguous()  # (m, r, q, p)
    scores = (C @ B.transpose(1, 2))[:, None]
    dW = (heads_first @ xdt.permute(0, 2, 3, 1)).mul_(within)  # (m, r, t, u)
    dxdt = ((within * scores).transpose(2, 3) @ heads_first).transpose(1, 2)  # (m, q, r, p)
    dscores = dW.sum(1)
    dC, dB = dscores @ B, dscores.transpose(1, 2) @ C
    dlog = dW.mul_(scores)  # gradient of s_t - s_u
    ds = (dlog.sum(3, dtype=dt.dtype) - dlog.sum(2, dtype=dt.dtype)).transpose(1, 2)  # (m, q, r)

    # y += exp(s) C H
    dy_decayed = dy * _from_start(part, s)
    flat = entering.flatten(2)  # (m, n, r p)
    dC += dy_decayed.flatten(2) @ flat.transpose(1, 2)
    ds += (dy_decayed * y_state).sum(3, dtype=dt.dtype)
    dentering = (C.transpose(1, 2) @ dy_decayed.flatten(2)).view(entering.shape)

    # H' = exp(s_end) H + writes
    leaving, dstart = _carry(dentering, across, dfinal, not backwards)  # gradient of H' of each chunk
    dend = across * (leaving * entering).sum((1, 3), dtype=dt.dtype)  # (m, r)

    # writes = B^T (exp(s_end - s) xdt)
    xdt_decayed, flat = xdt * to_end, leaving.flatten(2)
    dB += xdt_decayed.flatten(2) @ flat.transpose(1, 2)
    dxdt_decayed = (B @ flat).view(x.shape)
    dxdt = torch.addcmul(dxdt, dxdt_decayed, to_end)
    dlog_end = (dxdt_decayed * xdt_decayed).sum(3, dtype=dt.dtype)  # (m, q, r)
    ds -= dlog_end
    ds[:, 0 if backwards else -1] += dend + dlog_end.sum(1)

    # s = sums of dt A, xdt = dt x
    da = _no_later(part, ds.transpose(1, 2)) @ ds  # (m, q, r)
    ddt = da * A + (dxdt * x).sum(3, dtype=dt.dtype)
    dx = torch.addcmul(dxdt * dt.to(x.dtype)[..., None], dy, D.to(x.dtype)[:, None])
    return dx, ddt, (da * dt).sum((0, 1)), dB, dC, (dy * x).sum((0, 1, 3), dtype=dt.dtype), dstart
