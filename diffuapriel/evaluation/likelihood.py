"""The likelihood of an answer after a prompt, zero-shot, under a masked diffusion model (arXiv:2502.09992).

The prompt stays clean. Of the L tokens of the answer a set S of l is masked, with l uniform over 1 to L and S uniform
among the sets of that size:

    nats  =  E  L/l  sum over S of  -log p(x_i | prompt, the answer outside S)   >=   -log P(answer | prompt)

This is the bound of masks.py, given a prompt: the mean cost over all orders in which the answer can be revealed one
token at a time. Without a prompt it is the NELBO of a text. A uniform distribution over V tokens costs exactly L log V.

`num_mc_samples` sets are evaluated, with l stratified. An answer that has no more sets than that (2^L - 1; up to 7
tokens for 128 samples) is evaluated on every set once, weighted by its probability: the exact expectation, at a lower
cost.

A model of blocks that was trained for blocks of one token is autoregressive at that block length, so that -log P(answer
| prompt) is known exactly: the sum over the tokens, each given the clean ones before it, all in one pass. It is then
what is returned.

As in sampling, the denoiser gets the noise level of the masked share of all tokens, prompt included. It does not
support padding, so texts in one batch have the same length. The masks of a pair depend only on its tokens and the
seed, not on the batch size or on other pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.data.base import random_stream
from diffuapriel.diffusion.objective import DenoiserLike
from diffuapriel.evaluation.masks import block_logits, draw_masks, masked_log_probs, masked_nats
from diffuapriel.options import check_least

Pair = tuple[Sequence[int], Sequence[int]]  # the ids of a prompt and of its answer


@dataclass(frozen=True)
class AnswerScore:
    """nats: -log P(answer | prompt), or the bound on it. standard_error: of nats; 0 if it is exact or every set was
    evaluated, NaN for a single sample. greedy: whether greedy decoding writes the answer; None if not asked."""

    nats: float
    standard_error: float
    greedy: bool | None


@torch.no_grad()
def score_answers(
    denoiser: DenoiserLike,
    pairs: Sequence[Pair],
    mask_id: int,
    *,
    num_mc_samples: int = 128,
    batch_size: int = 32,
    greedy: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, AnswerScore]]:
    """Yield (number of the pair, its score) as they are done, longest first.

    batch_size: texts per denoiser call, from one pair or several. Raises ValueError for a count below 1, for a pair
    without tokens and for one that contains a [MASK].
    """
    check_least(num_mc_samples=num_mc_samples, batch_size=batch_size)
    for number, (prompt, answer) in enumerate(pairs):
        if mask_id in prompt or mask_id in answer:
            raise ValueError(f"pair {number} holds a [MASK]; only texts without holes have a likelihood")
        if not answer:
            yield number, AnswerScore(0.0, 0.0, True if greedy else None)  # an empty answer is certain
    for group in _groups(pairs):
        texts = _Texts([pairs[number] for number in group], mask_id, device)
        flags: list[bool | None] = [None] * len(group)
        chunks = [range(i, min(i + batch_size, len(group))) for i in range(0, len(group), batch_size)]
        if is_autoregressive(denoiser):
            for chunk in chunks:
                for place, score in zip(chunk, _exact(denoiser, texts, list(chunk))):
                    yield group[place], score if greedy else replace(score, greedy=None)
            continue
        if greedy:
            flags = [flag for chunk in chunks for flag in _is_greedy(denoiser, texts, list(chunk))]
        terms: list[list[float]] = [[] for _ in group]
        done = 0
        for rows in _batches(_all_sets(texts, num_mc_samples, seed), batch_size):
            within, sets, weights = zip(*rows)
            masked = torch.stack(sets).to(texts.device)
            nats = masked_nats(denoiser, texts.ids[list(within)], masked, mask_id)
            for place, weight, value in zip(within, weights, nats.tolist()):
                terms[place].append(weight * value)
            while done < len(group) and len(terms[done]) == _set_count(texts.answers[done], num_mc_samples):
                exact = _all_fit(texts.answers[done], num_mc_samples)
                error = 0.0 if exact else _standard_error(terms[done])
                yield group[done], AnswerScore(math.fsum(terms[done]), error, flags[done])
                done += 1


def is_autoregressive(denoiser: object) -> bool:
    """Whether a denoiser knows blocks of one token."""
    return 1 in getattr(getattr(denoiser, "config", None), "block_lengths", ())


def rolling_windows(prompt: Sequence[int], answer: Sequence[int], length: int) -> Iterator[Pair]:
    """Cut a pair into pairs of at most `length` tokens that score each token of the answer once, in order.

    A prompt that is too long loses its beginning. An answer that is too long is scored piece by piece, by the chain
    rule: each piece but the last after one token of context, the last after as many as fit (the rule of
    lm-evaluation-harness). Without a prompt the first piece has no context. Raises ValueError for a length below 2.
    """
    if length < 2:
        raise ValueError(f"length is {length}; windows need 2 tokens or more")
    ids, start = [*prompt, *answer], len(prompt)
    while start < len(ids):
        stop = min(start + length - bool(start), len(ids))
        yield ids[max(0, stop - length) : start], ids[start:stop]
        start = stop


class _Texts:
    """Pairs of one total length: ids (pairs, length) on the device, and the lengths of the answers."""

    def __init__(self, pairs: Sequence[Pair], mask_id: int, device: torch.device | str) -> None:
        self.pairs, self.mask_id, self.device = pairs, mask_id, device
        self.answers = [len(answer) for _, answer in pairs]
        self.ids = torch.tensor([[*prompt, *answer] for prompt, answer in pairs], device=device)
        self.length = self.ids.shape[1]

    def ask(self, denoiser: DenoiserLike, within: list[int], masked: Tensor) -> Tensor:
        """Log-probabilities (masked.sum(), clean tokens) where `masked` (rows, length) hides texts `within`."""
        return masked_log_probs(denoiser, self.ids[within], masked, self.mask_id)


def _exact(denoiser: DenoiserLike, texts: _Texts, within: list[int]) -> list[AnswerScore]:
    """The scores of texts `within`, in blocks of one token. Greedy decoding follows the most probable tokens."""
    ids = texts.ids[within]
    starts = torch.tensor([texts.length - texts.answers[place] for place in within], device=ids.device)
    hidden = torch.arange(texts.length, device=ids.device) >= starts[:, None]  # (rows, length)
    logits = block_logits(denoiser, ids, hidden, texts.mask_id, 1)
    nats = F.cross_entropy(logits, ids[hidden], reduction="none").cpu().double()
    right = (logits.argmax(1) == ids[hidden]).cpu()
    sizes = hidden.sum(1).tolist()
    pairs = zip(nats.split(sizes), right.split(sizes))
    return [AnswerScore(cost.sum().item(), 0.0, bool(fits.all())) for cost, fits in pairs]


def _groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Numbers of the pairs that have an answer, grouped by total length, longest first."""
    lengths: dict[int, list[int]] = {}
    for number, (prompt, answer) in enumerate(pairs):
        if answer:
            lengths.setdefault(len(prompt) + len(answer), []).append(number)
    return [lengths[length] for length in sorted(lengths, reverse=True)]


def _all_fit(answer: int, samples: int) -> bool:
    """Whether an answer of `answer` tokens has at most `samples` sets."""
    return 2**answer - 1 <= samples


def _set_count(answer: int, samples: int) -> int:
    """The number of sets evaluated for an answer of `answer` tokens."""
    return min(2**answer - 1, samples)


def _all_sets(texts: _Texts, samples: int, seed: int) -> Iterator[tuple[int, Tensor, float]]:
    """(place of the pair, (length,) bool, weight of the sum over the set) for every set to evaluate."""
    for place, ((prompt, answer), tokens) in enumerate(zip(texts.pairs, texts.answers)):
        if _all_fit(tokens, samples):
            chosen = torch.tensor(list(itertools.product((False, True), repeat=tokens)))[1:]
            weights = [1 / (size * math.comb(tokens, size)) for size in chosen.sum(1).tolist()]
        else:
            key = random_stream(seed, *map(int, prompt), "answer", *map(int, answer))
            generator = torch.Generator().manual_seed(key.getrandbits(63))
            (chosen,) = draw_masks(tokens, samples, generator)
            weights = [tokens / size / samples for size in chosen.sum(1).tolist()]
        for masked, weight in zip(F.pad(chosen, (texts.length - tokens, 0)), weights):
            yield place, masked, weight


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _is_greedy(denoiser: DenoiserLike, texts: _Texts, within: list[int]) -> list[bool]:
    """Whether revealing the most confident token, one at a time, writes each answer; stops at the first wrong token."""
    flags = dict.fromkeys(within, True)
    positions = torch.arange(texts.length, device=texts.device)
    starts = torch.tensor([texts.length - texts.answers[place] for place in within], device=texts.device)
    hidden = positions >= starts[:, None]  # (rows, length)
    while within:
        best, token = texts.ask(denoiser, within, hidden).max(-1)
        confidence = torch.full(hidden.shape, -math.inf, device=best.device).masked_scatter(hidden, best)
        written = torch.zeros(hidden.shape, dtype=torch.int64, device=best.device).masked_scatter(hidden, token)
        at = confidence.argmax(1, keepdim=True)  # the leftmost of equals
        right = written.gather(1, at) == texts.ids[within].gather(1, at)  # (rows, 1)
        hidden = hidden.scatter(1, at, False)
        for place, fits in zip(within, right[:, 0].tolist()):
            flags[place] &= fits
        going = right[:, 0] & hidden.any(1)
        within = [place for place, goes in zip(within, going.tolist()) if goes]
        hidden = hidden[going]
    return list(flags.values())


def _standard_error(terms: list[float]) -> float:
    """The standard error of the sum of weighted terms, given in the order of their strata.

    Neighboring strata differ by little except noise, so their differences estimate it (Wolter, Introduction to
    Variance Estimation, chapter 8).
    """
    differences = torch.tensor(terms, dtype=torch.float64).diff()
    return (differences.square().mean() / 2 * len(terms)).sqrt().item()
