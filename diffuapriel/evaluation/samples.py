"""Samples of a model, drawn from [MASK]s alone: how varied they are, and how many tokens a forward pass writes.

distinct-n    number of different n-grams of tokens over all n-grams (arXiv:1510.03055). It falls with the number
              of samples, so compare equal numbers
entropy       of the frequencies of single tokens, in nats: falls when sampling reduces variety (arXiv:2409.02908)
tokens/pass   tokens of the documents over all denoiser calls. The tokens are those of one tokenizer, gpt2-4k, whatever
              the model's: a model of whole words is not faster for writing fewer tokens. The <|endoftext|>s and the
              padding are not counted, the calls that wrote them are
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch

from diffuapriel.device import device_of
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import Interval, ratio_interval
from diffuapriel.options import check_least
from diffuapriel.sampling.config import DEFAULT_BLOCK_LENGTH, SamplerConfig
from diffuapriel.sampling.generate import generate_counted
from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
from diffuapriel.tokenizer import Tokenizer, get_tokenizer


def default_sampler(length: int, seed: int = 0) -> SamplerConfig:
    """The default for samples, also in the app: block by block, the most confident token first, top-p 0.9.

    `ancestral` without top-p instead samples from the model's own distribution, including all of its errors.
    """
    return SamplerConfig(
        strategy="low_confidence", steps=length, block_length=DEFAULT_BLOCK_LENGTH, top_p=0.9, seed=seed
    )


def draw_sequences(
    denoiser: DenoiserFunction,
    tokenizer: Tokenizer,
    config: SamplerConfig,
    length: int,
    *,
    batch_size: int = 16,
    schedule: str = "log-linear",
) -> Iterator[list[tuple[list[int], int]]]:
    """Batches of sequences of `length` ids, each with its denoiser calls, without end.

    The sequences do not depend on the batch size.
    """
    engine = Sampler(config, get_schedule(schedule), tokenizer.mask_id)
    blank = torch.full((batch_size, length), tokenizer.mask_id, device=device_of(denoiser))
    for first in itertools.count(step=batch_size):
        ids, calls = generate_counted(engine, denoiser, blank, first_row=first)
        yield list(zip(ids.tolist(), calls, strict=True))


def tokens_per_pass(texts: Sequence[Sequence[str]], calls: Sequence[int]) -> tuple[float, Interval]:
    """Tokens over denoiser calls, and the interval over sequences, given as the texts of their documents.

    Raises ValueError for fewer than two sequences, which have no interval.
    """
    check_least(2, sequences=len(texts))
    tokenizer = get_tokenizer("gpt2-4k")
    tokens = [sum(len(tokenizer.encode(text)) for text in documents) for documents in texts]
    return ratio_interval(torch.tensor(tokens).double(), torch.tensor(list(calls)).double())


def speed_row(speed: float | None, ci95: Interval | None) -> list[tuple[str, str]]:
    """The line of a table, or none."""
    if speed is None or ci95 is None:
        return []
    return [("tokens/pass", f"{speed:.2f}   [{ci95[0]:.2f}, {ci95[1]:.2f}], of gpt2-4k; every pass counted")]


def split_at_eos(ids: Sequence[int], eos_id: int) -> list[list[int]]:
    """The documents of a sequence, in order, without <|endoftext|> and without the padding at the end."""
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


def distinct_n(texts: Iterable[Sequence[int]], n: int) -> float:
    """Number of different n-grams over the number of all n-grams within the texts; 0 if there are none."""
    runs = Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1))
    return len(runs) / max(1, runs.total())


def unigram_entropy(tokens: Iterable[int]) -> float:
    """Entropy in nats of the frequencies of single tokens."""
    counts = Counter(tokens)
    total = counts.total()
    return -sum(n / total * math.log(n / total) for n in counts.values())
