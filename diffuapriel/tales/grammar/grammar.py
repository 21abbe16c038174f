"""Probabilistic grammars with memory: one definition that samples, parses and measures.

A grammar is written in templates. `{hero:person}` draws a person and stores it in the register `hero`; `{hero.his}`
later says "her" or "his" to agree with that person. A grammar is compiled to a graph of three kinds of node, which all
uses share:

    Literal   fixed text
    Slot      a word drawn uniformly from those that its registers allow, or the one that agreement requires
    Branch    one of several continuations, with probabilities

`Grammar.sample` walks the graph; parser.py walks it along a given text (log-probability and checks); measures.py sums
over all walks (entropy, number of texts).

The template language, between braces:

    surface               of the register          source             draws the register's value
    {hero}                its plain form           {hero:person}      any value of the class
    {hero.his}            the form called "his"    {b:person!a}       ... other than the value of a
    {food*n}              singular or plural       {s:spot@place}     a value that goes with the place
                          as the number n asks     {w:a|b}            the value of a or of b
                                                   {m:n-k}  {m:n+k}   arithmetic
    Both can be combined: {food*n:food}, {w.He:a|b}, {w:a|b!v}.

Text is compared in the pieces of GPT-2's own splitting rule (a word with its leading space, or a run of punctuation),
so a token never spans two nodes.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, final

PIECE = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")

Value = Any  # hashable: a word, or a number
Registers = list[Value]  # one value per register; None before it is bound


def split_pieces(text: str) -> list[str]:
    """The pieces of a text; joined, they are the text."""
    return PIECE.findall(text)


# ---- templates ----------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Words that agree in the same way. `forms[form][value]` is a surface; "" is the plain form.

    `stray` holds further surfaces that permissive parsing accepts in a form, e.g. "they" beside "she" and "he": a
    wrong word of the right kind breaks agreement, not grammar.
    """

    forms: Mapping[str, Mapping[Value, str]]
    stray: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class WordClass:
    """What a source can draw: any of `values`, or of `given[value of a register]` after "@"."""

    kind: str
    values: tuple[Value, ...] = ()
    given: Mapping[Value, tuple[Value, ...]] | None = None


@dataclass(frozen=True)
class Lexicon:
    """Every kind and every class of words that a grammar can name."""

    kinds: Mapping[str, Kind]
    classes: Mapping[str, WordClass]


@dataclass(frozen=True)
class Pick:
    """One of several expressions. Weights need not sum to 1."""

    options: tuple[tuple[float, Expression], ...]


Expression = str | Pick | list  # a template, a choice, or a sequence of expressions


def pick(*options: Expression | tuple[float, Expression]) -> Pick:
    """A choice; an option is an expression, or (weight, expression)."""
    return Pick(tuple(option if isinstance(option, tuple) else (1.0, option) for option in options))


def maybe(probability: float, *options: Expression) -> Pick:
    """With `probability` one of `options` (equally likely), otherwise nothing."""
    each = probability / len(options)
    return Pick(((1 - probability, ""), *((each, option) for option in options)))


# ---- the compiled graph ----------------------------------------------------------------------

END = -1


@final
class Literal:
    """Fixed text, followed by `next`."""

    __slots__ = ("index", "next", "pieces", "text")

    def __init__(self, text: str, next: Node | None) -> None:
        self.index = END
        self.text, self.next = text, next
        self.pieces = tuple(split_pieces(text))


@final
class Branch:
    """One of `nodes`, with `probabilities`."""

    __slots__ = ("cumulative", "index", "nodes", "probabilities")

    def __init__(self, weights: Sequence[float], nodes: Sequence[Node | None]) -> None:
        self.index = END
        total = sum(weights)
        self.probabilities = [weight / total for weight in weights]
        self.nodes = list(nodes)
        self.cumulative = list(accumulate(self.probabilities))[:-1]  # the last one takes the rest


@dataclass(frozen=True)
class Source:
    """Where the value of a slot comes from; registers are named by their numbers.

    Attributes:
        operation: "=" the value of register `a`; "|" that of `a` or of `b`; "+" and "-" their sum and
            difference; "*" any of `values`; "@" any of `given[value of a]`.
        excluded: registers whose values may not be drawn.
    """

    operation: str
    a: int = -1
    b: int = -1
    excluded: tuple[int, ...] = ()
    values: tuple[Value, ...] = ()
    given: Mapping[Value, tuple[Value, ...]] | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        """The registers it looks at."""
        return (*(i for i in (self.a, self.b) if i >= 0), *self.excluded)

    @property
    def certain(self) -> bool:
        """Whether the registers leave one value, which is repeated or computed and not chosen."""
        return self.operation in "=+-" or (self.operation == "|" and bool(self.excluded))

    def candidates(self, registers: Registers) -> tuple[Value, ...]:
        """The values that can be drawn, all equally likely."""
        a, b = registers[self.a], registers[self.b]
        if self.operation == "@" and self.given is not None:
            found = self.given[a]
        else:
            found = {"=": (a,), "|": (a, b), "*": self.values}.get(self.operation)
            if found is None:
                found = (a + b,) if self.operation == "+" else (a - b,)
        taken = [registers[i] for i in self.excluded]
        return tuple(value for value in found if value not in taken)


@final
@dataclass(eq=False, slots=True)
class Slot:
    """A word that depends on registers."""

    spec: str  # the text between the braces, for messages
    kind: str
    words: Kind
    form: str | None  # None if singular or plural, as the register `count` asks
    count: int | None
    lead: str  # " " or "", said before the word
    source: Source  # where its value comes from
    bind: int | None  # the register that takes the value, or None where a known value is only said
    next: Node | None
    index: int = END
    inputs: tuple[int, ...] = ()  # the registers that the value and its surface depend on
    readings: list[tuple[str, ...]] = field(default_factory=list)  # as pieces: what permissive parsing accepts
    readings_by_first: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # by first piece
    _cache: dict[Any, tuple[tuple[Value, ...], tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counted = () if self.count is None else (self.count,)
        self.inputs = tuple(dict.fromkeys((*self.source.inputs, *counted)))
        accepted = ("", "s") if self.form is None else (self.form,)
        surfaces = [surface for name in accepted for surface in self.words.forms[name].values()]
        surfaces += [surface for name in accepted for surface in self.words.stray.get(name, ())]
        self.readings = [tuple(split_pieces(self.lead + surface)) for surface in dict.fromkeys(surfaces)]
        for reading in self.readings:
            self.readings_by_first.setdefault(reading[0], []).append(reading)

    def options(self, registers: Registers) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        """The values that can be drawn here, all equally likely, and their surfaces, all different."""
        key = tuple([registers[i] for i in self.inputs])
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._options(registers)
        return found

    def _options(self, registers: Registers) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        values = self.source.candidates(registers)
        form = self.form
        if form is None:
            form = "" if self.count is not None and registers[self.count] == 1 else "s"
        surfaces = tuple(self.lead + self.words.forms[form][value] for value in values)
        if not values or len(set(surfaces)) < len(surfaces) or (self.source.certain and len(values) > 1):
            raise ValueError(f"the slot {{{self.spec}}} cannot be filled: its words would be {surfaces}")
        return values, surfaces


Node = Literal | Slot | Branch  # `index` is its number in its grammar


def index_of(node: Node | None) -> int:
    """The number of a node; `END` for None, the end of the text."""
    return END if node is None else node.index


def followers(node: Node) -> Sequence[Node | None]:
    """The nodes that can follow a node."""
    return node.nodes if isinstance(node, Branch) else [node.next]


def spellings(node: Literal | Slot) -> Sequence[tuple[str, ...]]:
    """Everything that permissive parsing accepts for a node, as pieces."""
    return [node.pieces] if isinstance(node, Literal) else node.readings


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar; made by `compile_grammar`.

    Attributes:
        nodes: every node, each after the nodes that can follow it.
        start: the first node.
        names, kinds: name and kind of each register.
        ordered_kinds: kinds whose values differ in what they allow later (a place has its own spots, a number
            its own differences). The values of any other kind are interchangeable.
    """

    lexicon: Lexicon
    nodes: Sequence[Node]
    start: Node | None
    names: Sequence[str]
    kinds: Sequence[str]
    ordered_kinds: frozenset[str]

    def sample(self, rng: random.Random) -> str:
        """Draw one text. Uses only `rng.random()`, so a seed gives the same text in every Python."""
        draw = rng.random
        registers: Registers = [None] * len(self.names)
        parts: list[str] = []
        node = self.start
        while node is not None:
            if type(node) is Literal:
                parts.append(node.text)
                node = node.next
            elif type(node) is Slot:
                values, surfaces = node.options(registers)
                chosen = int(draw() * len(values)) if len(values) > 1 else 0
                parts.append(surfaces[chosen])
                if node.bind is not None:
                    registers[node.bind] = values[chosen]
                node = node.next
            else:
                node = node.nodes[bisect(node.cumulative, draw())]
        return "".join(parts)
