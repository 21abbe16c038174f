"""The surprisal of a given text under a masked diffusion model: in total, and token by token.

A round draws `MASKS` sets of l of the n tokens to mask, with l stratified over 1 to n (masks.py):

    surprisal of token i   mean over l and over sets that hold i of  -log p(x_i | the tokens outside the set)    nats
    NELBO per token       mean over l and sets of the mean of -log p over the set                      nats/token

The mean surprisal is the NELBO. A small set says little about most tokens, so each term is weighted by n/l; under a
uniform distribution over V tokens the surprisal is exactly log V.

A model of short stories was trained on windows padded with <|endoftext|>, so a story without padding is out of its
distribution. The padding is scored with the text, and its nats are divided among the tokens of the text, which keeps
the bound valid.

Rounds are independent. Within a round the samples are stratified, so the variance is estimated from the differences
of neighboring strata, which contain almost nothing of the trend over l (Wolter, Introduction to Variance Estimation,
chapter 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffuapriel.diffusion.objective import DenoiserLike
from diffuapriel.evaluation.interval import Z
from diffuapriel.evaluation.masks import draw_masks, masked_log_probs
from diffuapriel.options import check_least

MASKS = 16  # sets per round
ALTERNATIVES = 5  # most probable tokens kept per position


@dataclass(frozen=True)
class TextScore:
    """The score of a text. Lists have one entry per token, None for a token that no set has contained so far."""

    nats: float  # of the whole text
    nats_per_token: float
    ci95: tuple[float, float]
    surprisal: list[float | None]  # nats
    standard_error: list[float | None]  # nats, of the surprisal
    entropy: list[float | None]  # nats, mean entropy of the model's answers
    alternatives: list[list[tuple[int, float]]]  # (id, mean probability), best first
    num_mc_samples: int  # sets so far

    def bits_per_byte(self, byte_count: int) -> float:
        """The bound in bits over the bytes of the text, where <|endoftext|> counts as no byte."""
        return self.nats / math.log(2) / max(1, byte_count)


@torch.no_grad()
def score_text(
    denoiser: DenoiserLike,
    ids: Sequence[int],
    mask_id: int,
    *,
    filling: int = 0,
    rounds: int = 4,
    batch_size: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[TextScore]:
    """Score the tokens `ids`; yields the score so far after each of `rounds` rounds of 16 masks.

    filling: the number of ids at the end that are padding. Raises ValueError for a text without tokens, for a [MASK]
    in it and for a count out of range.
    """
    if not ids or mask_id in ids:
        raise ValueError("a score needs a text of one token or more, and no [MASK] in it")
    check_least(rounds=rounds, batch_size=batch_size)
    if not 0 <= filling < len(ids):
        raise ValueError(f"filling is {filling}; it must be 0 or more and fewer than the {len(ids)} ids")
    text = torch.tensor(ids, dtype=torch.int64, device=device)
    generator = torch.Generator().manual_seed(seed)  # the same masks on every device
    sums = _Sums(text)
    for _ in range(rounds):
        (masked,) = draw_masks(len(ids), MASKS, generator)  # (MASKS, length)
        for rows in masked.split(batch_size):
            log_probs = masked_log_probs(denoiser, text.expand(len(rows), -1), rows.to(device), mask_id)
            sums.add(rows, log_probs)
        yield sums.score(len(ids) - filling)


class _Sums:
    """Weighted sums over all sets so far; the tokens of a set have the weight w = n/l."""

    def __init__(self, text: Tensor) -> None:
        self.text = text
        self.weight, self.weight2 = (torch.zeros(len(text), dtype=torch.float64) for _ in range(2))
        self.nats, self.nats2, self.spread2 = (torch.zeros_like(self.weight) for _ in range(3))
        self.entropy = torch.zeros_like(self.weight)
        self.probability: Tensor | None = None  # (length, vocabulary), on the model's device
        self.means: list[float] = []  # of -log p over each set, in the order drawn

    def add(self, masked: Tensor, log_probs: Tensor) -> None:
        """masked (rows, length) bool on the CPU; log_probs (masked.sum(), vocabulary) in row-major order."""
        row, position = masked.nonzero(as_tuple=True)
        at = position.to(log_probs.device)
        nats = -log_probs.gather(1, self.text[at, None])[:, 0].cpu().double()
        weight = (len(self.text) / masked.sum(1).double())[row]
        probs = log_probs.exp()
        entropy = -(probs * log_probs.nan_to_num(neginf=0.0)).sum(1).cpu().double()
        if self.probability is None:
            self.probability = probs.new_zeros(len(self.text), probs.shape[1])
        self.probability.index_add_(0, at, probs * weight.to(probs)[:, None])
        for total, value in (
            (self.weight, weight),
            (self.weight2, weight**2),
            (self.nats, weight * nats),
            (self.nats2, weight**2 * nats),
            (self.spread2, weight**2 * nats**2),
            (self.entropy, weight * entropy),
        ):
            total.index_add_(0, position, value)
        per_row = torch.zeros(len(masked), dtype=torch.float64).index_add_(0, row, nats)
        self.means += (per_row / masked.sum(1)).tolist()

    def score(self, tokens: int) -> TextScore:
        """The estimates from the sums, for a text that is the first `tokens` of the ids."""
        assert self.probability is not None
        mean = self.nats / self.weight  # NaN where no mask covered the token
        spread = self.spread2 - 2 * mean * self.nats2 + mean**2 * self.weight2  # sum of w^2 (x - mean)^2
        error = spread.clamp_min(0).sqrt() / self.weight
        best = self.probability.topk(min(ALTERNATIVES, self.probability.shape[1]))
        shares = best.values.cpu().double() / self.weight[:, None]
        nats, error_of_nats = (len(self.text) * value for value in _mean_of_rounds(self.means))
        rows = zip(best.indices.tolist(), shares.tolist(), self.weight.tolist())
        return TextScore(
            nats=nats,
            nats_per_token=nats / tokens,
            ci95=((nats - Z * error_of_nats) / tokens, (nats + Z * error_of_nats) / tokens),
            surprisal=_numbers(mean[:tokens]),
            standard_error=_numbers(error[:tokens]),
            entropy=_numbers((self.entropy / self.weight)[:tokens]),
            alternatives=[list(zip(ids, probs)) if weight else [] for ids, probs, weight in rows][:tokens],
            num_mc_samples=len(self.means),
        )


def _mean_of_rounds(means: list[float]) -> tuple[float, float]:
    """The mean over whole rounds of stratified samples, and its standard error."""
    rounds = torch.tensor(means, dtype=torch.float64).unflatten(0, (-1, MASKS))
    variance = rounds.diff(dim=1).square().mean() / 2  # of one sample within its stratum
    return rounds.mean().item(), (variance / len(means)).sqrt().item()


def _numbers(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
