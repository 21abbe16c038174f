"""How many tokens a pass can reveal at no loss of quality: the measurement of `diffuapriel tune`.

Each rule of ADAPTIVE has one value, which trades passes for quality. For each rule and block length the values of
VALUES are measured from cautious to bold, until one loses quality: bolder ones lose more. `speculative` has no value; a
block length is that of its drafts, and only passes depend on it. The reference reveals one token per pass, most
confident first (`default_sampler`).

    tokens/pass   tokens of gpt2-4k of the texts, over all passes; <|endoftext|> and padding are no tokens (samples.py).
                  A model of blocks stops at the first <|endoftext|> (`stop_at_eos`), any other fills the canvas
    quality       tales: share of consistent, of grammatical and of different stories. Other text: nats/token of what
                  was written under the model's own distribution of one token per pass (`written_nats`), and distinct-3
    loss          a figure that is worse than the reference's by more than `tolerance`, as a share of the latter

Intervals are 95 %: of a rate Wilson's, of a ratio over sequences. A choice among many points is optimistic: measure the
chosen one again, with another seed, before its figures are published.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from diffuapriel.charts.matplotlib import dress, legend, new_figure, to_png
from diffuapriel.charts.palette import OTHERS, PRINT_QUIET
from diffuapriel.data.base import Corpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.device import device_of
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import Interval, ratio_interval
from diffuapriel.evaluation.samples import distinct_n, draw_sequences, split_at_eos, tokens_per_pass
from diffuapriel.evaluation.tales import evaluate_tales
from diffuapriel.options import check_least
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import ADAPTIVE, SPECULATIVE, SamplerConfig, resolve_blocks
from diffuapriel.sampling.frontier import Frontier, Measure, TunePoint
from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
from diffuapriel.tokenizer import Tokenizer

VALUES: dict[str, tuple[float | None, ...]] = {  # of each rule, from cautious to bold
    "threshold": (0.99, 0.97, 0.95, 0.9, 0.8, 0.7, 0.5),
    "factor": (0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
    "entropy_bound": (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6),
    SPECULATIVE: (None,),
}
LEAST_SAMPLES = 8


def frontier_png(frontier: Frontier) -> bytes:
    """Quality over tokens per pass, a line for each rule and block length. Needs matplotlib, else ImportError."""
    figure = new_figure(5.2, 3.4)
    axes = figure.add_subplot()
    keys = list(dict.fromkeys((point.strategy, point.block_length) for point in frontier.points))
    for number, key in enumerate(keys):
        points = [point for point in frontier.points if (point.strategy, point.block_length) == key]
        style = OTHERS[number % len(OTHERS)]
        label = f"{key[0]}, " + (f"blocks of {key[1]}" if key[1] else "whole canvas")
        _draw(axes, points, color=style.color, marker=style.marker, linewidth=1, markersize=4, label=label)
    _draw(axes, [frontier.reference], color=PRINT_QUIET, marker="*", markersize=8, label="one token per pass")
    if chosen := frontier.choice:
        at = chosen.tokens_per_pass, chosen.quality[0].value
        axes.plot(*at, "o", markersize=12, markerfacecolor="none", color=PRINT_QUIET, label="chosen")
    dress(axes, f"{frontier.reference.quality[0].name} against tokens per pass")
    axes.set_xlabel("tokens per pass, every pass counted", fontsize=8, color=PRINT_QUIET)
    legend(axes)
    return to_png(figure, bbox_inches="tight")


def _draw(axes: Any, points: Sequence[TunePoint], **style: Any) -> None:
    shown = [point.quality[0] for point in points]
    upwards = np.abs([[(m.ci95 or (m.value, m.value))[i] - m.value for m in shown] for i in (0, 1)])
    sideways = np.abs([[p.tokens_per_pass_ci95[i] - p.tokens_per_pass for p in points] for i in (0, 1)])
    x = [point.tokens_per_pass for point in points]
    axes.errorbar(x, [measure.value for measure in shown], yerr=upwards, xerr=sideways, capsize=2, **style)


def tune(
    model: DenoiserFunction,
    corpus: Corpus,
    *,
    length: int,
    samples: int = 128,
    block_lengths: Sequence[int] = (0,),
    rules: Sequence[str] | None = None,
    temperature: float = 1.0,
    top_p: float | None = 0.9,
    tolerance: float = 0.02,
    batch_size: int = 16,
    seed: int = 0,
    on_point: Callable[[TunePoint], None] | None = None,
) -> Frontier:
    """Measure every rule with every block length on `samples` samples each.

    Args:
        model: a denoiser, or a model of blocks.
        samples: stories of tales, or sequences of `length` tokens of other text.
        block_lengths: 0 is the whole canvas; of a model of blocks those that it was trained for.
        rules: of VALUES; by default those of ADAPTIVE, and `speculative` for a model of blocks of one token.
        on_point: called with each point, the reference first.

    Raises ValueError for fewer than LEAST_SAMPLES samples and for a block length that the model does not know.
    """
    check_least(LEAST_SAMPLES, samples=samples)
    known = getattr(getattr(model, "config", None), "block_lengths", ())
    how = {"steps": length, "temperature": temperature, "top_p": top_p, "seed": seed}
    blocks = resolve_blocks("low_confidence", None, known=known)
    careful = SamplerConfig(**how, **blocks, stop_at_eos=_stops(known, blocks))

    def measure(config: SamplerConfig, value: float | None, reference: TunePoint | None) -> TunePoint:
        speed, ci95, quality = _measure(model, corpus, config, careful, length, samples, batch_size)
        pairs = zip(quality, reference.quality) if reference else ()
        loses = any(now.is_worse(before, tolerance) for now, before in pairs)
        point = TunePoint(config.strategy, value, config.block_length, speed, ci95, quality, loses)
        if on_point:
            on_point(point)
        return point

    reference = measure(careful, None, None)
    points: list[TunePoint] = []
    rules = (*ADAPTIVE, *((SPECULATIVE,) if 1 in known else ())) if rules is None else rules
    for rule, block_length in itertools.product(rules, block_lengths):
        blocks = resolve_blocks(rule, (block_length or length) if rule == SPECULATIVE else block_length, known=known)
        for value in VALUES[rule]:
            named = {} if value is None else {rule: value}
            config = SamplerConfig(rule, **named, **how, **blocks, stop_at_eos=_stops(known, blocks))
            points.append(measure(config, value, reference))
            if points[-1].loses:
                break
    return Frontier(
        reference, tuple(points), samples, length, temperature, top_p, tolerance, seed, stop_at_eos=careful.stop_at_eos
    )


def _stops(known: Sequence[int], blocks: dict[str, Any]) -> bool:
    """Whether texts end with their first <|endoftext|>: those of a model of blocks, unless written as one block."""
    return bool(known) and blocks["block_length"] is not None


def _measure(
    model: DenoiserFunction,
    corpus: Corpus,
    config: SamplerConfig,
    careful: SamplerConfig,
    length: int,
    samples: int,
    batch_size: int,
) -> tuple[float, Interval, tuple[Measure, ...]]:
    """Tokens per pass, their interval, and the quality of samples."""
    denoiser = denoiser_for(model, config)
    rows = min(batch_size, samples)
    if isinstance(corpus, TalesCorpus):
        tales = evaluate_tales(
            denoiser,
            corpus.tokenizer,
            level=corpus.level,
            stories=samples,
            length=length,
            sampler=config,
            batch_size=rows,
        )
        if tales.tokens_per_pass is None or tales.tokens_per_pass_ci95 is None:
            raise ValueError(f"{samples} samples fit into one sequence of {length} tokens; give more")
        quality = (
            Measure("consistent", tales.consistent, tales.consistent_ci95),
            Measure("grammatical", tales.grammatical, tales.grammatical_ci95),
            Measure("distinct", tales.distinct),
        )
        return tales.tokens_per_pass, tales.tokens_per_pass_ci95, quality
    tokenizer = corpus.tokenizer
    batches = draw_sequences(denoiser, tokenizer, config, length, batch_size=rows)
    drawn = list(itertools.islice(itertools.chain.from_iterable(batches), samples))
    sets = [split_at_eos(ids, tokenizer.eos_id) for ids, _ in drawn]
    texts = [[tokenizer.decode(document) for document in documents] for documents in sets]
    speed, ci95 = tokens_per_pass(texts, [calls for _, calls in drawn])
    nats: list[float] = []
    tokens: list[int] = []
    for start in range(0, samples, rows):
        ids = np.array([row for row, _ in drawn[start : start + rows]], dtype=np.int64)
        found = written_nats(denoiser_for(model, careful), tokenizer, replace(careful, stop_at_eos=False), ids)
        nats += found[0]
        tokens += found[1]
    mean, mean_ci95 = ratio_interval(torch.tensor(nats).double(), torch.tensor(tokens).double())
    documents = [document for each in sets for document in each]
    quality = (
        Measure("nats/token", mean, mean_ci95, higher_is_better=False),
        Measure("distinct-3", distinct_n(documents, 3)),
    )
    return speed, ci95, quality


@torch.no_grad()
def written_nats(
    denoiser: DenoiserFunction, tokenizer: Tokenizer, config: SamplerConfig, ids: np.ndarray[Any, Any]
) -> tuple[list[float], list[int]]:
    """-log p of texts `ids` (batch, length) under a strategy that reveals one token per pass, and the tokens counted.

    The strategy chooses positions by what is on the canvas, never by the token that is drawn, so the product of the
    probabilities of the tokens, each given those revealed before, is a distribution over texts. It is that of the
    denoiser, before temperature and filters. The padding behind the first <|endoftext|> at the end is not counted.
    """
    sampler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
    rows, length = ids.shape
    state = sampler.start([Canvas.masks(length, tokenizer).to(device_of(denoiser))] * rows)
    sets = [split_at_eos(row, tokenizer.eos_id) for row in ids.tolist()]
    ends = np.array([sum(map(len, documents)) + len(documents) for documents in sets])  # an <|endoftext|> for each
    counted = np.arange(length) < ends[:, None]
    nats = np.zeros(rows)
    while not sampler.done(state):
        masked = state.masked
        logits = denoiser(*sampler.model_inputs(state))
        after = sampler.step(state, logits, sampler.noise(state))
        log_p = np.zeros(ids.shape)
        kept = logits[:, : tokenizer.mask_id].double().log_softmax(-1).cpu()
        log_p[masked] = kept.gather(1, torch.from_numpy(ids[masked])[:, None])[:, 0].numpy()
        nats -= np.where(after.revealed & counted, log_p, 0.0).sum(1)
        state = after.replace(ids=np.where(after.revealed, ids, state.ids))
    return nats.tolist(), counted.sum(1).tolist()
