"""What the tests know of a grammar by counting: all of its texts, bounds on their length, nats/token."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from diffuapriel.tales import language as tales
from diffuapriel.tales.grammar.grammar import (
    Branch,
    Grammar,
    Lexicon,
    Literal,
    Node,
    Registers,
    WordClass,
    index_of,
    spellings,
)
from diffuapriel.tales.grammar.measures import bound
from diffuapriel.tokenizer import Tokenizer


def reduced(lexicon: Lexicon, size: int, **sizes: int) -> Lexicon:
    """The lexicon with the first `size` words of each class, or `sizes[kind]`: for proofs by exhaustion."""

    def cut(word: WordClass) -> WordClass:
        n = sizes.get(word.kind, size)
        given = word.given and {key: values[:n] for key, values in word.given.items()}
        return WordClass(word.kind, word.values[:n], given)

    return Lexicon(lexicon.kinds, {name: cut(word) for name, word in lexicon.classes.items()})


def enumerate_texts(grammar: Grammar) -> Iterator[tuple[str, float]]:
    """Every text with its log-probability: for small grammars."""
    stack: list[tuple[Node | None, Registers, str, float]]
    stack = [(grammar.start, [None] * len(grammar.names), "", 0.0)]
    while stack:
        node, registers, text, log_p = stack.pop()
        if node is None:
            yield text, log_p
        elif isinstance(node, Literal):
            stack.append((node.next, registers, text + node.text, log_p))
        elif isinstance(node, Branch):
            for p, following in zip(node.probabilities, node.nodes, strict=True):
                stack.append((following, registers, text, log_p + math.log(p)))
        else:
            values, surfaces = node.options(registers)
            log_p -= math.log(len(values))
            for value, surface in zip(values, surfaces, strict=True):
                stack.append((node.next, bound(registers, node, value), text + surface, log_p))


def length_bounds(grammar: Grammar, measure: Callable[[str], int]) -> tuple[int, int]:
    """Bounds (lowest, highest) on the summed `measure` of a text's pieces, over all texts."""

    @cache
    def bounds(index: int) -> tuple[int, int]:
        if index < 0:
            return 0, 0
        node = grammar.nodes[index]
        if isinstance(node, Branch):
            each = [bounds(index_of(n)) for n in node.nodes]
            return min(low for low, _ in each), max(high for _, high in each)
        sizes = [sum(measure(piece) for piece in form) for form in spellings(node)]
        low, high = bounds(index_of(node.next))
        return low + min(sizes), high + max(sizes)

    return bounds(index_of(grammar.start))


@dataclass(frozen=True)
class EntropyRate:
    """Entropy of a level in nats/token, a story of n tokens counting n + 1 (its <|endoftext|>).

    The entropy is exact; the mean length is estimated, hence `standard_error` (nats/token).
    """

    nats_per_token: float
    standard_error: float
    tokens_per_story: float  # without the <|endoftext|>
    stories: int


def entropy_rate(level: int, tokenizer: Tokenizer, *, stories: int = 20_000, seed: int = 0) -> EntropyRate:
    """Entropy over the mean length of `stories` generated stories."""
    if stories < 2:
        raise ValueError(f"a mean length and its error need at least 2 stories, not {stories}")
    rng = random.Random(seed)
    lengths = [len(tokenizer.encode(tales.generate(level, rng))) for _ in range(stories)]
    mean = sum(lengths) / stories
    variance = sum((n - mean) ** 2 for n in lengths) / (stories - 1)
    rate = tales.entropy(level) / (mean + 1)
    error = rate * math.sqrt(variance / stories) / (mean + 1)  # first order in the mean's own error
    return EntropyRate(rate, error, mean, stories)
