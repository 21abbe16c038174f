"""Documents packed into one row, and where each ends: what neither scan, convolution nor attention may cross.

    segments   (batch, length) int64: the number of each token's document, another one after every boundary

A row of a corpus holds documents one after the other, each closed by an <|endoftext|> that belongs to it. The numbers
are counted on the clean text: in a corrupted one an <|endoftext|> may be hidden under a [MASK].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def document_segments(ids: Tensor, eos_id: int) -> Tensor:
    """The document of every token, 0, 1, ... within each row: how many <|endoftext|> stand before the token.

    ids (batch, length) int64, without [MASK]s; returns the same shape. Raises ValueError for another shape or dtype.
    """
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(f"ids are {tuple(ids.shape)} {ids.dtype}; they must be (batch, length) int64")
    ends = (ids == eos_id).long()
    return ends.cumsum(1) - ends


def number_runs(segments: Tensor) -> Tensor:
    """0, 1, ... for the runs of equal numbers in each row, so that two documents never share one. Shape as given."""
    changes = (segments[:, 1:] != segments[:, :-1]).long()
    return F.pad(changes.cumsum(1), (1, 0))


def check_segments(segments: Tensor, batch: int, length: int) -> None:
    """ValueError unless `segments` is (batch, length) int64."""
    if tuple(segments.shape) != (batch, length) or segments.dtype != torch.int64:
        raise ValueError(
            f"segments are {tuple(segments.shape)} {segments.dtype}; they must be ({batch}, {length}) int64, "
            "the number of each token's document"
        )
