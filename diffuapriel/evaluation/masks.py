"""Sets of masked tokens drawn by count, and the cost of the tokens in them: the estimator that all scores share.

Of the n tokens to score, l are masked, with l uniform over 1 to n, and the set S of that size is uniform too:

    nats  =  E  n/l  sum over S of  -log p(x_i | the tokens outside S)   >=   -log P(text)

This is the order-agnostic bound (arXiv:1310.1757, arXiv:2406.03736): the mean cost over all orders in which the tokens
can be revealed one at a time, with equality if the model's conditional distributions are consistent with one another.
No set is empty, and every l from 1 to n is drawn with the same probability, so the estimate is unbiased. A uniform
distribution over V tokens costs exactly n log V, whatever is drawn.

As in sampling, the denoiser gets the noise level whose masked share is that of the whole sequence, at most 1 - EPS. As
in its training, a model with document boundaries gets those of the clean text; the score is then one given them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.diffusion.blocks import block_noise_levels
from diffuapriel.diffusion.objective import DenoiserLike
from diffuapriel.ops.document_ids import make_document_ids


def stratified(rows: int, samples: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1), (rows, samples) float64: stratified within each row and, for each sample, over the rows.

    Sample k of each row is uniform in the k-th of `samples` strata. Each stratum is divided into `rows` parts, which
    are dealt to the rows at random.
    """
    uniform = torch.rand(rows, samples, generator=generator, device=generator.device).double()
    if rows > 1:
        deal = torch.rand(rows, samples, generator=generator, device=generator.device).argsort(0)
        uniform = (uniform + deal) / rows
    return (uniform + torch.arange(samples, device=generator.device)) / samples


def draw_masks(length: int, samples: int, generator: torch.Generator, *, rows: int = 1) -> Tensor:
    """Random sets of 1 to `length` positions, (rows, samples, length) bool; their sizes are stratified."""
    sizes = 1 + (stratified(rows, samples, generator) * length).long()
    shuffled = torch.rand(rows * samples, length, generator=generator, device=generator.device)
    ranks = shuffled.argsort(1).argsort(1).view(rows, samples, length)
    return ranks < sizes[..., None]


def masked_log_probs(denoiser: DenoiserLike, ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities of the clean tokens where `masked` (rows, length) hides `ids`, (masked.sum(), mask_id)."""
    return torch.log_softmax(_masked_logits(denoiser, ids, masked, mask_id), -1)


def masked_nats(denoiser: DenoiserLike, ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """-log p summed over the masked tokens of each row, (rows,) float64 on the CPU. ids and masked: (rows, length)."""
    logits = _masked_logits(denoiser, ids, masked, mask_id)
    nats = F.cross_entropy(logits, ids[masked], reduction="none").cpu().double()
    return nats.new_zeros(len(ids)).index_add_(0, masked.nonzero()[:, 0].cpu(), nats)


def block_nats(denoiser: DenoiserLike, ids: Tensor, masked: Tensor, mask_id: int, block_length: int) -> Tensor:
    """-log p summed over the masked tokens of each block, (rows, blocks) float64 on the CPU.

    ids and masked: (rows, length). Each block is masked by itself and sees the clean blocks before it. One block is the
    whole sequence.
    """
    rows, length = ids.shape
    if block_length == length:
        return masked_nats(denoiser, ids, masked, mask_id)[:, None]
    logits = block_logits(denoiser, ids, masked, mask_id, block_length)
    nats = F.cross_entropy(logits, ids[masked], reduction="none").cpu().double()
    per_token = torch.zeros(rows, length, dtype=torch.float64).masked_scatter(masked.cpu(), nats)
    return per_token.view(rows, -1, block_length).sum(2)


def block_logits(denoiser: DenoiserLike, ids: Tensor, masked: Tensor, mask_id: int, block_length: int) -> Tensor:
    """Float32 logits at the masked positions, (masked.sum(), mask_id); each block is masked by itself."""
    noisy, sigma = ids.masked_fill(masked, mask_id), block_noise_levels(masked, block_length)
    logits = cast(Callable[..., Tensor], denoiser)(noisy, sigma, masked, clean=ids, block_length=block_length)
    return logits[:, :mask_id].float()


def noise_level(masked: Tensor) -> Tensor:
    """Sigma of each row of `masked` (rows, length), (rows,) float32: -log of the unmasked share, at least EPS."""
    return block_noise_levels(masked, masked.shape[1])[:, 0]


def trained_document_ids(denoiser: DenoiserLike, ids: Tensor) -> Tensor | None:
    """The document_ids of clean `ids` (rows, length) for a model that was trained with them, else None."""
    config = getattr(denoiser, "config", None)  # a plain function has none
    return make_document_ids(ids, config.eos_id) if config and config.document_boundaries else None


def _masked_logits(denoiser: DenoiserLike, ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """Float32 logits of the clean tokens at the masked positions, (masked.sum(), mask_id)."""
    logits_at = cast(Callable[..., Tensor], denoiser)
    if (document_ids := trained_document_ids(denoiser, ids)) is not None:
        logits_at = partial(logits_at, document_ids=document_ids)
    logits = logits_at(ids.masked_fill(masked, mask_id), noise_level(masked), masked)
    return logits[:, :mask_id].float()
