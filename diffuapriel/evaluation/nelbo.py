"""The NELBO of validation text in nats/token, its confidence interval, and its distance from the entropy.

Each sequence is scored under `num_mc_samples` random masks, by one of two estimators:

    counts   l of the L tokens are masked, l stratified over 1 to L, with the weight L/l (masks.py). Unbiased, and
             the same number as `surprisal.score_text` and `likelihood.score_answers` estimate
    mdlm     times t, stratified over [T_MIN, 1], and each token is masked with probability 1 - alpha(t), as in MDLM.
             For comparison with its papers only: it is truncated (diffusion/objective.py) and so not a bound. A
             uniform model gets 0.999 log V under `log-linear` and 0.998 log V under `quadratic`

Sequences are independent, so the interval is over sequences, each averaged over its masks; it covers the variance of
the text and of the masks.

On tales the exact log-probability of every story is known. The entropy below is summed over the same stories that
were scored, so the variance of the text cancels in the difference to the NELBO (a paired comparison), and the excess
is known far more precisely than the NELBO.

    tokens          those of the stories, with one <|endoftext|> each. The padding of a sequence has a cost too, which
                    is divided among these tokens
    entropy         - sum log p(story) / tokens: a lower bound on any model's NELBO. It leaves out that the next story
                    did not fit, so the excess is, if anything, overstated. Unknown for sequences that fewer than
                    95 % of the stories fit; then all tokens are counted
    excess NELBO    NELBO - entropy: what is left to learn. Per story it can be compared across tokenizers

perplexity = exp(NELBO), an upper bound (MDLM, arXiv:2406.07524); bits per byte = NELBO in bits over the bytes of the
text, where <|endoftext|> counts as no byte.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffuapriel.config import ESTIMATORS
from diffuapriel.data.base import Corpus
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.mixed import MixedCorpus
from diffuapriel.data.tales import TalesCorpus, shortest_window
from diffuapriel.data.token_cache import TokenCorpus
from diffuapriel.device import device_of
from diffuapriel.diffusion.objective import T_MIN, DenoiserLike, nelbo
from diffuapriel.diffusion.schedule import Schedule, get_schedule
from diffuapriel.evaluation.interval import ratio_interval
from diffuapriel.evaluation.masks import block_nats, draw_masks, stratified, trained_document_ids
from diffuapriel.options import check_least

# Older keys of estimates in config.json and results, and of lines in log.jsonl.
RENAMED = {
    "floor": "entropy",
    "gap": "excess_nelbo",
    "gap_ci95": "excess_nelbo_ci95",
    "windows": "num_sequences",
    "draws": "num_mc_samples",
}


@dataclass(frozen=True)
class NelboEstimate:
    """A measured NELBO. Intervals are 95 %; entropy and excess are None where the entropy is unknown."""

    nats_per_token: float
    ci95: tuple[float, float]
    perplexity: float
    perplexity_ci95: tuple[float, float]
    bits_per_byte: float
    bits_per_byte_ci95: tuple[float, float]
    entropy: float | None  # exact nats/token of the same stories
    excess_nelbo: float | None  # nats_per_token - entropy
    excess_nelbo_ci95: tuple[float, float] | None
    num_sequences: int
    length: int
    num_mc_samples: int
    tokens: int
    estimator: str = "mdlm"  # the only one when estimates without this key were written
    excess_per_story: float | None = None  # nats, where excess_nelbo is known
    excess_per_story_ci95: tuple[float, float] | None = None
    block_length: int | None = None  # tokens per block; None if the sequence is one block

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NelboEstimate:
        """The estimate that `to_dict` wrote, also with the keys of older versions."""
        return cls(**{RENAMED.get(key, key): value for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the model card."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for a terminal."""
        low, high = self.ci95
        lines = [f"NELBO        {self.nats_per_token:.4f} nats/token   [{low:.4f}, {high:.4f}]"]
        if self.excess_nelbo_ci95 is not None:
            low, high = self.excess_nelbo_ci95
            lines.append(f"entropy      {self.entropy:.4f} nats/token   exact, of the same stories")
            lines.append(f"excess       {self.excess_nelbo:.4f} nats/token   [{low:.4f}, {high:.4f}], paired")
        if self.excess_per_story_ci95 is not None:
            low, high = self.excess_per_story_ci95
            lines.append(f"             {self.excess_per_story:.3f} nats/story    [{low:.3f}, {high:.3f}]")
        low, high = self.perplexity_ci95
        lines.append(f"perplexity   {self.perplexity:.3f} or less          [{low:.3f}, {high:.3f}]")
        low, high = self.bits_per_byte_ci95
        lines.append(f"bits/byte    {self.bits_per_byte:.4f} or less         [{low:.4f}, {high:.4f}]")
        unit = {"counts": "masks each", "mdlm": "noise levels each (MDLM's estimator)"}[self.estimator]
        blocks = f" in blocks of {self.block_length}" if self.block_length else ""
        lines.append(
            f"over         {self.num_sequences} sequences of {self.length} tokens{blocks}, {self.num_mc_samples} {unit}"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class SequenceScores:
    """The cost of each sequence, all (num_sequences,) float64: nats (mean over masks), entropies (exact nats, NaN if
    unknown), and the tokens, bytes of text and documents that nats are divided by."""

    nats: Tensor
    entropies: Tensor
    tokens: Tensor
    text_bytes: Tensor
    documents: Tensor
    num_mc_samples: int
    estimator: str
    block_length: int | None


def evaluate_nelbo(denoiser: DenoiserLike, corpus: Corpus, *, length: int, **options: Any) -> NelboEstimate:
    """Score validation sequences of the corpus; arguments and errors are those of `score_sequences`."""
    return estimate(score_sequences(denoiser, corpus, length=length, **options), length)


def evaluate_parts(
    denoiser: DenoiserLike, corpus: Corpus, *, length: int, num_sequences: int = 256, **options: Any
) -> dict[str, NelboEstimate]:
    """`evaluate_nelbo` of every part of a mix, by its name; empty for other corpora.

    A part with less validation text than `num_sequences` is scored on as many sequences as it holds: an interval over
    text that is read twice would be too narrow.
    """
    found = {}
    for name, part in corpus.parts.items() if isinstance(corpus, MixedCorpus) else ():
        tokens = part.tokens("validation") if isinstance(part, (DocumentCorpus, TokenCorpus)) else math.inf
        sequences = int(max(2, min(num_sequences, tokens // length)))
        found[name] = evaluate_nelbo(denoiser, part, length=length, num_sequences=sequences, **options)
    return found


def parts_table(parts: Mapping[str, NelboEstimate]) -> str:
    """Lines for a terminal: NELBO and bits per byte of every part."""
    width = max(map(len, parts), default=0)
    return "\n".join(
        f"{name:{width}}  {part.nats_per_token:.4f} nats/token [{part.ci95[0]:.4f}, {part.ci95[1]:.4f}]  "
        f"{part.bits_per_byte:.4f} bits/byte [{part.bits_per_byte_ci95[0]:.4f}, {part.bits_per_byte_ci95[1]:.4f}]"
        for name, part in parts.items()
    )


@torch.no_grad()
def score_sequences(
    denoiser: DenoiserLike,
    corpus: Corpus,
    *,
    length: int,
    num_sequences: int = 256,
    num_mc_samples: int = 8,
    batch_size: int = 16,
    split: str = "validation",
    seed: int = 0,
    estimator: str = "counts",
    schedule: str = "log-linear",
    block_length: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> SequenceScores:
    """Score `num_sequences` sequences of `length` tokens under `num_mc_samples` masks each.

    The same seed scores the same sequences under the same masks, so two models can be compared pair by pair. A model
    trained with document boundaries is told where documents end. The entropy, which includes the information in these
    ends, is then unknown.

    Args:
        estimator: "counts" or "mdlm"; see the module's docstring.
        schedule: of the times that "mdlm" draws.
        block_length: tokens per block of the bound of block diffusion, by counts in each block; by default, and for 0,
            the sequence is one block. With 1 the likelihood is exact and one sample is enough.
        on_batch: called with the number of sequences done.

    Raises ValueError for a count below 1, for an unknown estimator, for a length that is not whole blocks, and for a
    single sequence, which has no interval.
    """
    block_length = block_length or length
    if length % block_length or (estimator == "mdlm" and block_length < length):
        raise ValueError(f"block_length is {block_length}; it must divide the length, {length}, and go with counts")
    num_mc_samples = 1 if block_length == 1 else num_mc_samples
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; permitted: {', '.join(ESTIMATORS)}")
    check_least(2, num_sequences=num_sequences)
    check_least(num_mc_samples=num_mc_samples, batch_size=batch_size)
    device = device_of(denoiser)
    noise = get_schedule(schedule)
    # Counts are drawn on the CPU: the same masks on every device.
    generator = torch.Generator("cpu" if estimator == "counts" else device).manual_seed(seed)
    byte_counts, mask_id = _byte_counts(corpus), corpus.tokenizer.mask_id
    nats, entropies, tokens, text_bytes, documents = [], [], [], [], []
    for step in range(math.ceil(num_sequences / batch_size)):
        rows = min(batch_size, num_sequences - step * batch_size)
        ids, entropy, counted = _batch(corpus, step, split=split, batch_size=batch_size, length=length, seed=seed)
        ids = ids[:rows].to(device)
        if trained_document_ids(denoiser, ids) is not None:
            entropy = torch.full_like(entropy, math.nan)
        uses = {"generator": generator, "mask_id": mask_id}
        if estimator == "counts":
            nats.append(_by_counts(denoiser, ids, num_mc_samples, block_length, **uses))
        else:
            nats.append(_by_times(denoiser, ids, num_mc_samples, noise, **uses))
        entropies.append(entropy[:rows])
        tokens.append(counted[:rows])
        text_bytes.append(byte_counts[ids.cpu()].sum(1).double())
        closed = (ids == corpus.tokenizer.eos_id).cumsum(1).cpu()  # documents that end at or before a position
        documents.append(closed.gather(1, counted[:rows, None].long() - 1)[:, 0].double())
        if on_batch:
            on_batch(step * batch_size + rows)
    return SequenceScores(
        nats=torch.cat(nats),
        entropies=torch.cat(entropies),
        tokens=torch.cat(tokens),
        text_bytes=torch.cat(text_bytes),
        documents=torch.cat(documents),
        num_mc_samples=num_mc_samples,
        estimator=estimator,
        block_length=None if block_length == length else block_length,
    )


def _by_counts(
    denoiser: DenoiserLike,
    ids: Tensor,
    samples: int,
    block_length: int,
    *,
    generator: torch.Generator,
    mask_id: int,
) -> Tensor:
    """Mean over `samples` masks of S/l x nats of the l masked tokens, summed over the blocks of S = `block_length`
    tokens of each row of ids (rows, length), (rows,) float64."""
    rows, blocks = ids.shape[0], ids.shape[1] // block_length
    total = torch.zeros(rows, dtype=torch.float64)
    masks = draw_masks(block_length, samples, generator, rows=rows * blocks).view(rows, blocks, samples, -1)
    for masked in masks.unbind(2):  # (rows, blocks, S)
        nats = block_nats(denoiser, ids, masked.flatten(1).to(ids.device), mask_id, block_length)
        total += (nats * block_length / masked.sum(2)).sum(1)
    return total / samples


def _by_times(
    denoiser: DenoiserLike,
    ids: Tensor,
    samples: int,
    schedule: Schedule,
    *,
    generator: torch.Generator,
    mask_id: int,
) -> Tensor:
    """Mean of MDLM's estimate over `samples` times per row of ids (rows, length), (rows,) float64."""
    times = T_MIN + (1 - T_MIN) * stratified(len(ids), samples, generator).to(torch.float32)
    document_ids = trained_document_ids(denoiser, ids)
    scores = [
        nelbo(denoiser, ids, schedule, mask_id, t=t, generator=generator, document_ids=document_ids).nats
        for t in times.unbind(1)
    ]
    return torch.stack(scores).cpu().double().mean(0)


def estimate(scores: SequenceScores, length: int) -> NelboEstimate:
    """Sum up scored sequences of `length` tokens."""
    nats, entropies, tokens = scores.nats, scores.entropies, scores.tokens
    mean, ci95 = ratio_interval(nats, tokens)
    known = not bool(entropies.isnan().any())
    excess, excess_ci95 = ratio_interval(nats - entropies, tokens) if known else (None, None)
    per_story, per_story_ci95 = ratio_interval(nats - entropies, scores.documents) if known else (None, None)
    bits_per_byte, bits_ci95 = ratio_interval(nats / math.log(2), scores.text_bytes)
    return NelboEstimate(
        nats_per_token=mean,
        ci95=ci95,
        perplexity=_exp(mean),
        perplexity_ci95=(_exp(ci95[0]), _exp(ci95[1])),
        bits_per_byte=bits_per_byte,
        bits_per_byte_ci95=bits_ci95,
        entropy=(entropies.sum() / tokens.sum()).item() if known else None,
        excess_nelbo=excess,
        excess_nelbo_ci95=excess_ci95,
        num_sequences=len(nats),
        length=length,
        num_mc_samples=scores.num_mc_samples,
        tokens=int(tokens.sum()),
        estimator=scores.estimator,
        excess_per_story=per_story,
        excess_per_story_ci95=per_story_ci95,
        block_length=scores.block_length,
    )


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # exp(710) overflows


def _batch(corpus: Corpus, step: int, **which: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (batch, length), exact nats (batch,) or NaN, and tokens to divide by (batch,), both float64."""
    if isinstance(corpus, TalesCorpus) and which["length"] >= shortest_window(corpus.level, corpus.tokenizer):
        ids, log_prob, story_tokens = corpus.batch_with_entropy(step, **which)
        return ids, -log_prob.double(), story_tokens.double()
    ids = corpus.batch(step, **which)
    nan = torch.full((len(ids),), math.nan, dtype=torch.float64)
    return ids, nan, torch.full_like(nan, ids.shape[1])


def _byte_counts(corpus: Corpus) -> Tensor:
    """Bytes of every token of the vocabulary, (vocab_size,); 0 for <|endoftext|> and [MASK]."""
    tokenizer = corpus.tokenizer
    counts = [len(tokenizer.token_bytes(id)) for id in range(tokenizer.eos_id)]
    return torch.tensor([*counts, 0, 0])
