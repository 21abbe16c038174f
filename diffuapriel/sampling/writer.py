"""Writing without end: block after block, in memory that does not grow.

    for block in write_blocks(model, sampler, 16, prompt_ids):
        print(tokenizer.decode(block.ids[block.given :]), end="")

Each block is a canvas of its own, which the sampler fills with any of its strategies, `steps` per block; `speculative`
drafts within it. All that is left of the text before it is the cache (model/blocks.py). For a model without attention
that is the state of its scans, which holds the whole text in a constant number of bytes. Keys and values would grow
with the text, so attention reads the last `window` tokens only: what is written then depends on older text through the
states of Mamba layers, or in a DiffuTran not at all.

A text may be longer than any that the model was trained on; model/blocks.py says what is new to it then. <|endoftext|>
is a token as any other: the next document follows it. Two in a row are padding, behind which training has no text: the
next block then begins a new one, with an empty cache. A repetition penalty sees the tokens of the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffuapriel.device import device_of
from diffuapriel.options import check_least
from diffuapriel.sampling.blocks import verify_and_draft
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SPECULATIVE
from diffuapriel.sampling.sampler import Sampler

if TYPE_CHECKING:
    from diffuapriel.sampling.blocks import BlockCache, BlockModel


@dataclass(frozen=True)
class TextSoFar:
    """What a text without end needs to go on; of a constant size, as the cache is."""

    cache: BlockCache
    finished: Tensor  # (1, tokens), behind the cache and not committed yet
    given: tuple[int, ...]  # of the next block
    last: tuple[int, ...]  # the token before the next block, none where a text begins
    row: int  # noise stream of the next block


@dataclass(frozen=True)
class WrittenBlock:
    """A block of an endless text.

    Attributes:
        ids: its tokens, without padding. given: how many of them, at its start, are the end of the prompt.
        calls: denoiser calls. cache_bytes: memory of the text before it. so_far: the text with it (`write_blocks`).
    """

    ids: tuple[int, ...]
    given: int
    calls: int
    cache_bytes: int
    so_far: TextSoFar = field(repr=False, compare=False)


def write_blocks(
    model: BlockModel,
    sampler: Sampler,
    block_length: int,
    prompt: Sequence[int] = (),
    *,
    window: int | None = None,
    first_row: int = 0,
    after: TextSoFar | None = None,
) -> Iterator[WrittenBlock]:
    """Continue a text for ever. Close the generator, or stop asking, to end it.

    Args:
        model: of blocks, on its device. sampler: its `steps` are those of a block; its `block_length` is not used, but
            by `speculative`.
        prompt: ids of the text before; the blocks are counted from its start.
        window: tokens that attention reads, rounded down to whole blocks; by default `config.context_length`.
        first_row: noise stream of the first block; each block has the next one.
        after: goes on behind a block of an earlier call with the same arguments, as if that had not ended; the prompt
            is then not used.

    Raises ValueError for a [MASK] in the prompt and for a count below 1.
    """
    reads: int = model.config.context_length if window is None else window
    check_least(block_length=block_length, window=reads)
    if sampler.mask_id in prompt:
        raise ValueError("the prompt of an endless text holds a [MASK]; only what follows it is written")
    drafts = sampler.config.block_length if sampler.config.strategy == SPECULATIVE else None
    config = replace(sampler.config, block_length=drafts, block_start="prompt", stop_at_eos=False)
    inner = Sampler(config, sampler.schedule, sampler.mask_id)
    reads = max(block_length, reads // block_length * block_length)
    if after is None:
        whole = len(prompt) // block_length * block_length
        finished = torch.tensor([prompt[:whole]], dtype=torch.int64, device=device_of(model))
        after = TextSoFar(model.empty_cache(1), finished, tuple(prompt[whole:]), tuple(prompt[-1:]), first_row)
    return _written(model, inner, block_length, after, reads)


def _written(
    model: BlockModel, sampler: Sampler, block_length: int, so_far: TextSoFar, window: int
) -> Iterator[WrittenBlock]:
    device, eos = device_of(model), sampler.mask_id - 1
    while True:
        given = so_far.given
        ids = torch.tensor([*given, *[sampler.mask_id] * (block_length - len(given))], device=device)
        drafts = sampler.config.block_length  # with `speculative` only
        past = so_far.cache, so_far.finished
        behind = sampler.config.draft_behind
        block = _Draft(model, *past, drafts, behind) if drafts else _Block(model, *past, block_length)
        state = sampler.start(Canvas(ids, ids != sampler.mask_id, sampler.mask_id), so_far.row)
        while not sampler.done(state):
            state = sampler.advance(block, state)
        cache, finished = block.cache.last(window), torch.from_numpy(state.ids[:, block.committed :].copy()).to(device)
        size, written = cache.bytes, state.ids[0].tolist()
        while [*so_far.last, *written][-2:] == [eos, eos] and written:
            del written[-1]
            finished = finished[:, :0]
        last = written[-1:]
        if not finished.shape[1]:  # a new text begins
            cache, last = model.empty_cache(1), []
        so_far = TextSoFar(cache, finished, (), tuple(last), so_far.row + 1)
        yield WrittenBlock(tuple(written), len(given), int(state.nfe[0]), size, so_far)


class _Block:
    """The denoiser of one block; its first call also commits the finished tokens (1, length) before it.

    committed: how many tokens of the block itself are in the cache.
    """

    committed = 0

    def __init__(self, model: BlockModel, cache: BlockCache, finished: Tensor, block_length: int) -> None:
        self.model, self.cache, self.finished, self.block_length = model, cache, finished, block_length

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        logits, self.cache = self.model.commit_and_denoise(
            torch.cat([self.finished, ids], dim=1), sigma, positions, cache=self.cache, block_length=self.block_length
        )
        self.finished = self.finished[:, :0]
        return logits


class _Draft(_Block):
    """The same for `speculative`, which commits what it has accepted; block_length is that of its drafts."""

    def __init__(self, model: BlockModel, cache: BlockCache, finished: Tensor, block_length: int, behind: str) -> None:
        super().__init__(model, cache, finished, block_length)
        self.behind = behind

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        start = int(positions[0].int().argmax())
        finished = torch.cat([self.finished, ids[:1, self.committed : start]], dim=1)
        cache = self.cache if len(ids) == 1 else self.cache.rows([0] * len(ids))  # one for each draft
        finished = finished.expand(len(ids), -1)
        logits, cache = verify_and_draft(
            self.model, finished, ids[:, start:], positions[:, start:], cache, self.block_length, self.behind
        )
        self.cache = cache if len(ids) == 1 else cache.rows([0])
        self.finished, self.committed = finished[:1, :0], start
        return torch.cat(logits)
