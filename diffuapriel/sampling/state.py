"""The state between two steps: everything that the next step and the next frame need, and no more.

A state never changes: its arrays are read-only, so it can be kept, branched from and continued. They are NumPy
arrays on the host, whatever the denoiser runs on: an operation on a few hundred numbers costs a microsecond
there, several in torch, and a synchronization on a GPU.
Shapes: B rows, L positions, k positions revealed by the last step (row-major).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class State:
    """A batch of canvases, half filled.

    Attributes:
        ids: (B, L) int64; fixed: (B, L) bool; mask_id: as on a canvas.
        device: where the denoiser is.
        first_row: number of row 0's noise stream; step: steps made so far.
        t: (B,) float64, from 1 to 0: the schedule's time for `ancestral` and `remask`, else the share of the
            free positions that is masked (for `first_hitting` its expectation at the last hitting time).
        nfe: (B,) int64: denoiser calls in which the row took part.
        confidence, entropy: (B, L) float64: probability of the token at the step that revealed it and entropy
            (nats) of the distribution then; NaN where masked or given.
        revealed, remasked: (B, L) bool: what the last step did.
        top_ids int64, top_probs float64: (k, up to 5): the most probable tokens at the revealed positions.
        rank (k,) int64: place of the revealed token in the denoiser's distribution, from 1.
        score (k,) float64: what the strategy compared there; rival (B,): the best score among the positions that
            stayed masked, NaN where there is none. Both without sign: an entropy is an entropy.
        bar: what a score had to reach or to stay below, where the strategy has such a bar.
    """

    ids: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    mask_id: int
    device: torch.device
    first_row: int
    step: int
    t: NDArray[np.float64]
    nfe: NDArray[np.int64]
    confidence: NDArray[np.float64]
    entropy: NDArray[np.float64]
    revealed: NDArray[np.bool_]
    remasked: NDArray[np.bool_]
    top_ids: NDArray[np.int64]
    top_probs: NDArray[np.float64]
    rank: NDArray[np.int64]
    score: NDArray[np.float64]
    rival: NDArray[np.float64]
    bar: float | None = None

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            getattr(self, name).setflags(write=False)

    @classmethod
    def initial(
        cls,
        ids: NDArray[np.int64],
        fixed: NDArray[np.bool_],
        mask_id: int,
        device: torch.device,
        first_row: int,
    ) -> State:
        """Before the first step, at t = 1."""
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
            top_ids=np.empty((0, 0), dtype=np.int64),
            top_probs=np.empty((0, 0)),
            rank=np.empty(0, dtype=np.int64),
            score=np.empty(0),
            rival=np.full(len(ids), np.nan),
        )

    @property
    def masked(self) -> NDArray[np.bool_]:
        """(B, L): the holes."""
        return self.ids == self.mask_id

    def but(self, **changes: Any) -> State:
        """A new state with some fields replaced."""
        return replace(self, **changes)


def masked_share(ids: NDArray[np.int64], fixed: NDArray[np.bool_], mask_id: int) -> NDArray[np.float64]:
    """(B,): masked positions over free ones; 0 where nothing is free."""
    return (ids == mask_id).sum(1) / np.maximum(1, (~fixed).sum(1))


_ARRAYS = tuple(f.name for f in fields(State) if f.type.startswith("NDArray"))  # type: ignore[union-attr]
