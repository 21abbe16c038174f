"""Parses a text with a grammar: its derivation, its exact log-probability, and what is wrong with it.

Parsing takes two passes. The *permissive* pass checks the syntax alone: every slot takes any word of its kind and form
(any name where a name is due, any pronoun, any number). Text and syntax together determine the walk through the graph;
tools/grammar_ambiguity.py proves that there is at most one. The *strict* pass follows that walk with the registers and
compares each word with those that agreement allows. So a text is

    not grammatical              if no permissive walk spells it
    grammatical, inconsistent    if the walk exists, but a word breaks an agreement
    consistent                   if it is in the language; log_prob is then the sum over its choices
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from diffuapriel.tales.grammar.grammar import (
    END,
    Branch,
    Grammar,
    Literal,
    Node,
    Registers,
    Slot,
    followers,
    index_of,
    spellings,
    split_pieces,
)

MOST_EXPECTED = 5  # words named in a message
REASONS = {  # why a text stops fitting; a page in another language has its own table
    "ends": "the story breaks off{expected}",
    "unfit": "'{got}' does not fit here{expected}",
    "no_space": "before '{got}' no space is due",
    "space": "before '{got}' a space is due",
    "sum": "'{got}' does not add up: {a} and {b} is {due}",
    "difference": "'{got}' does not add up: {a} take away {b} is {due}",
    "used": "'{got}' was already used: another one is due",
    "count": "'{got}' does not match '{a}': expected {either}",
    "form": "'{got}' does not match {a}: expected '{due}'",
    "before": "'{got}' is not what came before: expected '{due}'",
    "pair": "'{got}' does not go with '{a}': expected {either}",
    "unknown": "'{got}' was not introduced: expected {either}",
    "word": "'{word}'",
    "expected": ": expected {words}",
    "more": " or {n} more",
    "or": " or ",
    "end": "the end",
}
END_OF_STORY = "the end"  # among the words that were due


@dataclass(frozen=True)
class WalkStep:
    """One step of a walk: `node` spelled `surface` at character `offset`, or (a branch) took `option`."""

    node: Node
    surface: str
    offset: int
    option: int = -1


@dataclass(frozen=True)
class Failure:
    """Where and why a text stops fitting.

    `reason` is a key of REASONS, `got` the word that does not fit, `due` those that would, and `causes` the earlier
    words that say so.
    """

    reason: str
    position: int
    got: str = ""
    due: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        return self.explain(REASONS)

    def explain(self, reasons: Mapping[str, str]) -> str:
        """The reason in words; `reasons` has the keys of REASONS."""
        due = [reasons["end"] if word == END_OF_STORY else word for word in self.due]
        quoted = [reasons["word"].format(word=word) for word in due]
        expected = ", ".join(quoted[:MOST_EXPECTED])
        if len(due) > MOST_EXPECTED:
            expected += reasons["more"].format(n=len(due) - MOST_EXPECTED)
        values = {
            "expected": reasons["expected"].format(words=expected) if due else "",
            "either": reasons["or"].join(quoted[:6]) + (" ..." if len(due) > 6 else ""),
            "due": due[0] if due else "",
            **dict(zip("ab", self.causes)),
        }
        return reasons[self.reason].format(got=self.got, **values)


Arrival = tuple[int, int, int]  # (pieces read before, index of the node that was read, its option or -1)
Middles = Mapping[str, Sequence[tuple[int, tuple[str, ...]]]]  # by first piece: (node, rest of its spelling)


class Chart:
    """The permissive walks along a text: after each piece, the nodes that can be next, and how each was reached.

    Args:
        pieces: the text, from `split_pieces`. The chart is linear in it.
        opens, closes: whether the story begins and ends with the text; see holes.py for texts that do not.
        middles: the spellings that a text which does not open the story may continue.
    """

    def __init__(
        self,
        grammar: Grammar,
        pieces: Sequence[str],
        *,
        opens: bool = True,
        closes: bool = True,
        middles: Middles | None = None,
    ) -> None:
        self.grammar, self.pieces, self.opens, self.closes = grammar, pieces, opens, closes
        self.nodes: list[dict[int, Arrival | None]] = [{} for _ in range(len(pieces) + 1)]
        self.inside: set[tuple[int, int]] = set()  # (pieces read, node): the text ends within the node
        if opens:
            self.nodes[0][index_of(grammar.start)] = None
        else:
            self.nodes[0].update(dict.fromkeys(range(len(grammar.nodes))))
            for piece, rests in (middles or {}).items():
                if self._fits(0, piece):
                    for index, rest in rests:
                        self._match(0, index, rest, None)
        for i in range(len(self.nodes)):
            self._read_on(i)

    @property
    def possible(self) -> bool:
        """Whether a story can hold the text."""
        end = self.nodes[-1]
        return END in end if self.closes else bool(end or self.inside)

    def ends(self) -> list[tuple[int, int]]:
        """(pieces read, node that comes next or is unfinished) of every walk along the whole text."""
        last = len(self.pieces)
        next_nodes = [(last, index) for index in self.nodes[last] if not self.closes or index == END]
        return [*next_nodes, *sorted(self.inside)]

    def walk(self, i: int, index: int) -> list[WalkStep]:
        """The walk that reaches node `index` after i pieces."""
        offsets = [0, *accumulate(map(len, self.pieces))]
        walk: list[WalkStep] = []
        while (arrival := self.nodes[i][index]) is not None:
            before, index, option = arrival
            surface = "".join(self.pieces[before:i])
            walk.append(WalkStep(self.grammar.nodes[index], surface, offsets[before], option))
            i = before
        return walk[::-1]

    def failure(self) -> Failure:
        """The first piece that no walk reads, also within a node, and what could have come instead."""
        furthest, due = 0, set[str]()
        for i, entered in enumerate(self.nodes):
            for index in entered:
                for form in self._due(index):
                    n = self._common(i, form)
                    if i + n > furthest:
                        furthest, due = i + n, set()
                    if i + n == furthest and n < len(form):
                        due.add(form[n].strip())
        words = tuple(sorted(due)) if self.opens or furthest else ()  # a hole may be followed by anything
        position = sum(map(len, self.pieces[:furthest]))
        if furthest == len(self.pieces):
            return Failure("ends", position, due=words)
        got = self.pieces[furthest]
        position += len(got) - len(got.lstrip())
        if got.strip() in words:
            return Failure("no_space" if got.startswith(" ") else "space", position, got.strip())
        return Failure("unfit", position, got.strip() or got, words)

    def _read_on(self, i: int) -> None:
        """Enter every node that can be next after i pieces, and read on from each."""
        entered = self.nodes[i]
        agenda = list(entered)
        for index in agenda:  # grows while branches open
            node = None if index == END else self.grammar.nodes[index]
            if isinstance(node, Branch):
                for option, following in enumerate(node.nodes):
                    if index_of(following) not in entered:
                        entered[index_of(following)] = (i, index, option)
                        agenda.append(index_of(following))
            elif node is not None and i < len(self.pieces):
                for form in self._candidates(node, i):
                    self._match(i, index, form, (i, index, -1))

    def _candidates(self, node: Literal | Slot, i: int) -> Sequence[tuple[str, ...]]:
        if isinstance(node, Literal):
            return [node.pieces]
        if i == len(self.pieces) - 1 and not self.closes:
            return node.readings
        return node.readings_by_first.get(self.pieces[i], ())

    def _match(self, i: int, index: int, form: tuple[str, ...], arrival: Arrival | None) -> None:
        """Read a spelling of a node, or the rest of one, from piece i on, as far as the text goes."""
        here = tuple(self.pieces[i : i + len(form)])
        if here == form:
            following = followers(self.grammar.nodes[index])[0]
            self.nodes[i + len(form)].setdefault(index_of(following), arrival)
            return
        whole = len(here) - 1  # pieces before the last, which a hole may cut short
        cut = not self.closes and i + len(here) == len(self.pieces) and form[:whole] == here[:-1]
        if cut and self._fits(i + whole, form[whole]):
            self.inside.add((i, index))

    def _fits(self, i: int, piece: str) -> bool:
        """Whether `piece` is piece i, or can become it: a hole after the text may hide the rest of its last word."""
        mine = self.pieces[i]
        return piece == mine or (not self.closes and i == len(self.pieces) - 1 and piece.startswith(mine))

    def _due(self, index: int) -> Sequence[tuple[str, ...]]:
        node = None if index == END else self.grammar.nodes[index]
        return [(END_OF_STORY,)] if node is None else [] if isinstance(node, Branch) else spellings(node)

    def _common(self, i: int, form: tuple[str, ...]) -> int:
        """The number of leading pieces of a spelling that are the pieces from i on."""
        n = 0
        while n < len(form) and i + n < len(self.pieces) and form[n] == self.pieces[i + n]:
            n += 1
        return n


def read(grammar: Grammar, text: str) -> list[WalkStep] | Failure:
    """The permissive walk along a text, or where the syntax breaks. Linear in the text."""
    chart = Chart(grammar, split_pieces(text))
    return chart.walk(len(chart.pieces), END) if chart.possible else chart.failure()


def follow(grammar: Grammar, walk: list[WalkStep]) -> float | Failure:
    """Log-probability of a walk in nats, or the first word that breaks an agreement."""
    registers: Registers = [None] * len(grammar.names)
    total = 0.0
    for step in walk:
        node = step.node
        if isinstance(node, Branch):
            total += math.log(node.probabilities[step.option])
        elif isinstance(node, Slot):
            values, surfaces = node.options(registers)
            if step.surface not in surfaces:
                position = step.offset + (1 if step.surface.startswith(" ") else 0)
                return _disagreement(grammar, node, step.surface.strip(), registers, position)
            total -= math.log(len(values))
            if node.bind is not None:
                registers[node.bind] = values[surfaces.index(step.surface)]
    return total


def log_prob(grammar: Grammar, text: str) -> float:
    """Exact log-probability of a text in nats; minus infinity outside the language."""
    walk = read(grammar, text)
    result = walk if isinstance(walk, Failure) else follow(grammar, walk)
    return -math.inf if isinstance(result, Failure) else result


def _disagreement(grammar: Grammar, slot: Slot, got: str, registers: Registers, position: int) -> Failure:
    """Why this slot cannot be `got`."""

    def plain(register: int) -> str:
        return grammar.lexicon.kinds[grammar.kinds[register]].forms[""][registers[register]]

    due = tuple(surface.strip() for surface in slot.options(registers)[1])
    source = slot.source
    if source.operation in "+-":
        reason = "sum" if source.operation == "+" else "difference"
        return Failure(reason, position, got, due, (plain(source.a), plain(source.b)))
    if got in [plain(i) for i in source.excluded]:
        return Failure("used", position, got)
    if slot.count is not None:
        return Failure("count", position, got, due, (plain(slot.count),))
    if source.operation == "=" and slot.form:
        return Failure("form", position, got, due, (plain(source.a),))
    if len(due) == 1:
        return Failure("before", position, got, due)
    if source.operation == "@":
        return Failure("pair", position, got, due, (plain(source.a),))
    return Failure("unknown", position, got, due)
