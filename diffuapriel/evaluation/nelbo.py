"""The NELBO of held-out text in nats/token, its confidence interval, and its distance from the entropy.

Each window is scored at `draws` noise levels, stratified over [1e-3, 1]; windows are independent, so the
interval is over windows, each averaged over its draws: it holds the spread of the text and that of the noise.

On tales every story's exact log-probability is known. The floor is summed over the very stories that were
scored, so the spread of the text cancels in the gap (paired): the gap is known far better than the NELBO.

    tokens counted    the stories' and one <|endoftext|> after each; a window's padding costs the model what
                      it costs, and that is divided among them too
    floor             - sum log p(story) / tokens; a hair under the windows' true entropy, which also holds
                      that the next story did not fit: the gap is, if anything, overstated. Windows that
                      do not hold 95 % of the stories have none: all their tokens are counted

perplexity = exp(NELBO), an upper bound (MDLM, arXiv:2406.07524); bits/byte = NELBO in bits over the bytes of
the text, where <|endoftext|> is no byte.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel.data.base import Corpus
from diffuapriel.data.tales import TalesCorpus, shortest_window
from diffuapriel.diffusion.objective import T_MIN, DenoiserLike, nelbo
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import ratio_interval
from diffuapriel.ops.document_ids import make_document_ids


@dataclass(frozen=True)
class NelboEstimate:
    """A measured NELBO. Intervals are 95 %; floor and gap are None where the entropy is unknown."""

    nats_per_token: float
    ci95: tuple[float, float]
    perplexity: float
    perplexity_ci95: tuple[float, float]
    bits_per_byte: float
    bits_per_byte_ci95: tuple[float, float]
    floor: float | None  # exact nats/token of the very same stories
    gap: float | None  # nats_per_token - floor
    gap_ci95: tuple[float, float] | None
    windows: int
    length: int
    draws: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the model card."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for a terminal."""
        low, high = self.ci95
        lines = [f"NELBO        {self.nats_per_token:.4f} nats/token   [{low:.4f}, {high:.4f}]"]
        if self.floor is not None and self.gap is not None and self.gap_ci95 is not None:
            low, high = self.gap_ci95
            lines.append(f"entropy      {self.floor:.4f} nats/token   exact, of the same stories")
            lines.append(f"gap          {self.gap:.4f} nats/token   [{low:.4f}, {high:.4f}], paired")
        low, high = self.perplexity_ci95
        lines.append(f"perplexity   {self.perplexity:.3f} or less          [{low:.3f}, {high:.3f}]")
        low, high = self.bits_per_byte_ci95
        lines.append(f"bits/byte    {self.bits_per_byte:.4f} or less         [{low:.4f}, {high:.4f}]")
        lines.append(
            f"over         {self.windows} windows of {self.length} tokens, {self.draws} noise levels each"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class WindowScores:
    """What each window costs a model: nats (mean over draws), floors (exact nats, NaN if unknown), the tokens and the
    bytes of text that they are divided by; all (windows,) float64."""

    nats: Tensor
    floors: Tensor
    tokens: Tensor
    text_bytes: Tensor


def evaluate_nelbo(
    denoiser: DenoiserLike, corpus: Corpus, *, length: int, draws: int = 8, **which: Any
) -> NelboEstimate:
    """Score windows of the corpus's held-out part; the arguments and errors of `score_windows`."""
    return estimate(score_windows(denoiser, corpus, length=length, draws=draws, **which), length, draws)


@torch.no_grad()
def score_windows(
    denoiser: DenoiserLike,
    corpus: Corpus,
    *,
    length: int,
    windows: int = 256,
    draws: int = 8,
    batch_size: int = 16,
    split: str = "validation",
    seed: int = 0,
    schedule: str = "log-linear",
    document_boundaries: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> WindowScores:
    """Score `windows` windows of `length` tokens of the corpus's held-out part.

    The same seed scores the same windows under the same noise, so two models can be compared pair by pair.
    document_boundaries: the denoiser is told where documents end, as in a training that kept them apart; the text's
    floor, which holds what the ends are worth, is then unknown.
    on_batch is called with the number of windows done. Raises ValueError for a count below 1, and for a single
    window, which has no interval.
    """
    for name, value, least in (("windows", windows, 2), ("draws", draws, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    device = next(denoiser.parameters()).device if isinstance(denoiser, nn.Module) else torch.device("cpu")
    noise = get_schedule(schedule)
    generator = torch.Generator(device).manual_seed(seed)
    byte_counts, mask_id = _byte_counts(corpus), corpus.tokenizer.mask_id
    nats, floors, tokens, text_bytes = [], [], [], []
    for step in range(math.ceil(windows / batch_size)):
        rows = min(batch_size, windows - step * batch_size)
        ids, floor, counted = _held_out(
            corpus, step, split=split, batch_size=batch_size, length=length, seed=seed
        )
        ids = ids[:rows].to(device)
        strata = _stratified(rows, draws, generator)
        document_ids = None
        if document_boundaries:
            document_ids, floor = (
                make_document_ids(ids, corpus.tokenizer.eos_id),
                torch.full_like(floor, math.nan),
            )
        scores = [
            nelbo(denoiser, ids, noise, mask_id, t=t, generator=generator, document_ids=document_ids).nats
            for t in strata.unbind(1)
        ]
        nats.append(torch.stack(scores).double().mean(0).cpu())
        floors.append(floor[:rows])
        tokens.append(counted[:rows])
        text_bytes.append(byte_counts[ids.cpu()].sum(1).double())
        if on_batch:
            on_batch(step * batch_size + rows)
    return WindowScores(*map(torch.cat, (nats, floors, tokens, text_bytes)))


def estimate(scores: WindowScores, length: int, draws: int) -> NelboEstimate:
    """The figures of scored windows of `length` tokens, `draws` noise levels each."""
    nats, floors, tokens = scores.nats, scores.floors, scores.tokens
    mean, ci95 = ratio_interval(nats, tokens)
    known = not bool(floors.isnan().any())
    gap, gap_ci95 = ratio_interval(nats - floors, tokens) if known else (None, None)
    bits_per_byte, bits_ci95 = ratio_interval(nats / math.log(2), scores.text_bytes)
    return NelboEstimate(
        nats_per_token=mean,
        ci95=ci95,
        perplexity=_exp(mean),
        perplexity_ci95=(_exp(ci95[0]), _exp(ci95[1])),
        bits_per_byte=bits_per_byte,
        bits_per_byte_ci95=bits_ci95,
        floor=(floors.sum() / tokens.sum()).item() if known else None,
        gap=gap,
        gap_ci95=gap_ci95,
        windows=len(nats),
        length=length,
        draws=draws,
        tokens=int(tokens.sum()),
    )


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # the largest that a float holds


def _held_out(corpus: Corpus, step: int, **which: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (batch, length), exact nats (batch,) or NaN, tokens to divide by (batch,), both float64."""
    if isinstance(corpus, TalesCorpus) and which["length"] >= shortest_window(corpus.level, corpus.tokenizer):
        ids, log_prob, story_tokens = corpus.batch_with_entropy(step, **which)
        return ids, -log_prob.double(), story_tokens.double()
    ids = corpus.batch(step, **which)
    return (
        ids,
        torch.full((len(ids),), math.nan).double(),
        torch.full((len(ids),), float(ids.shape[1])).double(),
    )


def _stratified(rows: int, draws: int, generator: torch.Generator) -> Tensor:
    """Noise levels (rows, draws) in [1e-3, 1]: each row has one in every stratum, and so has each draw over rows."""
    uniform = torch.rand(rows, draws, generator=generator, device=generator.device)
    row = torch.arange(rows, device=generator.device)[:, None]
    draw = torch.arange(draws, device=generator.device)
    within = (uniform + row) / rows  # one row in every part of the stratum
    return T_MIN + (1 - T_MIN) * (draw + within) / draws


def _byte_counts(corpus: Corpus) -> Tensor:
    """Bytes of every token of the vocabulary, (vocab_size,); <|endoftext|> and [MASK] have none."""
    tokenizer = corpus.tokenizer
    counts = [len(tokenizer.token_bytes(id)) for id in range(tokenizer.eos_id)]
    return torch.tensor([*counts, 0, 0])
