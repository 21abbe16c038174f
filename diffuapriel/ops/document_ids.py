"""Document ids: which document each token of a packed row belongs to, so that nothing is mixed across a boundary.

    document_ids   (batch, length) int64; the number changes where a new document begins

A row of a corpus holds documents one after another, each closed by an <|endoftext|> that belongs to it. The scan, the
convolution and attention then treat every document as if it were alone. Training and scores make ids from the clean
text: in a corrupted one an <|endoftext|> may be hidden under a [MASK]. (mamba_ssm calls them seq_idx.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def make_document_ids(ids: Tensor, eos_id: int) -> Tensor:
    """The document of every token, 0, 1, ... within each row: the number of <|endoftext|> before the token.

    ids (batch, length) int64; returns the same shape. Raises ValueError for another shape or dtype.
    """
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(f"ids are {tuple(ids.shape)} {ids.dtype}; they must be (batch, length) int64")
    ends = (ids == eos_id).long()
    return ends.cumsum(1) - ends


def number_runs(document_ids: Tensor) -> Tensor:
    """0, 1, ... for the runs of equal numbers in each row, so that no two documents share one. Same shape."""
    changes = (document_ids[:, 1:] != document_ids[:, :-1]).long()
    return F.pad(changes.cumsum(1), (1, 0))


def check_document_ids(document_ids: Tensor, batch: int, length: int) -> None:
    """Raise ValueError unless `document_ids` is (batch, length) int64."""
    if tuple(document_ids.shape) != (batch, length) or document_ids.dtype != torch.int64:
        raise ValueError(
            f"document_ids are {tuple(document_ids.shape)} {document_ids.dtype}; they must be ({batch}, {length}) "
            "int64, the number of each token's document"
        )
