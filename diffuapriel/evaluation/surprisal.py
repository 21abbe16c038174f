"""The surprisal of a given text under a masked diffusion model: in total, and token by token.

A round draws `MASKS` sets of l of the n tokens to mask, with l stratified over 1 to n (masks.py):

    surprisal of token i   mean over l and over sets that hold i of  -log p(x_i | the tokens outside the set)    nats
    NELBO per token       mean over l and sets of the mean of -log p over the set                      nats/token

The mean surprisal is the NELBO. A small set says little about most tokens, so each term is weighted by n/l; under a
uniform distribution over V tokens the surprisal is exactly log V.

A model of short stories was trained on windows padded with <|endoftext|>, so a story without padding is out of its
distribution. The padding is scored with the text, and its nats are divided among the tokens of the text, which keeps
the bound valid.

A model of blocks is scored block by block (model/blocks.py): every set masks l of the S tokens of each block, the
blocks before it are clean, and n/l becomes S/l. That bounds -log p of the text too, and is tighter the shorter the
blocks. At block length 1 nothing is random: the surprisal is -log p(x_i | the tokens before it), and their sum is
-log p of the text, exactly, in one pass.

Rounds are independent. Within a round the samples are stratified, so the variance is estimated from the differences
of neighboring strata, which contain almost nothing of the trend over l (Wolter, Introduction to Variance Estimation,
chapter 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from diffuapriel.diffusion.objective import DenoiserLike
from diffuapriel.evaluation.interval import Z
from diffuapriel.evaluation.masks import block_logits, draw_masks, masked_log_probs, noise_level
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
    block_length: int | None = None  # of a model of blocks; at 1 the score is exact

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
    block_length: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[TextScore]:
    """Score the tokens `ids`; yields the score so far after each of `rounds` rounds of 16 masks.

    filling: the number of ids at the end that are padding. block_length: tokens per block, for a model of blocks; at 1
    there is one round, and no more than one set in it. Raises ValueError for a text without tokens, for a [MASK] in it
    and for a count out of range.
    """
    if not ids or mask_id in ids:
        raise ValueError("a score needs a text of one token or more, and no [MASK] in it")
    size = len(ids) if block_length is None else block_length
    check_least(rounds=rounds, batch_size=batch_size, block_length=size)
    if not 0 <= filling < len(ids):
        raise ValueError(f"filling is {filling}; it must be 0 or more and fewer than the {len(ids)} ids")
    text = torch.tensor(ids, dtype=torch.int64, device=device)
    generator = torch.Generator().manual_seed(seed)  # the same masks on every device
    sums = _Sums(text, size)
    whole = len(ids) // size * size
    for _ in range(1 if block_length == 1 else rounds):
        samples = 1 if block_length == 1 else MASKS
        drawn = [draw_masks(size, samples, generator, rows=whole // size).transpose(0, 1).flatten(1)] if whole else []
        if whole < len(ids):  # the last block is shorter
            drawn.append(draw_masks(len(ids) - whole, samples, generator)[0])
        for rows in torch.cat(drawn, 1).split(batch_size):  # (rows, length)
            several, hidden = text.expand(len(rows), -1), rows.to(device)
            if block_length is None:
                log_probs = masked_log_probs(denoiser, several, hidden, mask_id)
            else:
                log_probs = _log_probs_in_blocks(denoiser, several, hidden, mask_id, size)
            sums.add(rows, log_probs)
        yield sums.score(len(ids) - filling, block_length)


def tightest_block_length(known: Sequence[int]) -> int | None:
    """The block length at which a model of blocks is scored: the shortest; None for a whole text, or another model."""
    return min((length for length in known if length), default=None)


def _log_probs_in_blocks(denoiser: DenoiserLike, ids: Tensor, masked: Tensor, mask_id: int, size: int) -> Tensor:
    """As `masked_log_probs`, each block masked by itself; behind the whole blocks comes one of the tokens left."""
    model = cast(Any, denoiser)
    whole = ids.shape[1] // size * size
    in_rest = (torch.arange(ids.shape[1], device=ids.device) >= whole).expand_as(masked)[masked]
    parts: list[tuple[Tensor, Callable[[], Tensor]]] = [
        (~in_rest, lambda: block_logits(denoiser, ids[:, :whole], masked[:, :whole], mask_id, size)),
        (in_rest, lambda: _rest_logits(model, ids, masked[:, whole:], mask_id, size)),
    ]
    found = [(at, logits()) for at, logits in parts if at.any()]
    logits = found[0][1].new_empty(len(in_rest), mask_id)
    for at, some in found:
        logits[at] = some
    return torch.log_softmax(logits, -1)


def _rest_logits(model: Any, ids: Tensor, masked: Tensor, mask_id: int, size: int) -> Tensor:
    """Float32 logits at the `masked` (rows, tokens) of the last block, which is shorter than `size`."""
    whole = ids.shape[1] - masked.shape[1]
    cache = model.empty_cache(len(ids))
    if whole:
        cache = model.commit(ids[:, :whole], cache, size)
    rest = ids[:, whole:].masked_fill(masked, mask_id)
    return model(rest, noise_level(masked), masked, cache=cache)[:, :mask_id].float()


class _Sums:
    """Weighted sums over all sets so far; the tokens of a set have the weight w = n/l, in blocks S/l."""

    def __init__(self, text: Tensor, size: int) -> None:
        self.text, self.size = text, size
        self.weight, self.weight2 = (torch.zeros(len(text), dtype=torch.float64) for _ in range(2))
        self.nats, self.nats2, self.spread2 = (torch.zeros_like(self.weight) for _ in range(3))
        self.entropy = torch.zeros_like(self.weight)
        self.probability: Tensor | None = None  # (length, vocabulary), on the model's device
        self.means: list[float] = []  # of the weighted -log p over the tokens of each set, in the order drawn

    def add(self, masked: Tensor, log_probs: Tensor) -> None:
        """masked (rows, length) bool on the CPU; log_probs (masked.sum(), vocabulary) in row-major order."""
        row, position = masked.nonzero(as_tuple=True)
        at = position.to(log_probs.device)
        nats = -log_probs.gather(1, self.text[at, None])[:, 0].cpu().double()
        shares = [part.mean(1) for part in masked.double().split(self.size, 1)]  # masked, of each block
        weight = 1 / torch.stack(shares, 1)[row, position // self.size]
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
        per_row = torch.zeros(len(masked), dtype=torch.float64).index_add_(0, row, weight * nats)
        self.means += (per_row / len(self.text)).tolist()

    def score(self, tokens: int, block_length: int | None) -> TextScore:
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
            block_length=block_length,
        )


def _mean_of_rounds(means: list[float]) -> tuple[float, float]:
    """The mean over whole rounds of stratified samples, and its standard error; 0 for the one sample that is exact."""
    if len(means) == 1:
        return means[0], 0.0
    rounds = torch.tensor(means, dtype=torch.float64).unflatten(0, (-1, MASKS))
    variance = rounds.diff(dim=1).square().mean() / 2  # of one sample within its stratum
    return rounds.mean().item(), (variance / len(means)).sqrt().item()


def _numbers(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
