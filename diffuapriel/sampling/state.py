"""The state between two steps: everything that the next step and the next frame need.

A state is immutable: its arrays are read-only, so it can be kept, branched from and continued. They are NumPy arrays on
the host, whatever device the denoiser runs on: an operation on a few hundred numbers costs a microsecond in NumPy,
several in torch, and a synchronization on a GPU.
Shapes: B rows, L positions, k positions revealed by the last step (row-major).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class State:
    """A batch of partially filled canvases.

    Attributes:
        ids: (B, L) int64; fixed: (B, L) bool; mask_id: as on a canvas.
        device: where the denoiser is.
        first_row: the noise stream of row 0; step: steps made so far.
        t: (B,) float64, from 1 to 0: the schedule's time for `ancestral` and ReMDM, else the masked share of the
            free positions (for `first_hitting`, its expectation at the last hitting time).
        nfe: (B,) int64: number of denoiser calls that included the row.
        confidence, entropy: (B, L) float64: probability of the token at the step that revealed it, and entropy (nats)
            of the distribution then; NaN where masked or given.
        revealed, remasked: (B, L) bool: the positions that the last step changed.
        mended: (B, L) bool: the positions that any step returned to [MASK].
        top_ids int64, top_probs float64: (k, up to 5): the most probable tokens at the revealed positions.
        rank: (k,) int64: rank of the revealed token in the denoiser's distribution, from 1.
        score: (k,) float64: what the strategy compared there; runner_up: (B,): the best score among the positions
            that stayed masked, NaN where there is none. Both are absolute values: entropies are compared negated.
        threshold: what a score had to reach or stay below, for the strategies that have such a threshold.
        drafts: (B, D, L) int64: tokens that `speculative` verifies next at masked positions, -1 elsewhere. The D
            drafts of a row are for the same positions, the likeliest first; those of -1 alone are none.
    """

    ids: Ints
    fixed: Bools
    mask_id: int
    device: torch.device
    first_row: int
    step: int
    t: Floats
    nfe: Ints
    confidence: Floats
    entropy: Floats
    revealed: Bools
    remasked: Bools
    mended: Bools
    top_ids: Ints
    top_probs: Floats
    rank: Ints
    score: Floats
    runner_up: Floats
    drafts: Ints
    threshold: float | None = None

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @classmethod
    def initial(cls, ids: Ints, fixed: Bools, mask_id: int, device: torch.device, first_row: int) -> State:
        """The state before the first step, at t = 1."""
        return cls(
            ids=ids,
            fixed=fixed,
            mask_id=mask_id,
            device=device,
            first_row=first_row,
            step=0,
            t=np.ones(len(ids)),
            nfe=np.zeros(len(ids), dtype=np.int64),
            confidence=np.full(ids.shape, np.nan),
            entropy=np.full(ids.shape, np.nan),
            revealed=np.zeros_like(fixed),
            remasked=np.zeros_like(fixed),
            mended=np.zeros_like(fixed),
            top_ids=np.empty((0, 0), dtype=np.int64),
            top_probs=np.empty((0, 0)),
            rank=np.empty(0, dtype=np.int64),
            score=np.empty(0),
            runner_up=np.full(len(ids), np.nan),
            drafts=np.full_like(ids, -1)[:, None],
        )

    @property
    def masked(self) -> Bools:
        """(B, L): the masked positions."""
        return self.ids == self.mask_id

    def replace(self, **changes: Any) -> State:
        """A new state with some fields replaced."""
        return replace(self, **changes)


def masked_share(ids: Ints, fixed: Bools, mask_id: int) -> Floats:
    """(B,): masked positions / free positions; 0 where no position is free."""
    return (ids == mask_id).sum(1) / np.maximum(1, (~fixed).sum(1))
