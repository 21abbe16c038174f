"""How much each input position has to do with one output.

The output is asked for as the sampler would ask: a token that stands at the chosen position is masked first, so the
answer is what the rest of the text says about it. Two measures, which answer different questions:

    gradient    || d logit / d embedding_j ||, of the most probable token's logit: what a small push at position j
                would do. Every position has one, [MASK]s too.
    occlusion   KL(p || p without token j) in nats, p the distribution at the chosen position: what the token at j
                tells, measured by replacing it by [MASK]. A position that is a [MASK] anyway tells nothing: NaN.

In a model whose information flows one way only, one side of the output would be exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffuapriel.model.denoiser import Denoiser

ROUNDING = 1e-10  # nats: a divergence below it is the float32 arithmetic's, and is shown as none


@dataclass(frozen=True)
class Influence:
    """values: (length,) float64, NaN where not (yet) measured; token, probability: the most probable answer."""

    values: Tensor
    token: int
    probability: float

    @property
    def share(self) -> Tensor:
        """(length,): each position's part of the sum, so that models can be compared; NaN stays NaN."""
        total = self.values.nansum()
        return self.values / total if total > 0 else self.values


def gradient_influence(denoiser: Denoiser, ids: Tensor, position: int, sigma: float) -> Influence:
    """The gradient's norm at every position of `ids` (length,). Raises ValueError for a position outside."""
    asked, where, level = _question(denoiser, ids, position, sigma)
    embedded: list[Tensor] = []

    def take(module: Any, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = denoiser.embedding.register_forward_hook(take)
    try:
        with torch.enable_grad():
            logits = denoiser(asked[None], level, where[None])[0, : denoiser.config.mask_id]
            (gradient,) = torch.autograd.grad(logits.max(), embedded)
    finally:
        hook.remove()
    token, probability = _answer(logits)
    return Influence(gradient[0].cpu().double().norm(dim=-1), token, probability)


@torch.no_grad()
def occlusion_influence(
    denoiser: Denoiser, ids: Tensor, position: int, sigma: float, *, batch_size: int = 16
) -> Iterator[Influence]:
    """The occlusion at every position of `ids` (length,), from the nearest to the farthest.

    Yields what is known so far after each batch: there are as many denoiser calls as tokens. The noise level is the
    same for all of them, so that only the token is missing. Raises ValueError for a position outside.
    """
    asked, where, level = _question(denoiser, ids, position, sigma)
    mask_id = denoiser.config.mask_id
    logits = denoiser(asked[None], level, where[None])[0, :mask_id]
    before = torch.log_softmax(logits.cpu().double(), -1)  # (vocabulary without [MASK],)
    token, probability = _answer(logits)
    values = torch.full((len(ids),), float("nan"), dtype=torch.float64)
    told = (asked != mask_id).nonzero()[:, 0]
    told = told[(told - position).abs().argsort(stable=True)]  # nearest first
    yield Influence(values.clone(), token, probability)
    for batch in told.split(batch_size):
        rows = asked.repeat(len(batch), 1)
        rows[torch.arange(len(batch), device=ids.device), batch] = mask_id
        answers = denoiser(rows, level.expand(len(batch)), where.expand(len(batch), -1))[:, :mask_id]
        after = torch.log_softmax(answers.cpu().double(), -1)
        divergence = (before.exp() * (before - after)).sum(-1)
        values[batch.cpu()] = divergence.where(divergence > ROUNDING, 0)
        yield Influence(values.clone(), token, probability)


def _question(denoiser: Denoiser, ids: Tensor, position: int, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The ids with the chosen position masked, where that is (length,) bool, and the noise level (1,)."""
    if not 0 <= position < len(ids):
        raise ValueError(f"position is {position}; the text has the positions 0 to {len(ids) - 1}")
    where = torch.arange(len(ids), device=ids.device) == position
    return (
        ids.masked_fill(where, denoiser.config.mask_id),
        where,
        torch.tensor([sigma], device=ids.device),
    )


def _answer(logits: Tensor) -> tuple[int, float]:
    probability, token = torch.softmax(logits.detach().cpu().double(), -1).max(0)
    return int(token), float(probability)
