"""The influence of each input position on one output.

The output is computed as the sampler would compute it: a token at the chosen position is masked first, so that the
prediction comes from the rest of the text. There are two measures, which answer different questions:

    gradient    || d logit / d embedding_j ||, for the logit of the most probable token: the effect of a small change
                at position j. Defined at every position, also at [MASK]s
    occlusion   KL(p || p without token j) in nats, where p is the distribution at the chosen position: the information
                from the token at j, measured by replacing it with [MASK]. NaN for a position that is a [MASK] anyway

In a model with information flow in one direction only, one side of the output would be exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffuapriel.model.denoiser import Denoiser

ROUNDING = 1e-10  # nats: a smaller divergence is float32 rounding and counts as 0


@dataclass(frozen=True)
class Influence:
    """values: (length,) float64, NaN where not measured (yet); token, probability: the most probable prediction."""

    values: Tensor
    token: int
    probability: float

    @property
    def share(self) -> Tensor:
        """(length,): values over their sum, so that models can be compared; NaN stays NaN."""
        total = self.values.nansum()
        return self.values / total if total > 0 else self.values


def gradient_influence(denoiser: Denoiser, ids: Tensor, position: int, sigma: float) -> Influence:
    """The norm of the gradient at every position of `ids` (length,). ValueError for a position outside."""
    asked, where, level = _model_inputs(denoiser, ids, position, sigma)
    embedded: list[Tensor] = []

    def take(module: Any, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    with denoiser.embedding.register_forward_hook(take), torch.enable_grad():
        logits = denoiser(asked[None], level, where[None])[0, : denoiser.config.mask_id]
        (gradient,) = torch.autograd.grad(logits.max(), embedded)
    token, probability = _prediction(logits)
    return Influence(gradient[0].cpu().double().norm(dim=-1), token, probability)


@torch.no_grad()
def occlusion_influence(
    denoiser: Denoiser, ids: Tensor, position: int, sigma: float, *, batch_size: int = 16
) -> Iterator[Influence]:
    """The occlusion at every position of `ids` (length,), from the nearest to the farthest.

    Takes one row of the denoiser per token and yields the values so far after each batch. The noise level is the same
    for all rows, so that only the token is missing. Raises ValueError for a position outside.
    """
    asked, where, level = _model_inputs(denoiser, ids, position, sigma)
    mask_id = denoiser.config.mask_id
    logits = denoiser(asked[None], level, where[None])[0, :mask_id]
    before = torch.log_softmax(logits.cpu().double(), -1)  # (vocabulary without [MASK],)
    token, probability = _prediction(logits)
    values = torch.full((len(ids),), float("nan"), dtype=torch.float64)
    unmasked = (asked != mask_id).nonzero()[:, 0]
    unmasked = unmasked[(unmasked - position).abs().argsort(stable=True)]  # nearest first
    yield Influence(values.clone(), token, probability)
    for batch in unmasked.split(batch_size):
        rows = asked.repeat(len(batch), 1)
        rows[torch.arange(len(batch), device=ids.device), batch] = mask_id
        logits = denoiser(rows, level.expand(len(batch)), where.expand(len(batch), -1))[:, :mask_id]
        after = torch.log_softmax(logits.cpu().double(), -1)
        divergence = (before.exp() * (before - after)).sum(-1)
        values[batch.cpu()] = divergence.where(divergence > ROUNDING, 0)
        yield Influence(values.clone(), token, probability)


def _model_inputs(denoiser: Denoiser, ids: Tensor, position: int, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The ids with the chosen position masked, a mask of that position (length,), and the noise level (1,)."""
    if not 0 <= position < len(ids):
        raise ValueError(f"position is {position}; the text has the positions 0 to {len(ids) - 1}")
    where = torch.arange(len(ids), device=ids.device) == position
    return (ids.masked_fill(where, denoiser.config.mask_id), where, torch.tensor([sigma], device=ids.device))


def _prediction(logits: Tensor) -> tuple[int, float]:
    probability, token = torch.softmax(logits.detach().cpu().double(), -1).max(0)
    return int(token), float(probability)
