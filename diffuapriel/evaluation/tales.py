"""The quality of sampled tales: grammar, consistency and variety.

Whole sequences are generated from [MASK]s alone and split at <|endoftext|>, and the grammar parses every story:

    grammatical   the story fits the syntax; share of all stories, with a Wilson interval
    consistent    the story is in the language of the grammar: every later mention agrees with what came before
    distinct      number of different stories over all stories; low for a model that repeats itself
    distinct-n    number of different n-grams of tokens over all n-grams, n = 1, 2, 3 (arXiv:1510.03055). It falls
                  with the number of stories, so compare equal numbers
    entropy       of single tokens, in nats: falls when sampling reduces variety (arXiv:2409.02908)
    surprisal     mean of -log p(story) over the consistent ones; equals the grammar's entropy for a perfect model

The <|endoftext|>s at the end of a sequence are padding. An <|endoftext|> in the middle with nothing before it ends an
empty story, which counts and is not grammatical. Stories of one sequence are not quite independent, so the intervals
are slightly too narrow.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffuapriel.device import device_of
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import wilson_interval
from diffuapriel.options import check_least
from diffuapriel.sampling.config import DEFAULT_BLOCK_LENGTH, SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the model card."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for a terminal."""
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
            ("over", f"{self.stories} stories of level {self.level}, {self._sampling()}"),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)

    def _sampling(self) -> str:
        blocks = "" if self.block_length is None else f", blocks of {self.block_length}"
        narrowed = "" if self.top_p is None else f", top-p {self.top_p:g}"
        return f"{self.strategy}{blocks}, {self.steps} steps, temperature {self.temperature:g}{narrowed}"


def default_sampler(length: int, seed: int = 0) -> SamplerConfig:
    """The default for stories, also in the app: block by block, the most confident token first, top-p 0.9.

    `ancestral` without top-p instead samples from the model's own distribution, including all of its errors.
    """
    return SamplerConfig(
        strategy="low_confidence", steps=length, block_length=DEFAULT_BLOCK_LENGTH, top_p=0.9, seed=seed
    )


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
    engine = Sampler(config, get_schedule(schedule), tokenizer.mask_id)
    blank = torch.full((batch_size, length), tokenizer.mask_id, device=device_of(denoiser))
    drawn: list[list[int]] = []
    sequences = 0
    while len(drawn) < stories:
        for row in generate(engine, denoiser, blank, first_row=sequences).tolist():
            drawn += split_stories(row, tokenizer.eos_id)
        sequences += batch_size
        if on_batch:
            on_batch(len(drawn))
        if not drawn:
            raise ValueError(
                f"{sequences} sequences of {length} tokens hold no story at all; the model writes only padding"
            )
    return read_stories(drawn, tokenizer, level, config, length)


def split_stories(ids: list[int], eos_id: int) -> list[list[int]]:
    """The stories of a sequence, in order, without <|endoftext|> and without the padding at the end."""
    end = len(ids)
    while end and ids[end - 1] == eos_id:
        end -= 1
    found: list[list[int]] = [[]]
    for token in ids[:end]:
        if token == eos_id:
            found.append([])
        else:
            found[-1].append(token)
    return found if end else []


def read_stories(
    drawn: list[list[int]], tokenizer: Tokenizer, level: int, config: SamplerConfig, length: int
) -> TalesReport:
    """Check stories given as token ids, and sum up the results."""
    texts = [tokenizer.decode(ids) for ids in drawn]
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
    )


def distinct_n(texts: Iterable[Sequence[int]], n: int) -> float:
    """Number of different n-grams over the number of all n-grams within the texts; 0 if there are none."""
    runs = Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1))
    return len(runs) / max(1, runs.total())


def unigram_entropy(tokens: Any) -> float:
    """Entropy in nats of the frequencies of single tokens."""
    counts = Counter(tokens)
    total = counts.total()
    return -sum(n / total * math.log(n / total) for n in counts.values())


def _percent(rate: float, interval: tuple[float, float]) -> str:
    return f"{100 * rate:.1f} %   [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
