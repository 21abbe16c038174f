"""Block after block with an exact cache: a model of blocks as a denoiser of the whole canvas.

    denoiser = CachedDenoiser(model, block_length=16)
    sampler = Sampler(SamplerConfig(strategy="threshold", block_length=16, block_start="zero"), schedule, mask_id)

The sampler, its strategies and its frames stay as they are. They fill one block after another, so at every step only
the first block of a row that has a [MASK] matters. `CachedDenoiser` runs the model on that block alone, after a cache
of the finished ones, and returns logits of 0 at the masked positions behind it, which the sampler does not look at. A
row's text is therefore the same alone and in any batch. What lies to the right of the active block is never seen: a
hole is filled from the text before it and from that of its own block.

Committing costs no pass. A finished block, or a whole prompt, goes through the model together with the block behind
it, in the pass that denoises that block for the first time.

On a GPU, `generate` lets whole generations run there without the host (graphs/blocks.py).

Caches are kept by the text that they hold. Undoing or editing a step, pausing and branching find the cache of their
past, if it is among the last ones, or commit it again in the next pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from diffuapriel.diffusion.schedule import EPS
from diffuapriel.sampling.config import DRAFT_BEHIND, SPECULATIVE, SamplerConfig
from diffuapriel.sampling.graphs import blocks as graphs
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.speculative import drafted_blocks
from diffuapriel.sampling.state import State

KEPT_BYTES = 2**28  # of caches of earlier texts; those of the rows in use are kept in any case


class BlockCache(Protocol):
    """What a model keeps of finished blocks, for several rows; never changed (`model.blocks.Cache`)."""

    @property
    def bytes(self) -> int: ...

    def rows(self, index: Sequence[int]) -> Self: ...

    def last(self, tokens: int) -> Self: ...

    @classmethod
    def join(cls, caches: Sequence[Self]) -> Self: ...


class BlockModel(Protocol):
    """A model of blocks (`model.denoiser.Denoiser`)."""

    config: Any

    def empty_cache(self, batch: int) -> BlockCache: ...

    def commit_and_denoise(
        self, ids: Tensor, sigma: Tensor, positions: Tensor, *, cache: Any, block_length: int
    ) -> tuple[Tensor, BlockCache]: ...

    def verify_and_draft(
        self, ids: Tensor, draft: Tensor, blocks: Sequence[Tensor], *, cache: Any
    ) -> tuple[Tensor, list[Tensor], BlockCache]: ...


@dataclass(frozen=True)
class KeptRow:
    """The cache of one row, cut out of its batch when it is needed. The batch stays while one of its rows is kept."""

    batch: BlockCache
    row: int
    bytes: int


class CachedDenoiser(nn.Module):
    """A `DenoiserFunction` over whole canvases that computes the active block of each row only.

    The last block of a canvas may be shorter than the others.

    Attributes:
        passes: model calls so far. Rows that have as much to commit share one.
        cache_bytes: memory of the cache of a row, the mean over those of the last pass.

    Raises ValueError for a model that was not trained in blocks. Any block length can be tried; one that is not among
    `config.block_lengths` gives poor text. kept_bytes: of caches of earlier texts, for undoing and branching.
    """

    def __init__(self, model: BlockModel, block_length: int, kept_bytes: int = KEPT_BYTES) -> None:
        if block_length < 1 or not model.config.block_lengths:
            raise ValueError(
                f"block_length is {block_length}; it must be 1 or more, for a model that was trained in blocks"
            )
        super().__init__()
        self.model, self.config, self.block_length = model, model.config, block_length
        self.passes, self.cache_bytes, self.most_kept = 0, 0, kept_bytes
        self._caches: OrderedDict[bytes, KeptRow] = OrderedDict()  # by text
        self._kept_bytes = 0
        self._joined: dict[tuple[bytes, ...], BlockCache] = {}  # of the last pass

    @torch.no_grad()
    def forward(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        """Logits (positions.sum(), vocab_size): those of the active blocks, and 0 elsewhere.

        ids (batch, length) int64, positions (batch, length) bool. sigma (batch,) is not used: the noise level of a
        block is that of its own masked share, as in training.
        """
        S, (batch, length) = self.block_length, ids.shape
        starts, texts, known = self._pasts(ids, ids == self.config.mask_id)
        groups: dict[tuple[int, int], list[int]] = {}  # (tokens to commit, tokens of the active block) -> rows
        for r, (start, have) in enumerate(zip(starts, known)):
            groups.setdefault((start - have, min(S, length - start)), []).append(r)
        rank = positions.flatten().cumsum(0).view(batch, length) - 1  # the row of the result of each position
        logits, joined = None, {}
        for (missing, size), rows in groups.items():
            row = torch.tensor(rows, device=ids.device)[:, None]
            first = torch.tensor([known[r] for r in rows], device=ids.device)[:, None]
            at = first + torch.arange(missing + size, device=ids.device)
            block = ids[row, at]  # (rows, missing + size)
            masked = (block[:, missing:] == self.config.mask_id).float().mean(1)
            wanted = positions[row, at[:, missing:]]
            past = self._past([texts[r][: known[r] * ids.element_size()] for r in rows])
            found, cache = self.model.commit_and_denoise(
                block, -torch.log((1 - masked).clamp_min(EPS)), wanted, cache=past, block_length=S
            )
            self.passes += 1
            if logits is None:
                logits = found.new_zeros(int(positions.sum()), found.shape[1])
            logits[rank[row, at[:, missing:]][wanted]] = found
            joined[tuple(texts[r] for r in rows)] = cache
            if missing:
                self._keep([texts[r] for r in rows], cache)
        self._end_pass(joined, texts)
        assert logits is not None, "a batch has a row"
        return logits

    def _end_pass(self, joined: dict[tuple[bytes, ...], BlockCache], texts: list[bytes]) -> None:
        self._joined = joined
        self.cache_bytes = sum(cache.bytes for cache in joined.values()) // len(texts)
        self._forget(texts)

    def share(self, ids: Tensor, positions: Tensor) -> tuple[tuple[int, ...], int]:
        """Of one canvas: what it has in common with those that share its model call, and how many logits that makes.

        The former is its length, the tokens to commit and those of the active block.
        """
        [start], _, [known] = self._pasts(ids, ids == self.config.mask_id)
        active = positions[:, start : start + self.block_length]
        return (ids.shape[1], start - known, active.shape[1]), int(active.sum())

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Passes in this context leave no trace: the caches are afterwards those of before."""
        before = self._caches.copy(), self._kept_bytes, self._joined, self.cache_bytes
        try:
            yield
        finally:
            self._caches, self._kept_bytes, self._joined, self.cache_bytes = before

    def _pasts(self, ids: Tensor, free: Tensor) -> tuple[list[int], list[bytes], list[int]]:
        """Per row: where the active block begins, the text before it, and the tokens of that whose cache is kept.

        free: (batch, length) bool, the positions that are not finished.
        """
        S, size = self.block_length, ids.element_size()
        starts = [int(first) // S * S for first in free.int().argmax(1)]
        texts = [row[:start].tobytes() for row, start in zip(ids.cpu().numpy(), starts)]
        return starts, texts, [self._known(text, S * size) // size for text in texts]

    def unsupported_reason(self, config: SamplerConfig, state: State) -> str | None:
        """Why `generate` fills these canvases step by step on the host; None if it calls `fill`."""
        if state.device.type != "cuda":
            return f"the canvas is on {state.device.type}; recorded passes are for CUDA devices"
        return graphs.unsupported_reason(config, self.model, state, self.block_length)

    def fill(self, sampler: Sampler, state: State) -> tuple[Tensor, list[int]]:
        """The filled canvases of `state`, (batch, length) int64, and each row's calls, by recorded passes.

        Commits have passes of their own here; they count in `passes` and not as calls. No cache is kept.
        """
        graph = graphs.fill(sampler, self.model, state, self.block_length)  # type: ignore[arg-type]
        self._count(graph)
        return graph.texts.canvas.clone(), graph.calls.tolist()

    def fill_steps(self, sampler: Sampler, state: State) -> Generator[Tensor, None, None]:
        """`fill`; yields the canvases after each pass, in a tensor that the next pass overwrites."""
        graph = yield from graphs.fill_steps(sampler, self.model, state, self.block_length)  # type: ignore[arg-type]
        self._count(graph)

    def _count(self, graph: graphs.BlockGraph) -> None:
        self.passes += graph.passes
        self.cache_bytes = graph.cache.bytes // graph.batch

    def _known(self, text: bytes, step: int) -> int:
        """Bytes of the longest beginning of a text, in blocks of `step` bytes, whose cache is kept."""
        known = len(text)
        while known and text[:known] not in self._caches:
            known -= step
        return known

    def _past(self, texts: list[bytes]) -> BlockCache:
        """The caches of these texts in one batch."""
        if found := self._joined.get(tuple(texts)):
            return found
        if not any(texts):
            return self.model.empty_cache(len(texts))
        start = None if all(texts) else KeptRow(self.model.empty_cache(1), 0, 0)
        parts: dict[int, tuple[BlockCache, list[int], list[int]]] = {}  # batch, its rows, their places here
        for place, text in enumerate(texts):
            kept = self._caches[text] if text else start
            assert kept is not None, "a row without text begins at the empty cache"
            _, rows, places = parts.setdefault(id(kept.batch), (kept.batch, [], []))
            rows.append(kept.row)
            places.append(place)
        cut = [batch.rows(rows) for batch, rows, _ in parts.values()]
        joined = type(cut[0]).join(cut)
        order = [place for *_, places in parts.values() for place in places]
        return joined if len(parts) == 1 else joined.rows(sorted(range(len(order)), key=order.__getitem__))

    def _keep(self, texts: list[bytes], cache: BlockCache) -> None:
        """Keep the cache of each row by its text."""
        share = cache.bytes // len(texts)
        for row, text in enumerate(texts):
            self._drop(self._caches.pop(text, None))
            self._caches[text] = KeptRow(cache, row, share)
            self._kept_bytes += share

    def _drop(self, kept: KeptRow | None) -> None:
        self._kept_bytes -= kept.bytes if kept else 0

    def _forget(self, texts: list[bytes]) -> None:
        """Drop the caches that were used longest ago, beyond `most_kept` bytes."""
        used = {text for text in texts if text}
        for text in used:
            self._caches.move_to_end(text)
        while self._kept_bytes > self.most_kept and len(self._caches) > len(used):
            self._drop(self._caches.popitem(last=False)[1])


class SpeculativeDenoiser(CachedDenoiser):
    """What the strategy `speculative` calls: a pass verifies a draft and drafts blocks (speculative.py).

    block_length: of the drafts; behind: `SamplerConfig.draft_behind`. Raises ValueError for a model that was not
    trained for blocks of one token.
    """

    def __init__(
        self, model: BlockModel, block_length: int, kept_bytes: int = KEPT_BYTES, behind: str = DRAFT_BEHIND[0]
    ) -> None:
        if 1 not in model.config.block_lengths:
            raise ValueError(f"the model's blocks are {model.config.block_lengths}; speculative needs those of 1 token")
        super().__init__(model, 1, kept_bytes)
        self.draft_length, self.behind = block_length, behind

    @torch.no_grad()
    def forward(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        """Logits (count, vocab_size): of each row those of the tokens to verify, then those of the drafted blocks.

        ids (batch, length) int64: finished text, then at `positions` (batch, length) bool tokens to verify and
        [MASK]s. Text given behind the first of these is seen by what is written after it, and by the blocks around it.
        sigma is not used.
        """
        on_host = ids.cpu(), positions.cpu()
        starts, texts, known = self._pasts(*on_host)
        groups: dict[tuple[int, int, int], list[int]] = {}  # tokens to commit, to verify, to draft -> rows
        for r, row in enumerate(zip(*on_host, starts, known)):
            groups.setdefault(self._sizes(*row), []).append(r)
        found: dict[int, Tensor] = {}
        joined = {}
        for (missing, _, room), rows in groups.items():
            row = torch.tensor(rows, device=ids.device)[:, None]
            start = torch.tensor([starts[r] for r in rows], device=ids.device)[:, None]
            at = start + torch.arange(-missing, room, device=ids.device)
            finished, text = ids[row, at].tensor_split([missing], dim=1)
            past = self._past([texts[r][: known[r] * ids.element_size()] for r in rows])
            how = self.draft_length, self.behind
            logits, cache = verify_and_draft(self.model, finished, text, positions[row, at][:, missing:], past, *how)
            self.passes += 1
            for i, r in enumerate(rows):
                found[r] = logits[i]
            if missing:
                self._keep([texts[r] for r in rows], cache)
            joined[tuple(texts[r] for r in rows)] = cache
        self._end_pass(joined, texts)
        return torch.cat([found[r] for r in range(len(ids))])

    def share(self, ids: Tensor, positions: Tensor) -> tuple[tuple[int, ...], int]:
        """As in `CachedDenoiser`, of a pass that verifies and drafts."""
        [start], _, [known] = self._pasts(ids, positions)
        sizes, free = self._sizes(ids[0], positions[0], start, known), positions[0, start:]
        blocks = drafted_blocks(sizes[1], self.draft_length, self.behind)
        return (ids.shape[1], *sizes), int(free[: sizes[1]].sum()) + sum(int(free[block].sum()) for block in blocks)

    def unsupported_reason(self, config: SamplerConfig, state: State) -> str | None:
        return "how many tokens a pass accepts is known only after it, on the host"

    def _sizes(self, ids: Tensor, positions: Tensor, start: int, known: int) -> tuple[int, int, int]:
        """Of one row: tokens to commit, to verify, and in all behind the finished text."""
        verified = _verified(ids[None, start:], positions[None, start:], self.config.mask_id)
        until = max(verified, drafted_blocks(verified, self.draft_length, self.behind)[-1].stop)
        return start - known, verified, min(until, len(ids) - start)


def verify_and_draft(
    model: BlockModel,
    finished: Tensor,
    ids: Tensor,
    positions: Tensor,
    cache: BlockCache,
    block_length: int,
    behind: str,
) -> tuple[list[Tensor], BlockCache]:
    """One pass of `SpeculativeDenoiser` over rows with as many tokens to commit, to verify and to draft.

    finished (rows, tokens) int64: to commit. ids, positions (rows, tokens): what follows, as the denoiser takes them.
    Returns the logits of each row, and the cache after `finished`.
    """
    verified, masked = _verified(ids, positions, model.config.mask_id), ids.masked_fill(positions, model.config.mask_id)
    places = drafted_blocks(verified, block_length, behind)
    blocks = [masked[:, place] for place in places]
    logits, drafted, cache = model.verify_and_draft(finished, ids[:, :verified], blocks, cache=cache)
    places = [slice(0, verified), *places]
    rows = zip(*(part.unbind() for part in (logits, *drafted)), positions.unbind(), strict=True)
    return [torch.cat([part[free[at]] for part, at in zip(parts, places)]) for *parts, free in rows], cache


def _verified(ids: Tensor, positions: Tensor, mask_id: int) -> int:
    """Up to where there are tokens to verify."""
    return int((positions & (ids != mask_id)).any(0).nonzero()[-1]) + 1


def denoiser_for(model: Any, config: SamplerConfig, kept_bytes: int = KEPT_BYTES) -> Any:
    """What a sampler with these options calls: the model, or a model of blocks with its cache (`CachedDenoiser`).

    Raises ValueError for blocks that do not begin at position zero, where those of a model begin.
    """
    known = getattr(getattr(model, "config", None), "block_lengths", ())
    if config.strategy == SPECULATIVE and not known:
        raise ValueError("speculative verifies in blocks of one token; this model is not a model of blocks")
    if not known or config.block_length is None:
        return model
    if config.block_start != "zero":
        raise ValueError(f"block_start is {config.block_start!r}; the blocks of this model begin at position zero")
    if config.strategy == SPECULATIVE:
        return SpeculativeDenoiser(model, config.block_length, kept_bytes, config.draft_behind)
    return CachedDenoiser(model, config.block_length, kept_bytes)
