"""Steps against quality: the fewer denoiser calls, the more tokens a call reveals together, and the more they clash.

For each strategy and number of steps whole windows of tales are drawn from nothing but [MASK]s, and every story in
them is read by the grammar (see evaluation/tales.py). Points arrive one by one, the cheap ones first.

    grammatical, consistent   share of the stories; the interval is Wilson's with every window counted as one draw,
                              as if the stories of a window were all alike: it is never too narrow
    entropy                   mean over windows of the entropy of a window's single tokens, in nats, with Student's
                              interval; it falls where sampling narrows the text (arXiv:2409.02908), and then a high
                              share of correct stories is bought with sameness
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from diffuapriel.data.tales import TalesCorpus
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import mean_interval, wilson_interval
from diffuapriel.evaluation.tales import read_stories, split_window, unigram_entropy
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import DenoiserLike, Sampler
from diffuapriel.tokenizer import Tokenizer

FREE_OF_STEPS = ("threshold", "first_hitting")  # take as many calls as they need: one point each
LEAST_WINDOWS = 4  # for an interval worth the name


@dataclass(frozen=True)
class QualityPoint:
    """One strategy at one number of steps. Rates and intervals are None where no story was written."""

    strategy: str
    steps: int  # asked for
    calls: float  # denoiser calls per window, measured
    windows: int
    stories: int
    grammatical: float | None
    grammatical_ci95: tuple[float, float] | None
    consistent: float | None
    consistent_ci95: tuple[float, float] | None
    entropy: float
    entropy_ci95: tuple[float, float]


@dataclass(frozen=True)
class QualityEvent:
    """Where a measurement stands. fraction: 0 to 1 of all denoiser calls, at most; the points so far."""

    fraction: float
    strategy: str
    steps: int
    step: int
    points: tuple[QualityPoint, ...]


def plan(
    strategies: Sequence[str], steps: Sequence[int], length: int, **sampling: object
) -> list[SamplerConfig]:
    """The points to measure, cheap ones first. `sampling`: further fields of SamplerConfig, of every point."""
    counted = [s for s in strategies if s not in FREE_OF_STEPS]
    free = [s for s in strategies if s in FREE_OF_STEPS]
    pairs = [(strategy, n) for n in sorted(set(steps)) for strategy in counted]
    pairs += [(strategy, length) for strategy in free]
    return [SamplerConfig(strategy=s, steps=n, **sampling) for s, n in pairs]  # type: ignore[arg-type]


@torch.no_grad()
def quality_events(
    denoiser: DenoiserLike,
    tokenizer: Tokenizer,
    configs: Sequence[SamplerConfig],
    *,
    level: int,
    length: int,
    windows: int = 8,
    schedule: str = "log-linear",
) -> Iterator[QualityEvent]:
    """Measure the points of a `plan` on `windows` windows of `length` tokens each; an event every denoiser call.

    Close the generator to stop. Raises ValueError for too few windows and for nothing to measure.
    """
    if windows < LEAST_WINDOWS:
        raise ValueError(f"windows is {windows}; it must be {LEAST_WINDOWS} or more, or there is no interval")
    if not configs:
        raise ValueError("nothing to measure: choose a strategy and a number of steps")
    device = next(denoiser.parameters()).device if isinstance(denoiser, nn.Module) else torch.device("cpu")
    blank = Canvas.masks(length, tokenizer).to(device)
    total = sum(config.max_calls(length) for config in configs)
    done, points = 0, ()
    for config in configs:
        sampler = Sampler(config, get_schedule(schedule), tokenizer.mask_id)
        state = sampler.start([blank] * windows)
        while not sampler.done(state):
            yield QualityEvent((done + state.step) / total, config.strategy, config.steps, state.step, points)
            state = sampler.advance(denoiser, state)
        done += config.max_calls(length)
        points += (read_windows(state.ids.tolist(), tokenizer, config, level, float(state.nfe.mean())),)
        yield QualityEvent(done / total, config.strategy, config.steps, state.step, points)


def read_windows(
    drawn: list[list[int]], tokenizer: Tokenizer, config: SamplerConfig, level: int, calls: float
) -> QualityPoint:
    """The point of windows given as token ids; `calls` is the mean number of denoiser calls behind each."""
    split = [split_window(ids, tokenizer.eos_id) for ids in drawn]
    stories = [story for window in split for story in window]
    entropy, entropy_ci95 = mean_interval(window_entropies(drawn, tokenizer))
    grammatical = consistent = grammatical_ci95 = consistent_ci95 = None
    if stories:
        report = read_stories(stories, tokenizer, level, config, len(drawn[0]))
        grammatical, consistent = report.grammatical, report.consistent
        written = sum(bool(window) for window in split)  # windows with a story: the independent draws
        grammatical_ci95 = wilson_interval(grammatical * written, written)
        consistent_ci95 = wilson_interval(consistent * written, written)
    return QualityPoint(
        strategy=config.strategy,
        steps=config.steps,
        calls=calls,
        windows=len(drawn),
        stories=len(stories),
        grammatical=grammatical,
        grammatical_ci95=grammatical_ci95,
        consistent=consistent,
        consistent_ci95=consistent_ci95,
        entropy=entropy,
        entropy_ci95=entropy_ci95,
    )


def window_entropies(drawn: list[list[int]], tokenizer: Tokenizer) -> list[float]:
    """For each window the entropy in nats of the frequencies of its stories' tokens; 0 for a window of padding."""
    split = [split_window(ids, tokenizer.eos_id) for ids in drawn]
    return [
        unigram_entropy(token for story in window for token in story) if window else 0.0 for window in split
    ]


def true_entropy(tokenizer: Tokenizer, level: int, length: int, windows: int = 64) -> float:
    """The mean entropy of windows of true tales: what a model that narrows nothing would show."""
    ids = TalesCorpus(tokenizer, level).batch(
        0, split="validation", batch_size=windows, length=length, seed=0
    )
    return sum(window_entropies(ids.tolist(), tokenizer)) / windows
