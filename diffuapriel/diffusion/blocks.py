"""The NELBO of block diffusion, by counts (BD3-LM, arXiv:2503.09573; the counting form is arXiv:1310.1757).

    -log p(x)  <=  sum over blocks b of  E [ S/l  sum over the masked positions i of b of  -log p(x_i | x_t^b, x^{<b}) ]

where of the S tokens of each block l are masked, l uniform over 1 to S and the set of that size uniform too. No draw is
empty and no weight grows without bound. One token per block, S = 1, leaves nothing to draw: the bound is the exact
log-likelihood of an autoregressive model. S = length is the bound of a full-sequence model.

    u   which l each block draws, l = floor(u S) + 1; (rows, blocks), stratified over all blocks of a step and dealt to
        them at random, so that no place in the text always gets few masks
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from diffuapriel.diffusion.objective import DenoiserLike, Nelbo, masked_nll
from diffuapriel.diffusion.schedule import EPS


def stratified_blocks(
    rows: int,
    blocks: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    *,
    mask_rates: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """u for every block, (rows, blocks) float32: one in each part of `mask_rates`, dealt to the blocks at random.

    A narrower range than (0, 1) trains on rates where gradients vary less (BD3-LM, section 5); it is then no bound.
    Raises ValueError for a range that is not within [0, 1].
    """
    low, high = mask_rates
    if not 0 <= low < high <= 1:
        raise ValueError(f"mask_rates are {mask_rates}; permitted: two rising numbers from 0 to 1")
    n = rows * blocks
    part = torch.randperm(n, generator=generator, device=device)
    u = (part + torch.rand(n, generator=generator, device=device)) / n
    return (low + (high - low) * u).clamp_max(1 - 2**-24).view(rows, blocks)


def mask_blocks(u: Tensor, noise: Tensor) -> Tensor:
    """Which tokens are masked, (rows, length) bool: in each block the floor(u S) + 1 with the least noise.

    u (rows, blocks) in [0, 1), noise (rows, length).
    """
    rows, blocks = u.shape
    noise = noise.view(rows, blocks, -1)
    masked = (u * noise.shape[2]).long() + 1  # l of each block
    return (noise.argsort(-1).argsort(-1) < masked[..., None]).view(rows, -1)


def block_noise_levels(masked: Tensor, block_length: int) -> Tensor:
    """Sigma of each block, (rows, blocks) float32: -log of its unmasked share, at least EPS."""
    share = (~masked).float().view(len(masked), -1, block_length).mean(2)
    return -torch.log(share.clamp_min(EPS))


def block_nelbo(
    denoiser: DenoiserLike,
    ids: Tensor,
    mask_id: int,
    block_length: int,
    *,
    u: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_masked: int | None = None,
    compiled: bool = False,
) -> Nelbo:
    """One Monte-Carlo draw of the bound of `ids` (rows, length) in blocks of `block_length` tokens, 0 for one block.

        loss = sum over rows and blocks of  S/l  sum of masked nats,  over rows x length

    Args:
        denoiser: a `Denoiser`, called once: all blocks are denoised in one folded pass, at the masked positions only.
        u: (rows, blocks), by default `stratified_blocks`. noise: (rows, length), as for `mask_blocks`.
        generator: draws what is not given, u first.
        max_masked, compiled: as for `nelbo`.

    Raises ValueError for a length that is not whole blocks.
    """
    rows, length = ids.shape
    S = block_length or length
    if S < 1 or length % S:
        raise ValueError(f"block_length is {block_length}; it must divide the length, {length}, or be 0")
    if u is None:
        u = stratified_blocks(rows, length // S, generator, ids.device)
    if noise is None:
        noise = torch.rand(ids.shape, generator=generator, device=ids.device)
    masked = mask_blocks(u, noise)
    sigma = block_noise_levels(masked, S)
    logits_at = cast(Callable[..., Tensor], denoiser)
    if length > S:
        logits_at = partial(logits_at, clean=ids, block_length=S)
    else:
        sigma = sigma[:, 0]
    noisy = ids.masked_fill(masked, mask_id)
    nll = masked_nll(logits_at, noisy, sigma, ids, masked, mask_id, max_masked=max_masked, compiled=compiled)
    weight = S / masked.view(rows, -1, S).sum(2)  # S/l, (rows, blocks)
    nats = (weight * nll.view(rows, -1, S).sum(2)).sum(1)
    return Nelbo(loss=nats.sum() / ids.numel(), nats=nats.detach(), masked=masked.sum())
