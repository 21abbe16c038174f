"""The scan as batched matrix products over chunks, in plain PyTorch, forward and backward.

The block decomposition of Mamba-2 (arXiv:2405.21060, section 6): inside a chunk the scan is a masked
attention-like product, between chunks only the state travels.

    s_t   = sum of dt A over the chunk, up to and including t (from the right for a reverse scan)
    y_t   = sum_u L_tu (C_t . B_u) dt_u x_u  +  exp(s_t) H C_t         L_tu = exp(s_t - s_u), u no later than t
    H'    = exp(s_last) H + sum_u exp(s_last - s_u) dt_u x_u B_u^T

What makes it quick on a CPU: both directions in one product each; a reverse scan is a suffix sum and an
upper-triangular mask, never a flip; C B^T once for all heads of a group; the products with the state take all
heads of a group as one wide matrix, in the layout x already has; minus infinity before exp, so nothing
overflows; short chunks. On a GPU it is a correct and compilable fallback.

    b batch  c chunks  q tokens of a chunk  k directions  g groups  r heads of a group  p headdim  n state
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor,
    reverse: tuple[bool, ...],
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One scan for each direction; shapes as in `recurrent.scan`.

    Products run in x's dtype, sums of dt A and the states in float32 (float64 for float64 input).
    """
    (batch, length, k, heads, p), (groups, n) = x.shape, B.shape[3:]
    q = chunk_size or (32 if x.device.type == "cpu" else 64)
    q = min(q, length)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32

    # dt = 0 beyond the end: such a token neither decays the state nor writes to it, in either direction.
    x, dt, B, C = (_into_chunks(v, q) for v in (x, dt, B, C))
    dt = dt.to(exact)
    a = dt * A.to(exact)  # (b, c, q, k, h), the log decay of each token
    with torch.autocast(x.device.type, enabled=False):
        s = torch.einsum("bcukh,kut->bckht", a, _triangles(reverse, q, a))  # inclusive sums in scan order
    total = s.gather(-1, _last_index(reverse, q, s))[..., 0]  # (b, c, k, h)

    xdt = x * dt.to(x.dtype)[..., None]  # (b, c, q, k, h, p)
    y = _within_chunks(xdt, s, B, C, reverse)

    decay_to_end = torch.exp(total[..., None] - s).to(x.dtype).permute(0, 1, 4, 2, 3)  # (b, c, q, k, h)
    per_group = (groups, heads // groups * p)
    writes = torch.einsum(
        "bcqkgn,bcqkgm->bckgnm", B, (xdt * decay_to_end[..., None]).flatten(4).unflatten(4, per_group)
    )  # (b, c, k, g, n, r p): what each chunk adds to the state
    start = initial_state.to(exact).unflatten(2, (groups, -1)).permute(0, 1, 2, 5, 3, 4)  # (b, k, g, n, r, p)
    entering, final = _carry(
        writes.to(exact).unflatten(5, (-1, p)), total.unflatten(3, (groups, -1)), start, reverse
    )

    y_from_state = torch.einsum("bcqkgn,bckgnm->bcqkgm", C, entering.flatten(5).to(x.dtype))
    decay_from_start = torch.exp(s).to(x.dtype).permute(0, 1, 4, 2, 3)[..., None]
    y = y + y_from_state.flatten(4).unflatten(4, (heads, p)) * decay_from_start
    y = y.flatten(1, 2)[:, :length]
    return y, final.permute(0, 1, 2, 4, 5, 3).flatten(2, 3)  # (b, l, k, h, p), (b, k, h, p, n)


def _into_chunks(v: Tensor, q: int) -> Tensor:
    """(b, l, ...) to (b, c, q, ...), the last chunk filled up with zeros."""
    missing = -v.shape[1] % q
    if missing:
        v = F.pad(v, (0, 0) * (v.ndim - 2) + (0, missing))
    return v.unflatten(1, (-1, q))


def _within_chunks(xdt: Tensor, s: Tensor, B: Tensor, C: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """What the tokens of a chunk say to each other: (L * C B^T) (dt x), per head."""
    q, groups = xdt.shape[2], B.shape[4]
    scores = torch.einsum("bctkgn,bcukgn->bckgtu", C, B)  # once for all heads of a group
    L = torch.exp(s[..., :, None] - s[..., None, :] + _mask(reverse, q, s))  # (b, c, k, h, t, u)
    weights = L.to(xdt.dtype).unflatten(3, (groups, -1)) * scores.unsqueeze(4)
    return torch.einsum("bckhtu,bcukhp->bctkhp", weights.flatten(3, 4), xdt)


def _carry(writes: Tensor, total: Tensor, start: Tensor, reverse: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """Hand the state from chunk to chunk in scan order.

    writes (b, c, k, g, n, r, p), total (b, c, k, g, r): log decay of a whole chunk, start (b, k, g, n, r, p).
    Returns the state that enters each chunk, shaped as writes, and the state after the last one.
    """
    decay = torch.exp(total)[..., None, :, None]  # (b, c, k, g, 1, r, 1)
    entering, finals = [], []
    for k, backwards in enumerate(reverse):
        state = start[:, k]
        steps = list(zip(writes[:, :, k].unbind(1), decay[:, :, k].unbind(1), strict=True))
        seen = []
        for write, chunk_decay in reversed(steps) if backwards else steps:
            seen.append(state)
            state = torch.addcmul(write, chunk_decay, state)
        entering.append(torch.stack(seen[::-1] if backwards else seen, dim=1))
        finals.append(state)
    return torch.stack(entering, dim=2), torch.stack(finals, dim=1)


def _triangles(reverse: tuple[bool, ...], q: int, like: Tensor) -> Tensor:
    """(k, q, q) of ones where token u is no later, in scan order, than token t: [k, u, t]."""
    ones = torch.ones(q, q, dtype=like.dtype, device=like.device)
    return torch.stack([ones.tril() if backwards else ones.triu() for backwards in reverse])


def _mask(reverse: tuple[bool, ...], q: int, like: Tensor) -> Tensor:
    """(k, 1, t, u): 0 where u is no later than t in scan order, minus infinity elsewhere."""
    later = _triangles(reverse, q, like).transpose(1, 2) == 0
    return torch.zeros_like(later, dtype=like.dtype).masked_fill(later, float("-inf"))[:, None]


def _last_index(reverse: tuple[bool, ...], q: int, s: Tensor) -> Tensor:
    """Index of the last token of a chunk in scan order, shaped to gather from s (b, c, k, h, q)."""
    last = torch.tensor([0 if backwards else q - 1 for backwards in reverse], device=s.device)
    return last[:, None, None].expand(*s.shape[:2], len(reverse), s.shape[3], 1)
