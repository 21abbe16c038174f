"""The Mamba-2 scan one token at a time: the oracle that the tests compare every backend with.

Per head (arXiv:2405.21060, equation 2, with a scalar A):

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        h: (headdim, state)
    y_t = h_t C_t + D x_t

Slow, for any floating dtype, and deliberately without a trick.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ScanInputs(NamedTuple):
    """What every backend's `scan(inputs, reverse, document_ids=None)` takes; it returns y and the final state.

    The axes, here and in every file of this folder:

        b batch   l length   k directions   h heads of a direction   g groups   p headdim   n state

    Each group of B and C serves h // g neighboring heads. y is shaped as x, the final state as the initial one.
    `reverse[k]` says whether direction k runs from the last token to the first; its initial state is then the state
    after the last token. document_ids (b, l) int64 number the documents of a row, no two alike: every document starts
    from a state of zero, except the first in scan order, which starts from the initial state.
    """

    x: Tensor  # (b, l, k, h, p)   what is written to the state
    dt: Tensor  # (b, l, k, h)      step sizes, positive
    A: Tensor  # (k, h)            decay rates, negative
    B: Tensor  # (b, l, k, g, n)   where x is written
    C: Tensor  # (b, l, k, g, n)   what is read
    D: Tensor  # (k, h)            weight of x itself
    initial_state: Tensor  # (b, k, h, p, n)


def scan(inputs: ScanInputs, reverse: tuple[bool, ...], document_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The scan of every direction; shapes in `ScanInputs`."""
    x, dt, A, B, C, D, initial_state = inputs
    length, heads_per_group = x.shape[1], x.shape[3] // B.shape[3]
    B = B.repeat_interleave(heads_per_group, dim=3)  # (b, l, k, h, n)
    C = C.repeat_interleave(heads_per_group, dim=3)
    outputs, states = [], []
    for k, backwards in enumerate(reverse):
        state = initial_state[:, k]  # (b, h, p, n)
        y: list[Tensor] = [x.new_empty(0)] * length
        for t in reversed(range(length)) if backwards else range(length):
            before = t + 1 if backwards else t - 1
            if document_ids is not None and 0 <= before < length:
                state = state * (document_ids[:, t] == document_ids[:, before])[:, None, None, None]
            decay = torch.exp(dt[:, t, k] * A[k])  # (b, h)
            write = (dt[:, t, k, :, None] * x[:, t, k])[..., None] * B[:, t, k, :, None, :]
            state = decay[..., None, None] * state + write
            y[t] = (state * C[:, t, k, :, None, :]).sum(-1) + D[k, :, None] * x[:, t, k]  # (b, h, p)
        outputs.append(torch.stack(y, dim=1))
        states.append(state)
    return torch.stack(outputs, dim=2), torch.stack(states, dim=1)
