"""Quality against steps: with fewer denoiser calls, each call reveals more tokens at once, and more of them conflict.

For each strategy and number of steps, whole sequences of tales are generated from [MASK]s alone and the grammar
parses every story (see evaluation/tales.py). Points arrive one by one, cheap ones first.

    grammatical, consistent   share of the stories. The Wilson interval treats each sequence as one observation, as if
                              all of its stories were alike, so it is conservative
    entropy                   mean over sequences of the entropy of single tokens, in nats, with Student's interval.
                              If it is low (arXiv:2409.02908), a high share of correct stories comes from less variety
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from diffuapriel.data.tales import TalesCorpus
from diffuapriel.device import device_of
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import mean_interval, wilson_interval
from diffuapriel.evaluation.samples import split_at_eos, unigram_entropy
from diffuapriel.evaluation.tales import read_stories
from diffuapriel.options import check_least
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import FREE_OF_STEPS, SamplerConfig
from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
from diffuapriel.tokenizer import Tokenizer

MIN_SEQUENCES = 4  # for a meaningful interval


@dataclass(frozen=True)
class QualityPoint:
    """One strategy at one number of steps. Rates and intervals are None if no story was written."""

    strategy: str
    steps: int  # asked for
    calls: float  # denoiser calls per sequence, measured
    num_sequences: int
    stories: int
    grammatical: float | None
    grammatical_ci95: tuple[float, float] | None
    consistent: float | None
    consistent_ci95: tuple[float, float] | None
    entropy: float
    entropy_ci95: tuple[float, float]


@dataclass(frozen=True)
class QualityEvent:
    """Progress of a measurement. fraction: 0 to 1, of the most denoiser calls there can be; points: those so far."""

    fraction: float
    strategy: str
    steps: int
    step: int
    points: tuple[QualityPoint, ...]


def plan(strategies: Sequence[str], steps: Sequence[int], length: int, **sampling: object) -> list[SamplerConfig]:
    """The points to measure, cheap ones first; a strategy that ignores `steps` is one point.

    sampling: further fields of SamplerConfig, for every point.
    """
    counted = [s for s in strategies if s not in FREE_OF_STEPS]
    free = [s for s in strategies if s in FREE_OF_STEPS]
    pairs = [(strategy, n) for n in sorted(set(steps)) for strategy in counted]
    pairs += [(strategy, length) for strategy in free]
    return [SamplerConfig(strategy=s, steps=n, **sampling) for s, n in pairs]  # type: ignore[arg-type]


@torch.no_grad()
def quality_events(
    denoiser: DenoiserFunction,
    tokenizer: Tokenizer,
    configs: Sequence[SamplerConfig],
    *,
    level: int,
    length: int,
    num_sequences: int = 8,
    schedule: str = "log-linear",
) -> Iterator[QualityEvent]:
    """Measure the points of a `plan` on `num_sequences` sequences of `length` tokens each; one event per denoiser call.

    Close the generator to stop. Raises ValueError for too few sequences and if there is nothing to measure.
    """
    check_least(MIN_SEQUENCES, num_sequences=num_sequences)
    if not configs:
        raise ValueError("nothing to measure: choose a strategy and a number of steps")
    blank = Canvas.masks(length, tokenizer).to(device_of(denoiser))
    total = sum(config.max_calls(length) for config in configs)
    done, points = 0, ()
    for config in configs:
        sampler = Sampler(config, get_schedule(schedule), tokenizer.mask_id)
        state, caching = sampler.start([blank] * num_sequences), denoiser_for(denoiser, config)
        while not sampler.done(state):
            yield QualityEvent((done + state.step) / total, config.strategy, config.steps, state.step, points)
            state = sampler.advance(caching, state)
        done += config.max_calls(length)
        points += (read_sequences(state.ids.tolist(), tokenizer, config, level, float(state.nfe.mean())),)
        yield QualityEvent(done / total, config.strategy, config.steps, state.step, points)


def read_sequences(
    drawn: list[list[int]], tokenizer: Tokenizer, config: SamplerConfig, level: int, calls: float
) -> QualityPoint:
    """The point of sequences given as token ids; `calls` is the mean number of denoiser calls per sequence."""
    sequences = [split_at_eos(ids, tokenizer.eos_id) for ids in drawn]
    stories = [story for sequence in sequences for story in sequence]
    entropy, entropy_ci95 = mean_interval(sequence_entropies(drawn, tokenizer))
    grammatical = consistent = grammatical_ci95 = consistent_ci95 = None
    if stories:
        report = read_stories(stories, tokenizer, level, config, len(drawn[0]))
        grammatical, consistent = report.grammatical, report.consistent
        written = sum(map(bool, sequences))  # sequences with a story are the independent observations
        grammatical_ci95 = wilson_interval(grammatical * written, written)
        consistent_ci95 = wilson_interval(consistent * written, written)
    return QualityPoint(
        strategy=config.strategy,
        steps=config.steps,
        calls=calls,
        num_sequences=len(drawn),
        stories=len(stories),
        grammatical=grammatical,
        grammatical_ci95=grammatical_ci95,
        consistent=consistent,
        consistent_ci95=consistent_ci95,
        entropy=entropy,
        entropy_ci95=entropy_ci95,
    )


def sequence_entropies(drawn: list[list[int]], tokenizer: Tokenizer) -> list[float]:
    """For each sequence the entropy in nats of the token frequencies of its stories; 0 for padding alone."""
    sequences = [split_at_eos(ids, tokenizer.eos_id) for ids in drawn]
    return [unigram_entropy(chain.from_iterable(stories)) if stories else 0.0 for stories in sequences]


def true_entropy(tokenizer: Tokenizer, level: int, length: int, num_sequences: int = 64) -> float:
    """The mean entropy of sequences of true tales: that of a model that loses no variety."""
    how = {"split": "validation", "batch_size": num_sequences, "length": length, "seed": 0}
    ids = TalesCorpus(tokenizer, level).batch(0, **how)
    return sum(sequence_entropies(ids.tolist(), tokenizer)) / num_sequences
