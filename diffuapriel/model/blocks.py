"""Block diffusion: the cache of the blocks that are finished, and the geometry of a pass over blocks.

    p(x) = prod over blocks b of p(x^b | x^{<b}),   each factor a masked diffusion over the tokens of one block
                                                    (BD3-LM, arXiv:2503.09573)

What a block computes depends on the clean blocks before it and on its own tokens. All that it needs of the past is, per
layer,

    Mamba       the state of the forward scan after the last finished block, and the inputs of its convolution at
                the last d_conv - 1 tokens: of constant size
    attention   keys and values of every finished token, at their true positions

so a cache is exact: logits with it equal those of a pass over the whole text. The reverse scan is confined to the block
(arXiv:2607.02805); a reverse scan over everything would change the past with every new token, and nothing could be
kept. A finished block is committed by running it once more as it is, with nothing masked; it is then a clean text. That
need not be a pass of its own: in one over [finished block, next block] each layer has the state after the first when it
comes to the second.

A `Cache` is never changed. A commit returns a new one, so that undoing, pausing and branching cost nothing. The one
exception is the cache that a recorded pass works on (`Denoiser.hidden_in_place`), whose tensors have fixed addresses:
it has room for all keys and values to come, and in the rows that a pass commits, its block joins them in place.

Past the length of the training rows nothing breaks by itself. The scans know no positions. RoPE encodes distances, and
only distances longer than in training are new to attention; `Cache.last` drops what is that far away. The vector of the
first position is added once, at the start of the text, and that of the last position at the end of every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.config import ModelConfig
from diffuapriel.ops.short_pass import GivenPaths, ShortPass


@dataclass(frozen=True)
class MambaCache:
    """What a Mamba layer keeps of the past."""

    state: Tensor  # (batch, heads, headdim, d_state), float32 or float64: of the forward scan
    history: Tensor  # (batch, d_conv - 1, channels): what the forward convolution reads before the next block


@dataclass(frozen=True)
class AttentionCache:
    """Keys, normalized and rotated, and values; row r holds `lengths[r] - dropped` of them, and zeros after."""

    keys: Tensor  # (batch, heads, capacity, headdim)
    values: Tensor  # (batch, heads, capacity, headdim)


LayerCache = MambaCache | AttentionCache


@dataclass(frozen=True)
class Cache:
    """All that the next block needs of the finished ones, for every row of a batch."""

    layers: tuple[LayerCache, ...]
    lengths: Tensor  # (batch,) int64: finished tokens of each row
    aligned: bool = True  # whether all rows have as many: attention then needs no mask
    dropped: int = 0  # keys and values that `last` left out, of the start of every row

    @classmethod
    def empty(
        cls, config: ModelConfig, batch: int, *, device: torch.device, dtype: torch.dtype, capacity: int = 0
    ) -> Cache:
        """The cache before the first block: no token, states of zero, room for keys of `capacity` tokens."""
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        channels = config.d_inner + 2 * config.n_groups * config.d_state
        layers: list[LayerCache] = []
        for kind in config.layer_kinds:
            if kind == "mamba":
                shape = (batch, config.n_heads, config.headdim, config.d_state)
                state = torch.zeros(shape, device=device, dtype=exact)
                layers.append(MambaCache(state, state.new_zeros((batch, config.d_conv - 1, channels), dtype=dtype)))
            else:
                heads = config.d_model // config.attention_headdim
                none = torch.zeros((batch, heads, capacity, config.attention_headdim), device=device, dtype=dtype)
                layers.append(AttentionCache(none, none.clone()))
        return cls(tuple(layers), torch.zeros(batch, dtype=torch.int64, device=device))

    @property
    def batch(self) -> int:
        return self.lengths.shape[0]

    @property
    def capacity(self) -> int:
        """Tokens that keys and values have room for; 0 without attention."""
        return max((layer.keys.shape[2] for layer in self.layers if isinstance(layer, AttentionCache)), default=0)

    @property
    def bytes(self) -> int:
        """Memory of states, histories, keys and values."""
        tensors = [tensor for layer in self.layers for tensor in vars(layer).values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def rows(self, index: Sequence[int] | Tensor) -> Cache:
        """The cache of these rows, in this order; a row may come more than once, to branch."""
        chosen = torch.as_tensor(index, device=self.lengths.device)
        layers = [type(layer)(*(tensor[chosen] for tensor in vars(layer).values())) for layer in self.layers]
        lengths, aligned = self.lengths[chosen], self.aligned
        if not aligned:  # the longest of these rows may be shorter
            longest, aligned = int(lengths.max()) - self.dropped, bool((lengths == lengths[0]).all())
            layers = [_between(layer, 0, longest) for layer in layers]
        return Cache(tuple(layers), lengths, aligned, self.dropped)

    def last(self, tokens: int) -> Cache:
        """The cache with the keys and values of the last `tokens` tokens only: attention within a sliding window.

        The states of Mamba layers still hold the whole text, so a model without attention loses nothing. Raises
        ValueError for rows of different age, which would lose different tokens.
        """
        if not self.aligned:
            raise ValueError("rows of different age cannot be cut to one window; cut each before they are joined")
        if not 0 <= tokens < self.capacity:
            return self
        layers = tuple(_between(layer, self.capacity - tokens, self.capacity) for layer in self.layers)
        return Cache(layers, self.lengths, True, self.dropped + self.capacity - tokens)

    def extended(self, layers: Sequence[LayerCache], tokens: int) -> Cache:
        """The cache after `tokens` more: the new states, and the new keys and values behind each row's own."""
        after: list[LayerCache] = []
        behind = self.lengths[:, None] - self.dropped
        where = (behind + torch.arange(tokens, device=self.lengths.device))[:, None, :, None]
        for old, new in zip(self.layers, layers, strict=True):
            if isinstance(old, AttentionCache):
                assert isinstance(new, AttentionCache)
                joined = []
                for before, added in ((old.keys, new.keys), (old.values, new.values)):
                    if self.aligned:
                        joined.append(torch.cat([before.to(added.dtype), added], dim=2))
                        continue
                    room = torch.cat([before.to(added.dtype), torch.zeros_like(added)], dim=2)
                    joined.append(room.scatter(2, where.expand_as(added), added))
                new = AttentionCache(*joined)
            after.append(new)
        return Cache(tuple(after), self.lengths + tokens, self.aligned, self.dropped)

    def room(self, tokens: int) -> Cache:
        """The same tensors with the first `tokens` keys and values only, for a pass that needs no more."""
        layers = [_between(layer, 0, tokens, copy=False) for layer in self.layers]
        return Cache(tuple(layers), self.lengths, self.aligned, self.dropped)

    def set_rows(self, rows: Tensor, cache: Cache) -> None:
        """Overwrite `rows` (n,) int64 of this cache, in place, with the rows of one of at most its capacity."""
        for own, given in zip(self.layers, cache.layers, strict=True):
            for into, tensor in zip(vars(own).values(), vars(given).values(), strict=True):
                into[rows, :, : tensor.shape[2]] = tensor.to(into.dtype)
        self.lengths[rows] = cache.lengths

    @classmethod
    def join(cls, caches: Sequence[Cache]) -> Cache:
        """One batch of the rows of several caches, whose texts may be of different lengths.

        Raises ValueError for windows (`last`) that begin at different tokens.
        """
        if len({cache.dropped for cache in caches}) > 1:
            raise ValueError("caches whose windows begin at different tokens cannot be joined")
        layers: list[LayerCache] = []
        for parts in zip(*(cache.layers for cache in caches), strict=True):
            if isinstance(parts[0], AttentionCache):
                most = max(part.keys.shape[2] for part in parts)
                parts = [
                    AttentionCache(*(F.pad(v, (0, 0, 0, most - v.shape[2])) for v in (part.keys, part.values)))
                    for part in parts
                ]
            layers.append(type(parts[0])(*(torch.cat(v) for v in zip(*(vars(part).values() for part in parts)))))
        lengths = torch.cat([cache.lengths for cache in caches])
        return cls(tuple(layers), lengths, bool((lengths == lengths[0]).all()), caches[0].dropped)


def place_in_blocks(length: int, block_length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The number of each token's block and its place there, (length,) int64, and the block length as a tensor.

    As a tensor, since ONNX has no remainder by a number that is symbolic while the model is exported.
    """
    at, size = torch.arange(length, device=device), torch.full((), block_length, device=device)
    return at // size, at % size, size


def _between(layer: LayerCache, start: int, end: int, *, copy: bool = True) -> LayerCache:
    """The keys and values of some tokens; a Mamba layer as it is."""
    if isinstance(layer, MambaCache):
        return layer
    parts = (v[:, :, start:end] for v in (layer.keys, layer.values))
    return AttentionCache(*(v.clone() if copy else v for v in parts))


@dataclass(frozen=True)
class BlockPass:
    """The geometry of one pass: rows of blocks that follow `lengths` finished tokens. The last block may be shorter.

    streams: 1, clean or partly masked rows; 2, the second half of the rows are corrupted copies of the first half, and
    each corrupted block sees the clean blocks before it (training).
    committed: tokens at the start of clean rows that go into the cache; by default all.
    dropped: as in `Cache`.
    commit: (texts,) bool. The pass is one block and changes the cache in place: the states of the rows where it is
    True, and the keys and values behind `lengths` of every row, which a later pass overwrites in the other rows.
    verified, drafted: of a pass in blocks of one token that verifies a draft and drafts (`Denoiser.verify_and_draft`).
    A row is then [committed tokens | `verified` tokens of a draft | as many copies of them, corrupted | blocks of
    `drafted` tokens each]. A copy sees the clean tokens before its own, the first block the committed tokens, and each
    further block a token of the draft more.
    noisy_only: a layer returns the corrupted rows only, as the last one does: nothing but these reads its clean rows.
    """

    block_length: int
    length: int  # tokens of a row in this pass
    lengths: Tensor  # (texts,) int64, finished tokens before the pass
    aligned: bool
    streams: int = 1
    committed: int | None = None
    dropped: int = 0
    commit: Tensor | None = None
    verified: int = 0
    drafted: tuple[int, ...] = ()
    noisy_only: bool = False

    @property
    def texts(self) -> int:
        return self.lengths.shape[0]

    @property
    def parts(self) -> list[slice]:
        """The tokens that go into the cache and those that do not, without empty parts."""
        at = self.length if self.committed is None else self.committed
        return [slice(a, b) for a, b in ((0, at), (at, self.length)) if b > a]

    @property
    def kept(self) -> slice | Tensor:
        """The tokens that go into the cache."""
        return slice(self.committed)

    def short(self, prompt: int) -> ShortPass | GivenPaths:
        """The tokens of a row behind the first `prompt` ones, as a short pass."""
        committed = self.length if self.committed is None else self.committed
        behind = self.drafted if self.verified or self.drafted else (self.length - committed,)
        return ShortPass(committed - prompt, self.verified, behind, self.block_length)

    @property
    def clean(self) -> int:
        """Tokens at the start of a row that are clean, where it verifies a draft."""
        return (self.committed or 0) + self.verified

    def positions(self) -> Tensor:
        """True position of every token, (rows, length) int64."""
        here = torch.arange(self.length, device=self.lengths.device)
        if self.verified or self.drafted:
            start, end = self.clean - self.verified, self.clean
            drafted = (here[start + i : start + i + size] for i, size in enumerate(self.drafted))
            here = torch.cat([here[:end], here[start:end], *drafted])
        return (self.lengths[:, None] + here).repeat(self.streams, 1)

    def edges(self) -> tuple[Tensor, Tensor]:
        """Which tokens begin the text and which end a block, two bool (rows, length)."""
        _, place, size = place_in_blocks(self.length, self.block_length, self.lengths.device)
        last = place == size - 1
        if self.drafted:
            sizes = torch.tensor(self.drafted, device=last.device)
            last[-sum(self.drafted) :] = False
            last[self.length - sum(self.drafted) - 1 + sizes.cumsum(0)] = True
        if self.length % self.block_length:  # a shorter block at the end
            last = last | (torch.arange(1, self.length + 1, device=last.device) == self.length)
        return self.positions() == 0, last.expand(self.texts * self.streams, -1)

    def keys_read(self, capacity: int) -> Tensor:
        """Which keys of the cache a pass in place reads, its own included: (texts, 1, 1, capacity) bool."""
        read = torch.arange(capacity, device=self.lengths.device) < self.lengths[:, None] + self.length
        return read[:, None, None]

    def masks(self, capacity: int) -> tuple[Tensor | None, Tensor | None]:
        """What a query may read: of [cached, own] keys in the first stream, of [clean, corrupted] ones in the second.

        (texts, 1, length, capacity + length), with 1 text where the capacity is 0, and (length, 2 length) bool; None
        where everything may be read, and for a pass in place, which has `keys_read`.
        """
        if self.commit is not None:
            return None, None
        if self.verified or self.drafted:
            on_path = self.short(0).on_path(self.lengths.device)  # attention reads along it in either direction
            return self._with_cached(on_path.any(0), capacity), None
        device, alone = self.lengths.device, self.aligned and self.length <= self.block_length
        if alone and self.streams == 1:
            return None, None
        block = place_in_blocks(self.length, self.block_length, device)[0]
        noisy = None
        if self.streams == 2:
            noisy = torch.cat([block[:, None] > block, block[:, None] == block], dim=1)
        if alone:
            return None, noisy
        return self._with_cached(block[:, None] >= block, capacity), noisy

    def _with_cached(self, own: Tensor, capacity: int) -> Tensor:
        """The mask over cached and own keys, (texts or 1, 1, length, capacity + length); own (length, length)."""
        if not capacity:
            return own[None, None]
        cached = torch.arange(capacity, device=own.device) < self.lengths[:, None] - self.dropped  # (texts, capacity)
        shape = (self.texts, 1, self.length)
        return torch.cat([cached[:, None, None].expand(*shape, -1), own.expand(*shape, -1)], dim=-1)


@dataclass(frozen=True, kw_only=True)
class PathPass(BlockPass):
    """A pass that verifies a draft and drafts, with its paths as tensors: one traced graph serves every draft."""

    paths: GivenPaths
    places: Tensor  # (length,) int64, how far behind the finished tokens each token is
    ends: Tensor  # (length,) bool, which tokens end a block

    @classmethod
    def of(cls, ids: Tensor, lengths: Tensor, paths: GivenPaths, places: Tensor, ends: Tensor) -> PathPass:
        """The pass over ids (1, tokens) behind `lengths` (1,) finished tokens."""
        how = {"paths": paths, "places": places, "ends": ends}
        return cls(1, ids.shape[1], lengths, aligned=True, committed=0, verified=1, **how)

    @property
    def kept(self) -> Tensor:
        return self.paths.kept

    def short(self, prompt: int) -> GivenPaths:
        return self.paths

    def positions(self) -> Tensor:
        return self.lengths[:, None] + self.places

    def edges(self) -> tuple[Tensor, Tensor]:
        return self.positions() == 0, self.ends[None]
