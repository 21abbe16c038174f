"""A denoiser that can be taken apart, with logits that are the same in whatever order they are added up."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExactHead:
    """What the head reads are quarters up to 2, its weights sixteenths up to 1/2: products and sums are exact in
    float32, and the factors in bfloat16. Both depend on every token of the text and on the noise level."""

    def __init__(
        self,
        vocab_size: int,
        length: int,
        d_model: int = 16,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(vocab_size + length)

        def whole(*shape: int) -> Tensor:
            return torch.randint(0, 17, shape, generator=generator).double()

        self.config = SimpleNamespace(vocab_size=vocab_size)
        self.head = nn.Linear(d_model, -(-vocab_size // 64) * 64, bias=False, dtype=dtype, device=device)
        self.head.weight.data.copy_((whole(*self.head.weight.shape) - 8) / 16)
        self.token, self.place = whole(vocab_size, d_model).to(device), whole(length, d_model).to(device)
        self.mix = whole(length, length).to(device)

    def hidden(self, ids: Tensor, sigma: Tensor) -> Tensor:
        mixed = torch.einsum("pq,bqw->bpw", self.mix, self.token[ids])
        whole = mixed + self.place + (sigma * 1024).floor()[:, None, None]
        return ((whole % 17 - 8) / 4).to(self.head.weight.dtype)

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        return F.linear(self.hidden(ids, sigma)[positions], self.head.weight)[:, : self.config.vocab_size]


def holes(rows: int, length: int, mask_id: int) -> Tensor:
    """(rows, length) ids: the first text all masks, the second full, the others with holes of many sizes."""
    generator = torch.Generator().manual_seed(rows * length)
    ids = torch.randint(0, mask_id, (rows, length), generator=generator)
    share = torch.linspace(0.1, 0.9, rows)[:, None]
    ids[torch.rand(rows, length, generator=generator) < share] = mask_id
    ids[0] = mask_id
    if rows > 1:
        ids[1] = 1
    return ids
