"""The recurrence, one step at a time: the oracle every other backend is held to.

Mamba-2 (arXiv:2405.21060, equation 2 with scalar A), per head:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        h: (headdim, state)
    y_t = h_t C_t + D x_t

It is slow, works in any floating dtype, and nothing in it is clever.

    b batch   l length   k directions   h heads of a direction   g groups   p headdim   n state
"""

from __future__ import annotations

import torch
from torch import Tensor


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    reverse: tuple[bool, ...],
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One scan for each direction; `reverse[k]` says that direction k runs from the last token to the first.

    x (b, l, k, h, p), dt (b, l, k, h), A and D (k, h), B and C (b, l, k, g, n), initial_state (b, k, h, p, n).
    With segments (b, l) the state a document starts with is zero, but for the first in scan order, which gets the
    initial one. Returns y, shaped as x, and the final state, shaped as the initial one.
    """
    heads_per_group = x.shape[3] // B.shape[3]
    B = B.repeat_interleave(heads_per_group, dim=3)  # (b, l, k, h, n)
    C = C.repeat_interleave(heads_per_group, dim=3)
    outputs, states = [], []
    for k, backwards in enumerate(reverse):
        state = initial_state[:, k]  # (b, h, p, n)
        length = x.shape[1]
        y: list[Tensor] = [x.new_empty(0)] * length
        for t in reversed(range(length)) if backwards else range(length):
            before = t + 1 if backwards else t - 1
            if segments is not None and 0 <= before < length:
                state = state * (segments[:, t] == segments[:, before])[:, None, None, None]
            decay = torch.exp(dt[:, t, k] * A[k])  # (b, h)
            write = (dt[:, t, k, :, None] * x[:, t, k])[..., None] * B[:, t, k, :, None, :]
            state = decay[..., None, None] * state + write
            y[t] = (state * C[:, t, k, :, None, :]).sum(-1) + D[k, :, None] * x[:, t, k]  # (b, h, p)
        outputs.append(torch.stack(y, dim=1))
        states.append(state)
    return torch.stack(outputs, dim=2), torch.stack(states, dim=1)
