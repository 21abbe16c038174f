"""Block after block with an exact cache: a model of blocks as a denoiser of the whole canvas.

    denoiser = CachedDenoiser(model, block_length=16)
    sampler = Sampler(SamplerConfig(strategy="threshold", block_length=16, block_start="zero"), schedule, mask_id)

The sampler, its strategies and its frames stay as they are. They fill one block after another, so at every step only
the first block of a row that has a [MASK] matters. `CachedDenoiser` runs the model on that block alone, after a cache
of the finished ones, and returns logits of 0 at the masked positions behind it, which the sampler does not look at. A
row's text is therefore the same alone and in any batch, and what lies to the right of the active block is never seen.

Caches are kept by the text that they hold. Undoing or editing a step, pausing and branching find the cache of their
past, if it is among the last ones, or commit it again in one call; a prompt is committed in one call too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

KEPT = 64  # caches of earlier texts, beside those of the rows in use


class BlockCache(Protocol):
    """What a model keeps of finished blocks, for several rows; never changed (`model.blocks.Cache`)."""

    def rows(self, index: Sequence[int]) -> Self: ...

    @classmethod
    def join(cls, caches: Sequence[Self]) -> Self: ...


class BlockModel(Protocol):
    """A model of blocks (`model.denoiser.Denoiser`)."""

    config: Any

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor, *, cache: Any) -> Tensor: ...

    def empty_cache(self, batch: int) -> BlockCache: ...

    def commit(self, ids: Tensor, cache: Any, block_length: int) -> BlockCache: ...


class CachedDenoiser(nn.Module):
    """A `DenoiserFunction` over whole canvases that computes the active block of each row only.

    Attributes:
        passes: model calls that denoised a block. commits: calls that put finished blocks into a cache.
    """

    def __init__(self, model: BlockModel, block_length: int) -> None:
        allowed = model.config.block_lengths
        if block_length < 1 or (block_length not in allowed and 0 not in allowed):
            raise ValueError(
                f"block_length is {block_length}; the model was trained for {', '.join(map(str, allowed)) or 'none'}"
            )
        super().__init__()
        self.model, self.config, self.block_length = model, model.config, block_length
        self.passes = self.commits = 0
        self._caches: OrderedDict[bytes, BlockCache] = OrderedDict()  # one row each, by its text
        self._joined: tuple[tuple[bytes, ...], BlockCache] | None = None  # of the last pass

    @torch.no_grad()
    def forward(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        """Logits (positions.sum(), vocab_size): those of the active blocks, and 0 elsewhere.

        ids (batch, length) int64, sigma (batch,), positions (batch, length) bool. Raises ValueError for a length that
        is not whole blocks.
        """
        S, (batch, length) = self.block_length, ids.shape
        if length % S:
            raise ValueError(f"the canvas has {length} tokens; block_length, {S}, must divide it")
        blocks = (ids == self.config.mask_id).view(batch, -1, S).any(2).int()
        first = blocks.argmax(1)  # the active block of each row
        at = first[:, None] * S + torch.arange(S, device=ids.device)
        cache = self._cache_of(ids, (first * S).tolist())
        chosen = positions.gather(1, at)  # (batch, S)
        active = self.model(ids.gather(1, at), sigma, chosen, cache=cache)
        self.passes += 1
        flat = positions.flatten().cumsum(0) - 1  # the row of the result of each position
        where = (torch.arange(batch, device=ids.device)[:, None] * length + at)[chosen]
        logits = active.new_zeros(int(positions.sum()), active.shape[1])
        return logits.index_copy(0, flat[where], active)

    def _cache_of(self, ids: Tensor, lengths: list[int]) -> BlockCache:
        """The cache of ids[r, : lengths[r]] for every row r; what is missing is committed, equal lengths together."""
        keys = tuple(row[:n].tobytes() for row, n in zip(ids.cpu().numpy(), lengths, strict=True))
        if self._joined is not None and self._joined[0] == keys:
            return self._joined[1]
        size = self.block_length * ids.element_size()
        missing: dict[tuple[int, int], list[int]] = {}  # (tokens in a known cache, tokens wanted) -> rows
        for r, key in enumerate(keys):
            known = len(key)
            while known and key[:known] not in self._caches:
                known -= size
            if known < len(key):
                missing.setdefault((known, len(key)), []).append(r)
        for (known, wanted), rows in sorted(missing.items()):
            rows = list({keys[r]: r for r in rows}.values())  # rows of one text once
            start, end = known // ids.element_size(), wanted // ids.element_size()
            past = [self._caches[keys[r][:known]] for r in rows] if known else [self.model.empty_cache(len(rows))]
            after = self.model.commit(ids[rows, start:end], _join(past), self.block_length)
            self.commits += 1
            for i, r in enumerate(rows):
                self._caches[keys[r]] = after.rows([i])
        for key in keys:
            if key:
                self._caches.move_to_end(key)
        while len(self._caches) > len(keys) + KEPT:
            self._caches.popitem(last=False)
        cache = _join([self._caches[key] if key else self.model.empty_cache(1) for key in keys])
        self._joined = keys, cache
        return cache


def _join(caches: Sequence[BlockCache]) -> BlockCache:
    return type(caches[0]).join(caches)
