"""The quality of sampled tales: grammar, consistency and variety.

Whole sequences are generated from [MASK]s alone and split at <|endoftext|>, and the grammar parses every story:

    grammatical   the story fits the syntax; share of all stories, with a Wilson interval
    consistent    the story is in the language of the grammar: every later mention agrees with what came before
    distinct      number of different stories over all stories; low for a model that repeats itself
    distinct-n    number of different n-grams of tokens over all n-grams, n = 1, 2, 3 (samples.py)
    entropy       of single tokens of all stories, in nats
    tokens/pass   tokens of the stories over denoiser calls, with an interval over sequences (samples.py)
    plots, names  chi-square tests against the grammar's own probabilities, where there are enough stories (fidelity.py)
    surprisal     mean of -log p(story) over the consistent ones; equals the grammar's entropy for a perfect model

The <|endoftext|>s at the end of a sequence are padding. An <|endoftext|> in the middle with nothing before it ends an
empty story, which counts and is not grammatical. Stories of one sequence are not quite independent, so the intervals
are slightly too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffuapriel.evaluation.fidelity import plots_and_names
from diffuapriel.evaluation.interval import wilson_interval
from diffuapriel.evaluation.samples import (
    default_sampler,
    distinct_n,
    draw_sequences,
    speed_row,
    split_at_eos,
    tokens_per_pass,
    unigram_entropy,
)
from diffuapriel.options import check_least
from diffuapriel.sampling.config import SamplerConfig, describe_sampling
from diffuapriel.sampling.sampler import DenoiserFunction
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import Tokenizer

EXAMPLES = 3


@dataclass(frozen=True)
class TalesReport:
    """Rates over `stories` sampled stories, with 95 % intervals; entropies in nats."""

    level: int
    stories: int
    grammatical: float
    grammatical_ci95: tuple[float, float]
    consistent: float
    consistent_ci95: tuple[float, float]
    distinct: float
    distinct_n: tuple[float, float, float]  # of single tokens, pairs and triples
    token_entropy: float  # nats, of single tokens of all stories
    surprisal: float | None  # nats/story, mean over the consistent ones
    story_entropy: float  # nats/story, of the grammar itself
    strategy: str
    steps: int
    block_length: int | None
    temperature: float
    top_p: float | None
    length: int
    examples: tuple[str, ...]
    faults: tuple[str, ...]  # the first errors found in stories that are not consistent
    tokens_per_pass: float | None = None  # None where the denoiser calls are not known
    tokens_per_pass_ci95: tuple[float, float] | None = None
    plots_chi2: float | None = None  # against the grammar; None with too few stories
    plots_p: float | None = None
    names_chi2: float | None = None
    names_p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the model card."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for a terminal."""
        how = describe_sampling(self.strategy, self.steps, self.temperature, self.top_p, self.block_length)
        rows = [
            ("grammatical", _percent(self.grammatical, self.grammatical_ci95)),
            ("consistent", _percent(self.consistent, self.consistent_ci95)),
            ("distinct", f"{100 * self.distinct:.1f} %"),
            ("distinct-n", " ".join(f"{share:.4f}" for share in self.distinct_n) + "   n = 1, 2, 3"),
            ("entropy", f"{self.token_entropy:.3f} nats of single tokens"),
            (
                "surprisal",
                f"{_number(self.surprisal)} nats/story; the grammar's entropy is {self.story_entropy:.2f}",
            ),
            *self._fidelity(),
            *speed_row(self.tokens_per_pass, self.tokens_per_pass_ci95),
            ("over", f"{self.stories} stories of level {self.level}, {how}"),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)

    def _fidelity(self) -> list[tuple[str, str]]:
        """The lines of the chi-square tests that could be made."""
        tests = (("plots", self.plots_chi2, self.plots_p), ("names", self.names_chi2, self.names_p))
        return [
            (name, f"chi2 {chi2:.1f}, p = {p:.2g}") for name, chi2, p in tests if chi2 is not None and p is not None
        ]


def evaluate_tales(
    denoiser: DenoiserFunction,
    tokenizer: Tokenizer,
    *,
    level: int = 3,
    stories: int = 200,
    length: int = 256,
    sampler: SamplerConfig | None = None,
    batch_size: int = 16,
    schedule: str = "log-linear",
    on_batch: Callable[[int], None] | None = None,
) -> TalesReport:
    """Generate sequences of `length` tokens until they hold `stories` stories or more, and check every story.

    sampler: `default_sampler` if None. on_batch is called with the number of stories so far. Raises ValueError for a
    count below 1, and if a whole batch holds no story.
    """
    check_least(stories=stories, length=length, batch_size=batch_size)
    config = sampler or default_sampler(length)
    drawn: list[list[int]] = []
    texts: list[list[str]] = []  # of each sequence
    calls: list[int] = []
    batches = draw_sequences(denoiser, tokenizer, config, length, batch_size=batch_size, schedule=schedule)
    while len(drawn) < stories:
        for ids, passes in next(batches):
            found = split_at_eos(ids, tokenizer.eos_id)
            drawn += found
            texts.append([tokenizer.decode(story) for story in found])
            calls.append(passes)
        if on_batch:
            on_batch(len(drawn))
        if not drawn:
            raise ValueError(
                f"{len(calls)} sequences of {length} tokens hold no story at all; the model writes only padding"
            )
    report = read_stories(drawn, tokenizer, level, config, length)
    if len(calls) < 2:
        return report
    speed, ci95 = tokens_per_pass(texts, calls)
    return dataclasses.replace(report, tokens_per_pass=speed, tokens_per_pass_ci95=ci95)


def read_stories(
    drawn: list[list[int]], tokenizer: Tokenizer, level: int, config: SamplerConfig, length: int
) -> TalesReport:
    """Check stories given as token ids, and sum up the results."""
    texts = [tokenizer.decode(ids) for ids in drawn]
    plots, names = plots_and_names(texts, level)
    checks = [tales.check(text, level) for text in texts]
    grammatical = sum(check.grammatical for check in checks)
    consistent = sum(check.grammatical and check.consistent for check in checks)
    surprisals = [-tales.log_prob(text, level) for text, check in zip(texts, checks) if check.consistent]
    faults = [f"{check.message}: {text}" for text, check in zip(texts, checks) if not check.consistent]
    return TalesReport(
        level=level,
        stories=len(texts),
        grammatical=grammatical / len(texts),
        grammatical_ci95=wilson_interval(grammatical, len(texts)),
        consistent=consistent / len(texts),
        consistent_ci95=wilson_interval(consistent, len(texts)),
        distinct=len(set(texts)) / len(texts),
        distinct_n=(distinct_n(drawn, 1), distinct_n(drawn, 2), distinct_n(drawn, 3)),
        token_entropy=unigram_entropy(token for ids in drawn for token in ids),
        surprisal=sum(surprisals) / len(surprisals) if surprisals else None,
        story_entropy=tales.entropy(level),
        strategy=config.strategy,
        steps=config.max_calls(length),
        block_length=config.block_length,
        temperature=config.temperature,
        top_p=config.top_p,
        length=length,
        examples=tuple(texts[:EXAMPLES]),
        faults=tuple(faults[:EXAMPLES]),
        plots_chi2=plots and plots.statistic,
        plots_p=plots and plots.p,
        names_chi2=names and names.statistic,
        names_p=names and names.p,
    )


def _percent(rate: float, interval: tuple[float, float]) -> str:
    return f"{100 * rate:.1f} %   [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
