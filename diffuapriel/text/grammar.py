"""Probabilistic grammars with memory: one definition, driven as a sampler, a reader and a measure.

A grammar is written as templates. `{hero:person}` draws a person and remembers it in the register
`hero`; `{hero.his}` later says "her" or "his" as that person asks. A grammar is compiled to a graph of
three kinds of node, shared by everything that uses it, so that no two uses can drift apart:

    Literal   fixed text
    Slot      a word drawn uniformly from those that its registers allow, or (one choice) due by agreement
    Branch    one of several continuations, with probabilities

`Grammar.sample` walks the graph; `grammar_reading` walks it along a given text (log-probability and
checks); `grammar_measures` sums over all walks (entropy, number of texts, proof of the unique reading).

The template language, between braces:

    surface               of the register          source             draws the register's value
    {hero}                its plain form           {hero:person}      any value of the class
    {hero.his}            the form called "his"    {b:person!a}       ... other than the value of a
    {food*n}              singular or plural       {s:spot@place}     a value that goes with the place
                          as the number n asks     {w:a|b}            the value of a or of b
                                                   {m:n-k}  {m:n+k}   arithmetic
    Both may stand together: {food*n:food}, {w.He:a|b}, {w:a|b!v}.

Pieces: text is compared in the pieces of GPT-2's own splitting rule (a word with its leading space, or
a run of punctuation), so a token never crosses the border of two nodes' pieces.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

PIECE = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
ATOM = re.compile(r"( ?\{[^{}]*\})")
SPEC = re.compile(r"(?P<name>\w+)(?:\.(?P<form>\w+))?(?:\*(?P<count>\w+))?(?::(?P<source>.+))?")
SOURCE = re.compile(r"(?P<base>\w+)(?:(?P<op>[-+|@])(?P<other>\w+))?(?P<excluded>(?:!\w+)*)")

Value = Hashable
Registers = list[Value]


def split_pieces(text: str) -> list[str]:
    """The pieces of a text; joined together they are the text again."""
    return PIECE.findall(text)


# ---- what a grammar is written in ----------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Words that agree in the same way. `forms[form][value]` is a surface; "" is the plain form.

    `stray` holds further surfaces that a *permissive* reading accepts in a form, e.g. "they" beside
    "she" and "he": a wrong word of the right sort is an error of agreement, not of grammar.
    """

    forms: Mapping[str, Mapping[Value, str]]
    stray: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class WordClass:
    """What a source may draw: `values` freely, or `given[value of a register]` after "@"."""

    kind: str
    values: tuple[Value, ...] = ()
    given: Mapping[Value, tuple[Value, ...]] | None = None


@dataclass(frozen=True)
class Lexicon:
    kinds: Mapping[str, Kind]
    classes: Mapping[str, WordClass]

    def reduced(self, size: int) -> Lexicon:
        """The same lexicon with at most `size` values a class, for proofs by exhaustion."""
        kept = {word.kind: word.values[:size] for word in self.classes.values() if word.values}

        def cut(word: WordClass) -> WordClass:
            given = None
            if word.given is not None:
                allowed = kept.get(word.kind)
                given = {
                    key: tuple(v for v in values if allowed is None or v in allowed)[:size] or values[:1]
                    for key, values in word.given.items()
                }
            return WordClass(word.kind, word.values[:size], given)

        return Lexicon(self.kinds, {name: cut(word) for name, word in self.classes.items()})


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


# ---- what it is compiled to ----------------------------------------------------------------------


class Node:
    __slots__ = ("index",)
    index: int  # number of the node in its grammar


class Literal(Node):
    __slots__ = ("next", "pieces", "text")

    def __init__(self, text: str, next: Node | None) -> None:
        self.text, self.next = text, next
        self.pieces = tuple(split_pieces(text))


class Branch(Node):
    __slots__ = ("cumulative", "nodes", "probabilities")

    def __init__(self, weights: Sequence[float], nodes: Sequence[Node | None]) -> None:
        total = sum(weights)
        self.probabilities = [weight / total for weight in weights]
        self.nodes = list(nodes)
        self.cumulative = list(accumulate(self.probabilities))[:-1]  # the last one takes the rest


class Slot(Node):
    """A word that depends on registers.

    Attributes:
        spec: the text between the braces, for messages.
        kind, form: which sort of word, in which form (None: singular or plural by the `count` register).
        bind: the register that takes the drawn value, or None where a known value is only said.
        inputs: the registers that the choice and its surface depend on.
        free: False where the words before leave exactly one possibility by construction.
        readings: every surface of the kind and form, as pieces: what a permissive reading accepts.
        readings_by_first: the same, by their first piece.
    """

    __slots__ = (
        *("_cache", "_draw", "_say"),
        *("bind", "form", "free", "inputs", "kind", "next", "readings", "readings_by_first", "spec"),
    )

    def options(self, registers: Registers) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        """The values that may be drawn here, all equally likely, and their surfaces (distinct)."""
        key = tuple([registers[i] for i in self.inputs])
        found = self._cache.get(key)
        if found is None:
            values = self._draw(registers)
            if not values:
                raise ValueError(f"the slot {{{self.spec}}} has no possible word after {key}")
            surfaces = tuple(self._say(value, registers) for value in values)
            if len(set(surfaces)) < len(surfaces):
                raise ValueError(f"the slot {{{self.spec}}} has two values with one surface: {surfaces}")
            found = self._cache[key] = (values, surfaces)
        return found


class Grammar:
    """A compiled grammar. `Grammar(expression, lexicon)`; raises ValueError for a faulty template.

    Attributes:
        nodes: every node, each after the nodes that can follow it.
        start: the first node.
        names, kinds: name and kind of each register.
        ordered_kinds: kinds whose values differ in what they allow later (a place has its own spots, a
            number its own differences). The values of any other kind are interchangeable.
    """

    def __init__(self, expression: Expression, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.nodes: list[Node] = []
        self.names: list[str] = []
        self.kinds: list[str] = []
        self.ordered_kinds: set[str] = set()
        self.start = _Compiler(self).compile(expression)

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


# ---- the compiler --------------------------------------------------------------------------------


class _Compiler:
    """Compiles from the end to the start: every node is made knowing what follows it.

    Registers live in one namespace for the grammar; a name always has one kind. That every register
    is bound before it is used, on every path, is checked at the end.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.lexicon = grammar.lexicon
        self.drawn: dict[str, tuple[Value, ...]] = {}  # the values that each kind is drawn from

    def compile(self, expression: Expression) -> Node | None:
        self._declare(expression)
        start = self._build(expression, None, first=True)
        self._check_bound(start)
        return start

    def _declare(self, expression: Expression) -> None:
        """Find every register and its kind, in reading order."""
        if isinstance(expression, str):
            for atom in ATOM.findall(expression):
                spec = self._match(SPEC, atom.strip()[1:-1])
                if spec["source"] is None:
                    continue
                base = self._match(SOURCE, spec["source"])["base"]
                if base in self.grammar.names:
                    kind = self.grammar.kinds[self._register(base)]
                elif base in self.lexicon.classes:
                    kind = self.lexicon.classes[base].kind
                else:
                    raise ValueError(f"{atom}: {base!r} is neither a word class nor a register bound before")
                if spec["name"] not in self.grammar.names:
                    self.grammar.names.append(spec["name"])
                    self.grammar.kinds.append(kind)
                elif self.grammar.kinds[self._register(spec["name"])] != kind:
                    raise ValueError(f"{atom}: the register {spec['name']!r} already holds another kind")
        else:
            parts = expression if isinstance(expression, list) else [e for _, e in expression.options]
            for part in parts:
                self._declare(part)

    def _build(self, expression: Expression, follow: Node | None, *, first: bool) -> Node | None:
        if isinstance(expression, list):
            for position, part in reversed(list(enumerate(expression))):
                follow = self._build(part, follow, first=first and position == 0)
            return follow
        if isinstance(expression, Pick):
            weights = [weight for weight, _ in expression.options]
            nodes = [self._build(option, follow, first=first) for _, option in expression.options]
            return self._add(Branch(weights, nodes))
        if expression and not first and expression[0] not in ".,!?":
            expression = " " + expression  # sentences and clauses are joined by one space
        for atom in reversed([part for part in ATOM.split(expression) if part]):
            follow = self._add(self._slot(atom, follow) if "{" in atom else Literal(atom, follow))
        return follow

    def _add(self, node: Node) -> Node:
        node.index = len(self.grammar.nodes)
        self.grammar.nodes.append(node)
        return node

    def _match(self, pattern: re.Pattern, text: str) -> re.Match:
        found = pattern.fullmatch(text)
        if found is None:
            raise ValueError(f"{{{text}}} is not of the form {{name.form*count:source}}")
        return found

    def _register(self, name: str) -> int:
        if name not in self.grammar.names:
            raise ValueError(f"no register is called {name!r}; known: {', '.join(self.grammar.names)}")
        return self.grammar.names.index(name)

    def _slot(self, atom: str, follow: Node | None) -> Slot:
        lead = " " if atom.startswith(" ") else ""
        slot = Slot()
        slot.spec = atom.strip()[1:-1]
        spec = self._match(SPEC, slot.spec)
        register = self._register(spec["name"])
        slot.next, slot.kind, slot._cache = follow, self.grammar.kinds[register], {}
        slot.bind = None if spec["source"] is None else register
        slot.form = None if spec["count"] else (spec["form"] or "")
        inputs, slot._draw, slot.free = self._source(spec["source"], register)
        count = self._register(spec["count"]) if spec["count"] else None
        slot.inputs = tuple(dict.fromkeys([*inputs, *([] if count is None else [count])]))
        slot._say, surfaces = self._surfaces(slot, count, lead)
        slot.readings = [tuple(split_pieces(surface)) for surface in surfaces]
        slot.readings_by_first = {}
        for reading in slot.readings:
            slot.readings_by_first.setdefault(reading[0], []).append(reading)
        return slot

    def _source(self, source: str | None, register: int):
        """(registers read, function from registers to the tuple of possible values, free or not)."""
        if source is None:
            return [register], (lambda registers: (registers[register],)), False
        parts = self._match(SOURCE, source)
        excluded = [self._register(name) for name in parts["excluded"].split("!")[1:]]
        base, op, other = parts["base"], parts["op"], parts["other"]

        if op == "@" and base in self.lexicon.classes:
            given, word = self._register(other), self.lexicon.classes[base]
            if word.given is None:
                raise ValueError(f"{{{source}}}: the class {base!r} depends on no other register")
            self.grammar.ordered_kinds |= {word.kind, self.grammar.kinds[given]}
            inputs, candidates = [given], lambda registers: word.given[registers[given]]
        elif op is None and base in self.lexicon.classes:
            kind, values = self.lexicon.classes[base].kind, self.lexicon.classes[base].values
            if self.drawn.setdefault(kind, values) != values:
                self.grammar.ordered_kinds.add(kind)
            inputs, candidates = [], lambda registers: values
        elif op is not None and op in "-+|":
            a, b = self._register(base), self._register(other)
            inputs = [a, b]
            if op == "|":
                candidates = lambda registers: (registers[a], registers[b])  # noqa: E731
            else:
                self.grammar.ordered_kinds |= {self.grammar.kinds[a], self.grammar.kinds[b]}
                sign = 1 if op == "+" else -1
                candidates = lambda registers: (registers[a] + sign * registers[b],)  # noqa: E731
        else:
            raise ValueError(f"{{{source}}}: write class, class@register, a|b, a-b or a+b")

        def draw(registers: Registers) -> tuple[Value, ...]:
            taken = [registers[i] for i in excluded]
            return tuple(value for value in candidates(registers) if value not in taken)

        certain = op in ("-", "+") or (op == "|" and bool(excluded))  # what is left is one value
        return [*inputs, *excluded], draw, not certain

    def _surfaces(self, slot: Slot, count: int | None, lead: str):
        """(function from a value and the registers to its surface, every surface of kind and form)."""
        kind = self.lexicon.kinds[slot.kind]
        wanted = ("", "s") if count is not None else (slot.form or "",)
        for form in wanted:
            if form not in kind.forms:
                raise ValueError(
                    f"{{{slot.spec}}}: a {slot.kind} has no form {form!r}; it has {list(kind.forms)}"
                )
        surfaces = [surface for form in wanted for surface in kind.forms[form].values()]
        surfaces += [surface for form in wanted for surface in kind.stray.get(form, ())]
        forms = kind.forms

        def say(value: Value, registers: Registers) -> str:
            form = wanted[0] if count is None else ("" if registers[count] == 1 else "s")
            return lead + forms[form][value]

        return say, [lead + surface for surface in dict.fromkeys(surfaces)]

    def _check_bound(self, start: Node | None) -> None:
        """Every register a slot reads must be bound on every path to it."""
        bound: dict[int, frozenset[int]] = {}

        def visit(node: Node | None, known: frozenset[int]) -> None:
            if node is None:
                return
            earlier = bound.get(node.index)
            now = known if earlier is None else earlier & known
            if now == earlier:
                return
            bound[node.index] = now
            if isinstance(node, Slot):
                missing = [self.grammar.names[i] for i in node.inputs if i not in now]
                if missing:
                    raise ValueError(f"{{{node.spec}}} is reached before {', '.join(missing)} is bound")
                now = now if node.bind is None else now | {node.bind}
            nodes = node.nodes if isinstance(node, Branch) else [node.next]
            for following in nodes:
                visit(following, now)

        visit(start, frozenset())
