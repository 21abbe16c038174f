"""The quality of sampled free text: variety, repetition, copying, and what other models make of it.

Sequences are generated from [MASK]s alone. As many validation sequences of the same length are measured in the same
way: no figure is good or bad by itself, it is near that of true text or far from it.

    distinct-n    number of different n-grams of tokens over all n-grams, n = 1, 2, 3 (samples.py)
    entropy       of the single tokens of a sample, in nats; mean over samples (arXiv:2409.02908). It depends on the
                  tokenizer. That of longer n-grams is left out: in one sample nearly all are different, so it is the
                  logarithm of their number
    repeats       share of samples that say 8 words in a row twice within a document (compare arXiv:1908.04319), and
                  the words before they do; a sample that never does counts with all its words
    copied        words of the longest run of a sample that stands in a training document (copying.py)
    tokens/pass   tokens of the generated documents over denoiser calls (samples.py)
    judge         the bound on -log P(sample) under another model (likelihood.py), per byte of text, so that judges
                  with different tokenizers can be compared, and as perplexity per token of the judge. A low one can
                  also mean poor variety: read it beside the entropy

A judge reads the text, not the ids: its own tokenizer encodes it, with <|endoftext|> between documents. Medians are
given where a few samples would dominate a mean. Intervals are 95 %, over samples.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffuapriel.data.base import Corpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.device import device_of
from diffuapriel.diffusion.objective import DenoiserLike
from diffuapriel.evaluation.interval import (
    Interval,
    mean_interval,
    median_interval,
    ratio_interval,
    wilson_interval,
)
from diffuapriel.evaluation.likelihood import rolling_windows, score_answers
from diffuapriel.evaluation.samples import (
    default_sampler,
    distinct_n,
    draw_sequences,
    speed_row,
    split_at_eos,
    tokens_per_pass,
    unigram_entropy,
)
from diffuapriel.evaluation.text.copying import REPEAT_WORDS, longest_copies, words_before_repeat, words_of
from diffuapriel.options import check_least
from diffuapriel.sampling.config import SamplerConfig, describe_sampling
from diffuapriel.sampling.sampler import DenoiserFunction
from diffuapriel.tokenizer import Tokenizer

MIN_SAMPLES = 3  # for an interval of a mean
MOST_CHARACTERS = 1_000_000_000  # of training text in which copies are looked for: a few minutes
EXAMPLES = 3


@dataclass(frozen=True)
class Judge:
    """A model that scores texts, and the tokens that it reads at once."""

    denoiser: DenoiserLike
    tokenizer: Tokenizer
    length: int


@dataclass(frozen=True)
class JudgeScore:
    """The cost of texts under a judge."""

    bits_per_byte: float
    bits_per_byte_ci95: Interval
    perplexity: float  # per token of the judge
    perplexity_ci95: Interval


@dataclass(frozen=True)
class TextStatistics:
    """Figures of one set of texts."""

    distinct_n: tuple[float, float, float]
    entropy: float  # nats
    entropy_ci95: Interval
    repeats: float  # share
    repeats_ci95: Interval
    words_before_repeat: float  # median
    words_before_repeat_ci95: Interval
    copied_words: float  # median
    copied_words_ci95: Interval
    most_copied_words: int
    judges: dict[str, JudgeScore]


@dataclass(frozen=True)
class TextReport:
    """The statistics of `num_samples` generated sequences of `length` tokens, and of as many validation sequences."""

    generated: TextStatistics
    validation: TextStatistics
    num_samples: int
    length: int
    searched_characters: int  # of training text, for copies
    strategy: str
    steps: int
    block_length: int | None
    temperature: float
    top_p: float | None
    examples: tuple[str, ...]
    tokens_per_pass: float
    tokens_per_pass_ci95: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for a terminal."""
        columns = [_rows(of) for of in (self.generated, self.validation)]
        lines = [f"{'':<13} {'generated':<28} validation text"]
        lines += [f"{name:<13} {a:<28} {b:<28} {unit}" for (name, a, unit), (_, b, _) in zip(*columns)]
        lines += [f"{name:<13} {value}" for name, value in speed_row(self.tokens_per_pass, self.tokens_per_pass_ci95)]
        how = describe_sampling(self.strategy, self.steps, self.temperature, self.top_p, self.block_length)
        lines.append(f"{'over':<13} {self.num_samples} samples of {self.length} tokens, {how}")
        lines.append(f"{'searched':<13} {self.searched_characters:,} characters of training text")
        return "\n".join(line.rstrip() for line in lines)


def evaluate_text(
    denoiser: DenoiserFunction,
    corpus: Corpus,
    *,
    length: int,
    num_samples: int = 200,
    sampler: SamplerConfig | None = None,
    judges: Mapping[str, Judge] | None = None,
    num_mc_samples: int = 8,
    batch_size: int = 16,
    seed: int = 0,
    schedule: str = "log-linear",
    on_batch: Callable[[int], None] | None = None,
) -> TextReport:
    """Generate `num_samples` sequences of `length` tokens and measure them beside validation text of the corpus.

    Args:
        sampler: `default_sampler` if None.
        judges: models that score the texts, by name.
        num_mc_samples: random masks per text and judge.
        seed: of the validation sequences and the judges' masks.
        on_batch: called with the number of sequences generated.

    Raises ValueError for a count out of range, for tales (see `evaluate_tales`), and if the samples hold no text.
    """
    check_least(MIN_SAMPLES, num_samples=num_samples)
    check_least(length=length, batch_size=batch_size, num_mc_samples=num_mc_samples)
    if isinstance(corpus, TalesCorpus):
        raise ValueError(f"{corpus.name} has no end of training text; evaluate_tales measures samples of tales")
    tokenizer, config = corpus.tokenizer, sampler or default_sampler(length)
    drawn: list[list[int]] = []
    calls: list[int] = []
    rows = min(batch_size, num_samples)
    for batch in draw_sequences(denoiser, tokenizer, config, length, batch_size=rows, schedule=schedule):
        drawn = (drawn + [ids for ids, _ in batch])[:num_samples]
        calls = (calls + [passes for _, passes in batch])[:num_samples]
        if on_batch:
            on_batch(len(drawn))
        if len(drawn) == num_samples:
            break
    true = corpus.batch(0, split="validation", batch_size=num_samples, length=length, seed=seed).tolist()
    sets = [[split_at_eos(ids, tokenizer.eos_id) for ids in sequences] for sequences in (drawn, true)]
    if not any(sets[0]):
        raise ValueError(f"{num_samples} sequences of {length} tokens hold no text; the model writes only padding")
    texts = [[[tokenizer.decode(ids) for ids in documents] for documents in sequences] for sequences in sets]
    speed, speed_ci95 = tokens_per_pass(texts[0], calls)
    training = _Counted(corpus.texts("train"))
    copies = longest_copies(texts[0] + texts[1], training)
    scoring = {"num_mc_samples": num_mc_samples, "batch_size": batch_size, "seed": seed}
    generated, validation = (
        _statistics(
            ids,
            documents,
            copied,
            {name: score_texts(judge, documents, **scoring) for name, judge in (judges or {}).items()},
        )
        for ids, documents, copied in zip(sets, texts, (copies[:num_samples], copies[num_samples:]))
    )
    return TextReport(
        generated=generated,
        validation=validation,
        num_samples=num_samples,
        length=length,
        searched_characters=training.characters,
        strategy=config.strategy,
        steps=config.max_calls(length),
        block_length=config.block_length,
        temperature=config.temperature,
        top_p=config.top_p,
        examples=tuple("\n\n".join(documents) for documents in texts[0][:EXAMPLES]),
        tokens_per_pass=speed,
        tokens_per_pass_ci95=speed_ci95,
    )


def score_texts(
    judge: Judge, samples: Sequence[Sequence[str]], *, num_mc_samples: int = 8, batch_size: int = 16, seed: int = 0
) -> JudgeScore:
    """The cost of samples, each given as its documents, under a judge. A sample that its context cannot hold is cut.

    Raises ValueError for fewer than two samples, which have no interval.
    """
    check_least(2, samples=len(samples))
    eos, pairs, owners, tokens = [judge.tokenizer.eos_id], [], [], []
    for number, documents in enumerate(samples):
        encoded = [judge.tokenizer.encode(document) for document in documents]
        ids = [id for document in encoded for id in document + eos][:-1]
        windows = list(rolling_windows([], ids, judge.length))
        pairs += windows
        owners += [number] * len(windows)
        tokens.append(len(ids))
    nats = torch.zeros(len(samples), dtype=torch.float64)
    scored = score_answers(
        judge.denoiser,
        pairs,
        judge.tokenizer.mask_id,
        num_mc_samples=num_mc_samples,
        batch_size=batch_size,
        greedy=False,
        seed=seed,
        device=device_of(judge.denoiser),
    )
    for pair, score in scored:
        nats[owners[pair]] += score.nats
    sizes = torch.tensor([sum(len(text.encode()) for text in documents) for documents in samples]).double()
    bits, bits_ci95 = ratio_interval(nats / math.log(2), sizes)
    mean, ci95 = ratio_interval(nats, torch.tensor(tokens).double())
    return JudgeScore(bits, bits_ci95, math.exp(mean), (math.exp(ci95[0]), math.exp(ci95[1])))


class _Counted:
    """Iterates over texts until MOST_CHARACTERS have been read, and counts them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.characters = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            text = text[: MOST_CHARACTERS - self.characters]
            self.characters += len(text)
            yield text
            if self.characters >= MOST_CHARACTERS:
                return


def _statistics(
    sequences: Sequence[Sequence[list[int]]],
    texts: Sequence[Sequence[str]],
    copied: Sequence[int],
    judges: dict[str, JudgeScore],
) -> TextStatistics:
    """Sum up sequences, given as the ids and the texts of their documents, and what was found of them elsewhere."""
    documents = list(itertools.chain.from_iterable(sequences))
    entropy, entropy_ci95 = mean_interval([unigram_entropy(itertools.chain.from_iterable(s)) for s in sequences])
    words = [sum(len(words_of(text)) for text in sample) for sample in texts]
    before = [words_before_repeat(sample) for sample in texts]
    repeating = sum(count is not None for count in before)
    until, until_ci95 = median_interval([all_ if count is None else count for all_, count in zip(words, before)])
    copy, copy_ci95 = median_interval(copied)
    return TextStatistics(
        distinct_n=(distinct_n(documents, 1), distinct_n(documents, 2), distinct_n(documents, 3)),
        entropy=entropy,
        entropy_ci95=entropy_ci95,
        repeats=repeating / len(texts),
        repeats_ci95=wilson_interval(repeating, len(texts)),
        words_before_repeat=until,
        words_before_repeat_ci95=until_ci95,
        copied_words=copy,
        copied_words_ci95=copy_ci95,
        most_copied_words=max(copied),
        judges=judges,
    )


def _rows(of: TextStatistics) -> list[tuple[str, str, str]]:
    """(name, figure, unit) of each line of a table."""
    rows = [(f"distinct-{n}", f"{share:.4f}", "") for n, share in enumerate(of.distinct_n, start=1)]
    low, high = of.repeats_ci95
    rows += [
        ("entropy", _figure(of.entropy, of.entropy_ci95, ".3f"), "nats of single tokens"),
        ("repeats", f"{100 * of.repeats:.1f} % [{100 * low:.1f}, {100 * high:.1f}]", f"{REPEAT_WORDS} words in a row"),
        ("  after", _figure(of.words_before_repeat, of.words_before_repeat_ci95, "g"), "words, median"),
        ("copied", _figure(of.copied_words, of.copied_words_ci95, "g"), "words in a row, median"),
        ("  at most", str(of.most_copied_words), "words in a row"),
    ]
    for name, score in of.judges.items():
        rows.append((f"judge {name}", "", ""))
        rows.append(("  bits/byte", _figure(score.bits_per_byte, score.bits_per_byte_ci95, ".3f"), "or less"))
        rows.append(("  perplexity", _figure(score.perplexity, score.perplexity_ci95, ".2f"), "or less"))
    return rows


def _figure(value: float, ci95: Interval, form: str) -> str:
    return f"{value:{form}} [{ci95[0]:{form}}, {ci95[1]:{form}}]"
