"""The denoiser: tokens with [MASK]s and a noise level in, logits over clean tokens out.

One class for all three architectures (arXiv:2511.15927, section 3), which differ only in the mixer of each block and
in the hidden size of the MLP. With c the embedding of the noise level sigma (AdaLN, model/layers.py):

    x = embedding(ids) + edges
    for each block:  x = x + gate(c) mixer(modulate(norm(x), c))         Mamba-2 or attention
                     x = x + gate(c) MLP(modulate(norm(x), c))
    logits = head(modulate(norm(x), c))

`edges` is a learned vector at the first and another at the last position, 0 elsewhere (`EdgeEmbedding`).

The denoiser does not know the schedule; it gets the noise level sigma = -log alpha(t).

    ids            (batch, length) int64, with [MASK]s
    sigma          (batch,) float32, noise level, 0 or more
    positions      where to compute logits: (batch, length) bool, or (chosen,) int64 into the flattened batch. Worth
                   using, because the head dominates the cost of small models
    document_ids   (batch, length) int64: the document of each token, where a row holds several. Each document gets the
                   logits that it would get alone (ops/document_ids.py). A model with `document_boundaries` in its
                   config was trained so: training and scores pass the boundaries of the clean text, and where none are
                   given, as in sampling, every visible <|endoftext|> ends a document
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuapriel.config import ModelConfig
from diffuapriel.model.attention import Attention, Masks, Rotary, document_mask, rotary_angles
from diffuapriel.model.blocks import AttentionCache, BlockPass, Cache, LayerCache, MambaCache, PathPass
from diffuapriel.model.layers import EPS, Modulation, TimeEmbedding, modulate, rms_norm
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops import residual
from diffuapriel.ops.document_ids import check_document_ids, make_document_ids, number_runs


class Block(nn.Module):
    """Mixer, then MLP; each is modulated, gated and added to the residual stream."""

    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        self.mixer_norm_weight = nn.Parameter(torch.ones(config.d_model))
        self.attends = kind == "attention"
        self.mixer = Attention(config) if self.attends else BidirectionalMamba2(config)
        self.mlp_norm_weight = nn.Parameter(torch.ones(config.d_model))
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        modulation: Sequence[Tensor],
        rotary: Rotary | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """x (batch, length, d_model) to the same shape.

        modulation: six tensors (batch, 1 or length, d_model), shift, scale and gate for mixer and MLP. rotary: for
        attention. documents: separates packed documents, a `document_mask` for attention and document_ids for Mamba.
        """
        shift, scale, gate, *mlp_modulation = modulation
        u = modulate(rms_norm(x, self.mixer_norm_weight), shift, scale)
        x = x + gate * (self.mixer(u, rotary, documents) if self.attends else self.mixer(u, documents))
        return self._add_mlp(x, *mlp_modulation)

    def forward_blocks(
        self,
        x: Tensor,
        modulation: Sequence[Tensor],
        over: BlockPass,
        cache: LayerCache,
        rotary: Rotary | None = None,
        masks: Masks = (None, None),
    ) -> tuple[Tensor, LayerCache]:
        """As `forward` for a pass over blocks of tokens (model/blocks.py); also what the layer adds to the cache.

        Returns the corrupted rows alone where `over` is `noisy_only`.

        rotary and masks: for attention.
        """
        shift, scale, *rest = modulation
        u = modulate(rms_norm(x, self.mixer_norm_weight), shift, scale)
        if isinstance(self.mixer, Attention):
            assert isinstance(cache, AttentionCache) and rotary is not None
            y, cache = self.mixer.forward_blocks(u, rotary, masks, cache, over)
        else:
            assert isinstance(cache, MambaCache)
            y, cache = self.mixer.forward_blocks(u, over, cache)
        if over.noisy_only:
            x, *rest = (v[over.texts :] for v in (x, *rest))
        gate, *mlp_modulation = rest
        return self._add_mlp(x + gate * y, *mlp_modulation), cache

    def mix_in_place(self, u: Tensor, over: BlockPass, cache: LayerCache, rotary: Rotary | None) -> residual.Added:
        """What the mixer adds to the residual stream in a pass in place, before its last sum."""
        if isinstance(self.mixer, Attention):
            assert isinstance(cache, AttentionCache) and rotary is not None
            return residual.Added(self.mixer.mix_in_place(u, rotary, cache, over)[None])
        assert isinstance(self.mixer, BidirectionalMamba2) and isinstance(cache, MambaCache)
        return self.mixer.mix_in_place(u, over, cache)

    def _add_mlp(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return x + gate * self.mlp(modulate(rms_norm(x, self.mlp_norm_weight), shift, scale))


class MLP(nn.Module):
    """Two linear layers with a GELU between them: (batch, length, d_model) to the same shape.

    The hidden layer is `mlp_ratio` times as wide as d_model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.d_model
        self.up = nn.Linear(config.d_model, hidden, bias=False)
        self.down = nn.Linear(hidden, config.d_model, bias=False)
        nn.init.normal_(self.up.weight, std=config.d_model**-0.5 / 3**0.5)
        nn.init.normal_(self.down.weight, std=(hidden * 3 * 2 * config.depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def parts(self, x: Tensor) -> Tensor:
        """`forward` as parts (p, batch, length, d_model), whose sum it is: `split_product`."""
        return residual.split_product(F.gelu(self.up(x), approximate="tanh"), self.down.weight)


class EdgeEmbedding(nn.Module):
    """A learned vector for the first and one for the last position of every text, 0 elsewhere.

    Attention over a canvas of [MASK]s alone gives every position the same output, since RoPE tells distances and all
    neighbors are alike. A scan starts from an empty state and sees how far the edge is. With these two vectors each
    architecture has the same sense of place.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(d_model))
        self.last = nn.Parameter(torch.empty(d_model))
        nn.init.normal_(self.first, std=0.02)
        nn.init.normal_(self.last, std=0.02)

    def forward(self, length: int, runs: Tensor | None = None) -> Tensor:
        """(1, length, d_model), or (batch, length, d_model) with `runs`, the number of each position's document."""
        if runs is None:
            runs = torch.zeros(1, length, dtype=torch.int64, device=self.first.device)
        changes = runs[:, 1:] != runs[:, :-1]  # (batch, length - 1)
        return self.at(F.pad(changes, (1, 0), value=True), F.pad(changes, (0, 1), value=True))

    def at(self, first: Tensor, last: Tensor) -> Tensor:
        """The vectors at the given positions, bool (batch, length) each: (batch, length, d_model)."""
        return first[..., None] * self.first + last[..., None] * self.last


class Denoiser(nn.Module):
    """The denoiser of a masked diffusion language model, built from its `ModelConfig`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.time_embedding = TimeEmbedding(config.cond_dim)
        self.modulation = Modulation(config.cond_dim, config.d_model, count=6 * config.depth + 2)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.layer_kinds)
        self.final_norm_weight = nn.Parameter(torch.ones(config.d_model))
        self.head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        self.edges = EdgeEmbedding(config.d_model) if config.edge_embedding else None

    def forward(
        self,
        ids: Tensor,
        sigma: Tensor,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        cache: Cache | None = None,
        clean: Tensor | None = None,
        block_length: int | None = None,
        padded: bool = False,
    ) -> Tensor:
        """Logits over clean tokens: (batch, length, vocab_size), or (chosen, vocab_size) with `positions`.

        With `positions` the final norm and the head run at the chosen positions only, in row-major order if they are a
        mask. The logit of [MASK], the last one, has no meaning; the SUBS parameterization discards it. `padded` also
        returns the meaningless columns after it, padded_vocab_size in all, because slicing them off would cost the
        backward pass a copy of all logits. Raises ValueError for shapes that do not fit.

        Block diffusion (model/blocks.py), by one of

        cache: ids are the next block of each row, after the text in the cache. Equal to a pass over the whole text.
        clean: (batch, length), the text of which ids are a corrupted copy; every block of `block_length` tokens sees
            the clean blocks before it and its own corrupted tokens, all in one pass. sigma may have a level per block,
            (batch, blocks).
        """
        over_blocks = cache is not None or clean is not None
        self._check(ids, sigma, positions, document_ids, clean, block_length, over_blocks)
        if over_blocks:
            x, shift, scale, _ = self._over_blocks(ids, sigma, cache, clean, block_length)
        else:
            x, shift, scale = self._residual(ids, sigma, document_ids)
        logits = self._logits(x, shift, scale, positions)
        return logits if padded else logits[..., : self.config.vocab_size]

    def _logits(self, x: Tensor, shift: Tensor, scale: Tensor, positions: Tensor | None) -> Tensor:
        """Logits at `positions` of the residual stream x (batch, length, d_model), by default at all."""
        if positions is not None:
            if positions.dtype == torch.bool:
                positions = positions.flatten().nonzero()[:, 0]
            # The level of each chosen position: its row of the batch, or the position itself.
            level = positions // (x.shape[1] // shift.shape[1])
            # Not shift[row, 0]: its backward pass adds in an order that varies, so that runs would not repeat exactly.
            shift, scale = (v.flatten(0, 1).index_select(0, level) for v in (shift, scale))
            x = x.flatten(0, 1).index_select(0, positions)  # (chosen, d_model), as shift and scale are
        return self.head(self.final_norm(x, shift, scale))

    def empty_cache(self, batch: int, capacity: int = 0) -> Cache:
        """The cache of `batch` texts before their first block; with room for `capacity` tokens, if it is for
        `hidden_in_place`."""
        weight = self.embedding.weight
        return Cache.empty(self.config, batch, device=weight.device, dtype=weight.dtype, capacity=capacity)

    def commit(self, ids: Tensor, cache: Cache, block_length: int | None = None) -> Cache:
        """The cache after whole blocks more: ids (batch, length) int64 without [MASK]s.

        block_length: of the blocks that ids consist of, by default one. `cache` stays valid.
        """
        sigma = torch.zeros(ids.shape[0], device=ids.device)
        self._check(ids, sigma, None, None, None, block_length, True)
        layers = self._over_blocks(ids, sigma, cache, None, block_length)[-1]
        return cache.extended(layers, ids.shape[1])

    def commit_and_denoise(
        self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None, *, cache: Cache, block_length: int
    ) -> tuple[Tensor, Cache]:
        """Commit finished blocks and denoise the block behind them, in one pass.

        Equal to `commit` of all tokens but the last block, and a call with the cache that it returns.

        Args:
            ids: (batch, length) int64, blocks of `block_length` tokens that follow the text in `cache`. The last block,
                which may be shorter, is denoised; those before it are finished.
            sigma: (batch,), of the last block. positions: bool, (batch, tokens of the last block), as for a call.

        Returns the logits of the last block and the cache before it. `cache` stays valid.
        """
        length = ids.shape[1] if ids.ndim == 2 else 0
        if block_length < 1 or not length:
            raise ValueError(f"block_length is {block_length} for ids {tuple(ids.shape)}; it must be 1 or more")
        committed = (length - 1) // block_length * block_length
        self._check(ids[:, committed:], sigma, positions, None, over_blocks=True)
        layers: list[LayerCache]
        x, shift, scale, layers = self._over_blocks(ids, sigma, cache, None, block_length, committed)
        logits = self._logits(x, shift, scale, positions)[..., : self.config.vocab_size]
        return logits, cache.extended(layers, committed) if committed else cache

    def verify_and_draft(
        self, ids: Tensor, draft: Tensor, blocks: Sequence[Tensor], *, cache: Cache
    ) -> tuple[Tensor, list[Tensor], Cache]:
        """Commit a text in blocks of one token, verify a draft of what follows, and denoise blocks there: one pass.

        Equal to `commit` of ids, then, with the cache that it returns, a call with a [MASK] in place of each token of
        the draft after the draft's tokens before it, and a call with each block after as many tokens of the draft as
        there are blocks before it.

        Args:
            ids: (batch, tokens) int64, finished tokens that follow the text in `cache`; may have no tokens.
            draft: (batch, verified) int64, tokens that may follow ids; may have none.
            blocks: at most one more than the draft has tokens; (batch, drafted) int64 each, with [MASK]s.

        Returns the logits at each token of the draft and at each of the blocks, and the cache after ids.
        Raises ValueError for a model that is told the noise level, for a pass without tokens and for too many blocks.
        """
        if self.config.time_conditioning:
            raise ValueError("the model is told the noise level; a pass that verifies a draft has several")
        if len(blocks) > draft.shape[1] + 1:
            most = draft.shape[1] + 1
            raise ValueError(f"{len(blocks)} blocks; behind a draft of {most - 1} tokens there are {most} at most")
        row = torch.cat([ids, draft, torch.full_like(draft, self.config.mask_id), *blocks], dim=1)
        sigma = torch.zeros(row.shape[0], device=row.device)
        self._check(row, sigma, None, None, over_blocks=True)
        sizes = draft.shape[1], tuple(block.shape[1] for block in blocks)
        x, shift, scale, layers = self._over_blocks(row, sigma, cache, None, 1, ids.shape[1], speculation=sizes)
        logits = self._logits(x[:, sizes[0] :], shift, scale, None)[..., : self.config.vocab_size]
        verified, *drafted = logits.split([sizes[0], *sizes[1]], dim=1)
        return verified, drafted, cache.extended(layers, ids.shape[1]) if ids.shape[1] else cache

    def block_pass(self, ids: Tensor, sigma: Tensor, positions: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Logits of the next blocks of one text, and the cache behind them as they are: the pass exported to ONNX.

        Denoising takes the logits of one block, a commit the cache after any number; ids (blocks, block length) int64,
        sigma (1,), positions (chosen,) int64 over all of ids.
        """
        x, shift, scale, layers = self._over_blocks(ids.flatten()[None], sigma, cache, None, ids.shape[1])
        logits = self._logits(x, shift, scale, positions)[..., : self.config.vocab_size]
        return logits, cache.extended(layers, ids.numel())

    def path_pass(self, ids: Tensor, positions: Tensor, over: PathPass, cache: Cache) -> tuple[Tensor, Cache]:
        """`verify_and_draft` of one text, its paths being tensors: the other pass exported to ONNX.

        ids (1, tokens) int64, positions (chosen,) int64, those whose logits are wanted.
        """
        x, (shift, scale), layers = self._through(ids, torch.zeros(1), over, cache)
        logits = self._logits(x, shift, scale, positions)[..., : self.config.vocab_size]
        return logits, cache.extended(layers, over.paths.kept.shape[0])

    def hidden(self, ids: Tensor, sigma: Tensor) -> Tensor:
        """The input of the head at every position, (batch, length, d_model). Never waits for the device."""
        return self.final_norm(*self._residual(ids, sigma))

    def hidden_in_place(
        self,
        ids: Tensor,
        sigma: Tensor,
        cache: Cache,
        commit: Tensor | None,
        capacity: int | None = None,
        *,
        level: Tensor | None = None,
    ) -> Tensor:
        """The input of the head for the next block of each row, (batch, length, d_model), for a pass that is recorded.

        Where commit (batch,) is True the block, which must be clean there, joins the cache in place; `cache` is from
        `empty_cache` with room for it. None where no row commits, which takes less time. Never waits for the device.
        capacity: of the cache, as far as this pass reads it: at least each row's length and the block; by default all.
        level: `levels(sigma)`, where it is known. Without it a pass takes some 40 us longer with the 1.3b preset.
        """
        cache = cache if capacity is None else cache.room(capacity)
        if residual.takes(self.embedding.weight):
            x = self._in_place(ids, self.levels(sigma) if level is None else level, cache, commit)
        else:
            rows = torch.zeros_like(cache.lengths, dtype=torch.bool) if commit is None else commit
            x = self.final_norm(*self._over_blocks(ids, sigma, cache, None, None, commit=rows)[:3])
        if commit is not None:
            cache.lengths.add_(commit * ids.shape[1])
        return x

    def levels(self, sigma: Tensor) -> Tensor:
        """All that a pass computes of the noise level: modulations of all layers, (batch, (6 depth + 2) d_model)."""
        sigma = sigma if self.config.time_conditioning else torch.zeros_like(sigma)
        return self.modulation.linear(self.time_embedding(sigma))

    def _in_place(self, ids: Tensor, level: Tensor, cache: Cache, commit: Tensor | None) -> Tensor:
        """`hidden_in_place` by our kernels: what happens between two products is one launch."""
        length, eps = ids.shape[1], EPS
        over = BlockPass(length, length, cache.lengths, cache.aligned, commit=commit)
        x, rotary = self._embed(ids, over)
        modulations = level[:, None].chunk(self.modulation.count, dim=-1)  # (rows, 1, d_model) each
        added = residual.Added()
        for i, (block, layer) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            assert isinstance(block, Block)
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulations[6 * i : 6 * i + 6]
            x, u = residual.add_norm(x, block.mixer_norm_weight, shift, scale, added, eps)
            added = block.mix_in_place(u, over, layer, rotary)._replace(gate=gate)
            x, u = residual.add_norm(x, block.mlp_norm_weight, mlp_shift, mlp_scale, added, eps)
            added = residual.Added(block.mlp.parts(u), gate=mlp_gate)
        shift, scale = modulations[-2:]
        return residual.add_norm(x, self.final_norm_weight, shift, scale, added, eps)[1]

    @torch.no_grad()
    def init_from(self, source: Denoiser) -> None:
        """Copy the weights of a model of this shape, which may write in other blocks.

        A model that is not told the noise level has one modulation, and begins with the mean of the source's over the
        masked shares from 0 to 1. One that is told, of a source that is not, begins with the source's at every level.
        """
        self.load_state_dict(source.state_dict())
        told, time, before = self.config.time_conditioning, self.time_embedding, source.config.time_conditioning
        unused = time(torch.zeros(1, device=time.up.bias.device))  # sigma of a model that is not told
        if before and not told:
            t = (torch.arange(1000, device=unused.device) + 0.5) / 1000
            mean = time(-torch.log1p(-t)).mean(0)  # (cond_dim,)
            self.modulation.linear.bias += self.modulation.linear.weight @ (mean - unused[0])
        elif told and not before:
            self.modulation.linear.bias.copy_(self.modulation.linear(unused)[0])
            self.modulation.linear.weight.zero_()

    def final_norm(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """The modulated final norm of the residual stream x, the input of the head."""
        return modulate(rms_norm(x, self.final_norm_weight), shift, scale)

    def _residual(
        self, ids: Tensor, sigma: Tensor, document_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream after the last block (batch, length, d_model), and the final shift and scale."""
        if not self.config.time_conditioning:
            sigma = torch.zeros_like(sigma)
        modulations = self.modulation(self.time_embedding(sigma))  # of all layers, (batch, 1, d_model) each
        rotary = mask = None
        if document_ids is None and self.config.document_boundaries:
            document_ids = make_document_ids(ids, self.config.eos_id)
        if document_ids is not None:
            document_ids = number_runs(document_ids)  # now no two documents of a row share a number
        if "attention" in self.config.layer_kinds:
            mask = None if document_ids is None else document_mask(document_ids)
            rotary = rotary_angles(ids.shape[1], self.config.attention_headdim, ids.device)
        x = self.embedding(ids)  # (batch, length, d_model)
        if self.edges is not None:
            x = x + self.edges(ids.shape[1], document_ids).to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, modulations[6 * i : 6 * i + 6], rotary, mask if block.attends else document_ids)
        shift, scale = modulations[-2:]
        return x, shift, scale

    def _over_blocks(
        self,
        ids: Tensor,
        sigma: Tensor,
        cache: Cache | None,
        clean: Tensor | None,
        block_length: int | None,
        committed: int | None = None,
        commit: Tensor | None = None,
        speculation: tuple[int, tuple[int, ...]] = (0, ()),
    ) -> tuple[Tensor, Tensor, Tensor, list[LayerCache]]:
        """As `_residual` for a pass over blocks; also what each layer adds to the cache.

        committed: the tokens that it adds, by default all; the residual stream is then that of the others.
        commit, and speculation (verified, drafted): as in `BlockPass`.
        """
        (texts, length), streams = ids.shape, 1 if clean is None else 2
        block_length = block_length or length
        if clean is not None:  # unmasked rows have the noise level 0
            ids, sigma = torch.cat([clean, ids]), torch.cat([torch.zeros_like(sigma), sigma])
        if not self.config.time_conditioning:
            sigma = torch.zeros_like(sigma[:, 0] if sigma.ndim == 2 else sigma)
        elif committed:  # finished blocks have the noise level 0
            sigma = F.pad(sigma[:, None], (committed // block_length, 0))
        cache = cache or self.empty_cache(texts)
        of_cache = cache.lengths, cache.aligned
        over = BlockPass(block_length, length, *of_cache, streams, committed, cache.dropped, commit, *speculation)
        x, last, added = self._through(ids, sigma, over, cache)
        x, shift, scale = (v[-texts:] for v in (x, *last))
        if committed:
            x = x[:, committed:]
            shift, scale = (v[:, committed:] if v.shape[1] > 1 else v for v in (shift, scale))
        return x, shift, scale, added

    def _through(
        self, ids: Tensor, sigma: Tensor, over: BlockPass, cache: Cache
    ) -> tuple[Tensor, list[Tensor], list[LayerCache]]:
        """The residual stream after the last block, the last shift and scale, and what each layer adds to the cache."""
        x, rotary = self._embed(ids, over)
        modulations = self.modulation(self.time_embedding(sigma))  # of all layers, (rows, levels, d_model) each
        if sigma.ndim == 2:
            modulations = [v.repeat_interleave(over.block_length, dim=1)[:, : over.length] for v in modulations]
        masks = over.masks(cache.capacity) if rotary else (None, None)
        added: list[LayerCache] = []
        for i, (block, layer) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            assert isinstance(block, Block)
            if over.streams == 2 and i == self.config.depth - 1:
                over = replace(over, noisy_only=True)
            x, layer = block.forward_blocks(x, modulations[6 * i : 6 * i + 6], over, layer, rotary, masks)
            added.append(layer)
        return x, list(modulations[-2:]), added

    def _embed(self, ids: Tensor, over: BlockPass) -> tuple[Tensor, Rotary | None]:
        """Of a pass over blocks: the residual stream at its start, and the angles for attention."""
        x, rotary = self.embedding(ids), None  # (rows, length, d_model)
        if self.edges is not None:
            x = x + self.edges.at(*over.edges()).to(x.dtype)
        if "attention" in self.config.layer_kinds:
            rotary = rotary_angles(over.positions(), self.config.attention_headdim, ids.device)
        return x, rotary

    def _check(
        self,
        ids: Tensor,
        sigma: Tensor,
        positions: Tensor | None,
        document_ids: Tensor | None,
        clean: Tensor | None = None,
        block_length: int | None = None,
        over_blocks: bool = False,
    ) -> None:
        if ids.ndim != 2 or ids.dtype != torch.int64 or 0 in ids.shape:
            raise ValueError(f"ids are {tuple(ids.shape)} {ids.dtype}; they must be (batch, length) int64, not empty")
        levels = (ids.shape[0], ids.shape[1] // (block_length or ids.shape[1]))
        if sigma.shape != ids.shape[:1] and not (over_blocks and sigma.shape == levels):
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}; it must be ({ids.shape[0]},), one per row")
        if positions is not None and not (
            (positions.dtype == torch.bool and positions.shape == ids.shape)
            or (positions.dtype == torch.int64 and positions.ndim == 1)
        ):
            raise ValueError(
                f"positions are {tuple(positions.shape)} {positions.dtype}; "
                f"they must be bool, shaped as ids {tuple(ids.shape)}, or int64 (chosen,)"
            )
        if document_ids is not None:
            check_document_ids(document_ids, *ids.shape)
        if not over_blocks and block_length is not None:
            raise ValueError(f"block_length is {block_length}; it goes with cache or clean")
        if not over_blocks:
            return
        if document_ids is not None or self.config.document_boundaries:
            raise ValueError("a pass over blocks of tokens does not keep packed documents apart")
        if block_length is not None and (block_length < 1 or ids.shape[1] % block_length):
            raise ValueError(f"block_length is {block_length}; it must divide the length, {ids.shape[1]}")
        if clean is not None and (clean.shape != ids.shape or clean.dtype != torch.int64):
            raise ValueError(f"clean is {tuple(clean.shape)} {clean.dtype}; it must be int64, shaped as ids")
