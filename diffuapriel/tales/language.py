"""Tales: short stories from a probabilistic grammar whose entropy is known exactly.

Every random choice is visible in the text, so a story has one derivation (tests prove it), `log_prob` is exact, and no
model can code these stories in fewer nats than `entropy`: the NELBO of a model has a known lower bound. There are three
levels: 1, one sentence; 2, a short story; 3, the full grammar.

    >>> tales.generate(1, random.Random(0))
    'Ruth had five nuts, ate three and kept two.'

Stories are ASCII, on one line, with no space at either end. Names, pronouns, colors, counts, places and answers agree
over the whole story, and `check` distinguishes a syntax error from a broken agreement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache

from diffuapriel.tales.grammar import measures, parser
from diffuapriel.tales.grammar.compiler import compile_grammar
from diffuapriel.tales.grammar.grammar import Grammar
from diffuapriel.tales.lexicon import make_lexicon
from diffuapriel.tales.plots import SENTENCE, SHORT_STORY, STORY

LEVELS = (1, 2, 3)
EXPRESSIONS = {1: SENTENCE, 2: SHORT_STORY, 3: STORY}


@dataclass(frozen=True)
class Check:
    """The result of `check`.

    Attributes:
        grammatical: the text fits the syntax, with any name, pronoun, color or number in a slot.
        consistent: it is a story of the grammar: every later mention agrees with what came before.
        message: the error in plain words; empty for a story.
        position: character offset of the error; None for a story.
        failure: the error in parts; None for a story.
    """

    grammatical: bool
    consistent: bool
    message: str
    position: int | None
    failure: parser.Failure | None = field(default=None, compare=False, repr=False)


def level_of(corpus: str) -> int | None:
    """The level of a corpus that consists of tales, e.g. 3 for "tales:3" and "tales"; None for any other text."""
    name, _, level = corpus.partition(":")
    return int(level or 3) if name == "tales" and (level or "3").isdigit() else None


@lru_cache(maxsize=None, typed=True)
def grammar(level: int) -> Grammar:
    """The compiled grammar of a level."""
    if isinstance(level, bool) or level not in LEVELS:
        raise ValueError(f"tales have the levels 1, 2 and 3, not {level!r}")
    return compile_grammar(EXPRESSIONS[level], make_lexicon())


def generate(level: int, rng: random.Random) -> str:
    """One story. The same state of `rng` gives the same story on every machine and Python version."""
    return grammar(level).sample(rng)


def log_prob(text: str, level: int) -> float:
    """Exact log-probability of a story in nats; minus infinity for a text that is not in the grammar."""
    return parser.log_prob(grammar(level), text)


@lru_cache(maxsize=None, typed=True)
def entropy(level: int) -> float:
    """Entropy of one story in nats, computed exactly by the chain rule."""
    return measures.entropy(grammar(level))


@lru_cache(maxsize=None, typed=True)
def count(level: int) -> int:
    """Number of distinct stories."""
    return measures.count(grammar(level))


def check(text: str, level: int) -> Check:
    """Whether a text is grammatical and consistent, and the first error."""
    walk = parser.read(grammar(level), text)
    if isinstance(walk, parser.Failure):
        return Check(False, False, walk.message, walk.position, walk)
    result = parser.follow(grammar(level), walk)
    if isinstance(result, parser.Failure):
        return Check(True, False, result.message, result.position, result)
    return Check(True, True, "", None)
