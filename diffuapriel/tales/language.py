"""Tales: short stories from a probabilistic grammar whose entropy is known exactly.

Every random choice is visible in the text, so a story has one derivation (tests prove it), `log_prob` is
exact, and `entropy` is the physical limit that a model's NELBO can be held against: no model can code
these stories in fewer nats. Three levels: 1, one sentence; 2, a short story; 3, the full grammar.

    >>> tales.generate(1, random.Random(0))
    'Ruth had five nuts, ate three and kept two.'

Stories are ASCII, one line, with no space at either end; they agree over their whole length (names,
pronouns, colors, counts, places, answers), and `check` tells broken syntax from a broken agreement.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

from diffuapriel.tales.grammar import measures as grammar_measures
from diffuapriel.tales.grammar import parser as grammar_reading
from diffuapriel.tales.grammar.compiler import compile_grammar
from diffuapriel.tales.grammar.grammar import Grammar
from diffuapriel.tales.lexicon import make_lexicon
from diffuapriel.tales.plots import SENTENCE, SHORT_STORY, STORY
from diffuapriel.tokenizer import Tokenizer

LEVELS = (1, 2, 3)
EXPRESSIONS = {1: SENTENCE, 2: SHORT_STORY, 3: STORY}


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        grammatical: the text fits the syntax, whatever name, pronoun, color or number stands in a slot.
        consistent: it is a story: every later mention agrees with what came before.
        message: what broke, in plain words; empty for a story.
        position: character offset of what broke; None for a story.
    """

    grammatical: bool
    consistent: bool
    message: str
    position: int | None


@lru_cache(maxsize=None, typed=True)
def grammar(level: int) -> Grammar:
    """The compiled grammar of a level."""
    if isinstance(level, bool) or level not in LEVELS:
        raise ValueError(f"tales have the levels 1, 2 and 3, not {level!r}")
    return compile_grammar(EXPRESSIONS[level], make_lexicon())


def generate(level: int, rng: random.Random) -> str:
    """One story. The same `rng` state gives the same story on every machine and Python version."""
    return grammar(level).sample(rng)


def log_prob(text: str, level: int) -> float:
    """Exact log-probability of a story, in nats; minus infinity if it is not in the grammar."""
    return grammar_reading.log_prob(grammar(level), text)


@lru_cache(maxsize=None, typed=True)
def entropy(level: int) -> float:
    """Entropy of one story in nats: computed by the chain rule, not estimated."""
    return grammar_measures.entropy(grammar(level))


@lru_cache(maxsize=None, typed=True)
def count(level: int) -> int:
    """Number of distinct stories."""
    return grammar_measures.count(grammar(level))


def check(text: str, level: int) -> Check:
    """Whether a text is grammatical and consistent, and where and how it breaks."""
    walk = grammar_reading.read(grammar(level), text)
    if isinstance(walk, grammar_reading.Failure):
        return Check(False, False, walk.message, walk.position)
    result = grammar_reading.follow(grammar(level), walk)
    if isinstance(result, grammar_reading.Failure):
        return Check(True, False, result.message, result.position)
    return Check(True, True, "", None)


@dataclass(frozen=True)
class EntropyRate:
    """Entropy of a level in nats/token, a story of n tokens counting n + 1 (its <|endoftext|>).

    The entropy is exact; the mean length is estimated, hence `standard_error` (nats/token).
    """

    nats_per_token: float
    standard_error: float
    tokens_per_story: float  # without the <|endoftext|>
    stories: int


@lru_cache(maxsize=None, typed=True)
def entropy_rate(level: int, tokenizer: Tokenizer, *, stories: int = 20_000, seed: int = 0) -> EntropyRate:
    """Entropy over the mean length of `stories` generated stories."""
    if stories < 2:
        raise ValueError(f"a mean length and its error need at least 2 stories, not {stories}")
    rng = random.Random(seed)
    lengths = [len(tokenizer.encode(generate(level, rng))) for _ in range(stories)]
    mean = sum(lengths) / stories
    variance = sum((n - mean) ** 2 for n in lengths) / (stories - 1)
    rate = entropy(level) / (mean + 1)
    error = rate * math.sqrt(variance / stories) / (mean + 1)  # first order in the mean's own error
    return EntropyRate(rate, error, mean, stories)
