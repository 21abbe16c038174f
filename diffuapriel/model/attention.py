"""Bidirectional attention with rotary positions (RoPE, arXiv:2104.09864) and normalized queries and keys (QK-norm,
arXiv:2302.05442): the mixer of every DiffuTran block and of the hybrid's attention blocks.

    q, k, v = in_proj(u)
    y       = softmax(RoPE(norm(q)) RoPE(norm(k))^T / sqrt(headdim)) v
    output  = out_proj(y)

Every token attends to every other one, or to those of its own document where a row holds several. Without RoPE
attention would not know the order of tokens; without QK-norm it would not tolerate the learning rate that it needs to
compete on a laptop. RoPE encodes relative positions only: on an all-mask canvas the output is the same
at every position, unless the input marks the edges of the text (`EdgeEmbedding` in denoiser.py).

On CUDA the fastest kernel that accepts the call runs: FlashAttention-3 where it is installed (ops/flash_attention.py),
then cuDNN's (1.7 to 2.3 times as fast as FlashAttention-2 on Hopper), then FlashAttention-2. PyTorch's default order is
the reverse. Recorded passes over blocks have a kernel of our own (ops/cached_attention.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffuapriel.config import ModelConfig
from diffuapriel.model.blocks import AttentionCache, BlockPass
from diffuapriel.model.layers import EPS, rms_norm
from diffuapriel.ops import cached_attention, flash_attention

ROPE_BASE = 10_000.0
Rotary = tuple[Tensor, Tensor]  # cosine and sine, each (length, 1, headdim / 2), or one for each row
Masks = tuple[Tensor | None, Tensor | None]  # of clean and of corrupted rows, from `BlockPass.masks`
FASTEST_FIRST = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


class Attention(nn.Module):
    """Multi-head self-attention: (batch, length, d_model) to the same shape.

    `kernels` is the order in which PyTorch's CUDA kernels are tried; a benchmark can set a single one. FlashAttention-3
    comes before the default order.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.headdim = config.attention_headdim
        self.kernels = FASTEST_FIRST  # compared by value: for torch.compile, `is` never holds between tuples
        self.in_proj = nn.Linear(config.d_model, 3 * config.d_model, bias=False)  # queries, keys, values
        self.q_norm_weight = nn.Parameter(torch.ones(self.headdim))
        self.k_norm_weight = nn.Parameter(torch.ones(self.headdim))
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        nn.init.normal_(self.in_proj.weight, std=config.d_model**-0.5 / 3**0.5)
        nn.init.normal_(self.out_proj.weight, std=(config.d_model * 3 * 2 * config.depth) ** -0.5)

    def forward(self, u: Tensor, rotary: Rotary, mask: Tensor | None = None) -> Tensor:
        """u (batch, length, d_model) to the same shape; `rotary` from `rotary_angles`, `mask` from `document_mask`."""
        q, k, v = self._project(u, rotary)
        y = self._attend(q, k, v, mask)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def forward_blocks(
        self, u: Tensor, rotary: Rotary, masks: Masks, cache: AttentionCache, over: BlockPass
    ) -> tuple[Tensor, AttentionCache]:
        """As `forward` for a pass over blocks (model/blocks.py); also the keys and values of the committed tokens of u.

        Corrupted rows, if there are any, read the clean rows of the pass, not the cache.
        """
        if over.commit is not None:
            return self._mix_in_place(u, rotary, cache, over), cache
        q, k, v = self._project(u, rotary)
        texts = cache.keys.shape[0]
        (q, *q_noisy), (k, *k_noisy), (v, *v_noisy) = (w.split(texts) for w in (q, k, v))
        keys, values = k, v
        if cache.keys.shape[2]:
            keys = torch.cat([cache.keys.to(k.dtype), keys], dim=2)
            values = torch.cat([cache.values.to(v.dtype), values], dim=2)
        y = [] if over.noisy_only else [self._attend(q, keys, values, masks[0])]
        if q_noisy:
            y.append(self._attend_clean((q_noisy[0], k_noisy[0], v_noisy[0]), k, v, masks[1], over.block_length))
        kept = AttentionCache(k[:, :, over.kept], v[:, :, over.kept])
        y = [part.transpose(1, 2) for part in y]
        return self.out_proj((torch.cat(y) if len(y) > 1 else y[0]).flatten(2)), kept

    def mix_in_place(self, u: Tensor, rotary: Rotary, cache: AttentionCache, over: BlockPass) -> Tensor:
        """`forward_blocks` of a pass in place, by our kernels where they can run."""
        keys, values = cache.keys, cache.values
        if self.kernels == FASTEST_FIRST and cached_attention.takes(keys):
            weights = self.q_norm_weight, self.k_norm_weight
            q = cached_attention.project(self.in_proj(u), *weights, *rotary, keys, values, over.lengths, EPS)
            return self.out_proj(cached_attention.attend(q, keys, values, over.lengths).flatten(2))
        return self._mix_in_place(u, rotary, cache, over)

    def _mix_in_place(self, u: Tensor, rotary: Rotary, cache: AttentionCache, over: BlockPass) -> Tensor:
        """`mix_in_place` by PyTorch's kernels."""
        q, k, v = self._project(u, rotary)
        cached_attention.append(cache.keys, cache.values, k, v, over.lengths)
        y = self._attend(q, cache.keys, cache.values, over.keys_read(cache.keys.shape[2]))
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _project(self, u: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, heads, length, headdim) each; the first two normalized and rotated."""
        qkv = self.in_proj(u).unflatten(-1, (3, -1, self.headdim))  # (batch, length, 3, heads, headdim)
        q, k, v = qkv.unbind(2)
        q = rotate(rms_norm(q, self.q_norm_weight), *rotary)
        k = rotate(rms_norm(k, self.k_norm_weight), *rotary)
        return q.transpose(1, 2), k.transpose(1, 2), v.to(q.dtype).transpose(1, 2)

    def _attend_clean(
        self, noisy: tuple[Tensor, ...], k: Tensor, v: Tensor, mask: Tensor | None, block_length: int
    ) -> Tensor:
        """Corrupted tokens (q, k, v) attend to the clean blocks before their own, whose are k and v, and to their own.

        On a CPU in two parts, the first of which does not need the last clean blocks.
        """
        assert mask is not None
        length = k.shape[2]
        middle = length if k.is_cuda else (length // block_length + 1) // 2 * block_length
        if middle == length:
            keys, values = (torch.cat([clean, own], dim=2) for clean, own in zip((k, v), noisy[1:], strict=True))
            return self._attend(noisy[0], keys, values, mask)
        # split: the gradient of an index would be a tensor of zeros as large as what is indexed
        sizes, y = [middle, length - middle], []
        q_parts, *own = (w.split(sizes, dim=2) for w in noisy)
        for part, clean in enumerate(([w.split(sizes, dim=2)[0] for w in (k, v)], (k, v))):
            keys, values = (torch.cat([w, o[part]], dim=2) for w, o in zip(clean, own, strict=True))
            rows, behind = mask.split(sizes)[part].split(length, dim=1)
            read = torch.cat([rows[:, : clean[0].shape[2]], behind.split(sizes, dim=1)[part]], dim=1)
            y.append(self._attend(q_parts[part], keys, values, read))
        return torch.cat(y, dim=2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self.kernels == FASTEST_FIRST and flash_attention.takes(q, mask):
            return flash_attention.attend(q, k, v)
        if not q.is_cuda:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        with sdpa_kernel(list(self.kernels), set_priority=True):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def document_mask(document_ids: Tensor) -> Tensor:
    """(batch, 1, length, length) bool: whether query and key are of one document. document_ids (batch, length).

    One byte per pair of tokens: 1 MB per row at 1,024 tokens, 1 GB at 32,768. Made once per forward pass.
    """
    return document_ids[:, None, :, None] == document_ids[:, None, None, :]


def rotary_angles(positions: int | Tensor, headdim: int, device: torch.device) -> Rotary:
    """Cosine and sine of position times frequency, each (..., length, 1, headdim / 2), float32.

    positions: (..., length) int64, or a number for that many from 0.
    """
    if not isinstance(positions, Tensor):  # a number, which is symbolic while the model is exported
        positions = torch.arange(positions, device=device)
    frequency = ROPE_BASE ** -(torch.arange(0, headdim, 2, device=device, dtype=torch.float32) / headdim)
    angle = (positions.float()[..., None] * frequency)[..., None, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i + headdim/2}) by its angle. x (batch, length, heads, headdim)."""
    first, second = x.float().chunk(2, dim=-1) if x.dtype != torch.float64 else x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
