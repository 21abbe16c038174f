"""Reading a text along a grammar: its derivation, its exact log-probability, and what is wrong in it.

Reading goes in two passes. The *permissive* pass asks only for the syntax: every slot takes any word of
its kind and form (any name where a name is due, any pronoun, any number). The text and the syntax
together name the walk through the graph; `grammar_ambiguity` proves that there is at most one. The
*strict* pass follows that walk with the registers and compares each word with the words that agreement
allows. So a text may be

    not grammatical           no permissive walk spells it
    grammatical, inconsistent the walk exists, but some word breaks an agreement
    consistent                it is in the language; log_prob is the sum over its choices
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    index_of,
    spellings,
    split_pieces,
)


@dataclass(frozen=True)
class Choice:
    """One step of a walk: `node` said `surface` at character `offset`, or (a branch) took `option`."""

    node: Node
    surface: str
    offset: int
    option: int = -1


@dataclass(frozen=True)
class Failure:
    """Where and why a text stops fitting."""

    message: str
    position: int


Step = tuple[int, int, int]  # (pieces read before, index of the node that read on, its option or -1)
Chart = list[dict[int, Step | None]]  # after so many pieces: the nodes that can be entered, and how


def read(grammar: Grammar, text: str) -> list[Choice] | Failure:
    """The walk of a permissive reading, or where the syntax breaks. Linear in the text."""
    pieces = split_pieces(text)
    chart: Chart = [{} for _ in range(len(pieces) + 1)]
    chart[0][index_of(grammar.start)] = None
    for i, entered in enumerate(chart):
        agenda = list(entered)
        for index in agenda:  # grows while branches open
            node = None if index == END else grammar.nodes[index]
            if isinstance(node, Branch):
                for option, following in enumerate(node.nodes):
                    if index_of(following) not in entered:
                        entered[index_of(following)] = (i, index, option)
                        agenda.append(index_of(following))
            elif node is not None and i < len(pieces):
                for form in _starting_with(node, pieces[i]):
                    if tuple(pieces[i : i + len(form)]) == form:
                        chart[i + len(form)].setdefault(index_of(node.next), (i, index, -1))
    return _trace(grammar, pieces, chart) if END in chart[-1] else _break(grammar, pieces, chart)


def _starting_with(node: Literal | Slot, piece: str) -> Sequence[tuple[str, ...]]:
    return [node.pieces] if isinstance(node, Literal) else node.readings_by_first.get(piece, ())


def _trace(grammar: Grammar, pieces: list[str], chart: Chart) -> list[Choice]:
    """The walk to the end of the text, found from there backwards."""
    offsets = [0, *accumulate(map(len, pieces))]
    walk: list[Choice] = []
    j, index = len(pieces), END
    while (step := chart[j][index]) is not None:
        i, index, option = step
        walk.append(Choice(grammar.nodes[index], "".join(pieces[i:j]), offsets[i], option))
        j = i
    return walk[::-1]


def _break(grammar: Grammar, pieces: list[str], chart: Chart) -> Failure:
    """The furthest piece that any walk reads, also inside a node, and what could have followed."""
    furthest, due = 0, set()
    for i, entered in enumerate(chart):
        for index in entered:
            node = None if index == END else grammar.nodes[index]
            if isinstance(node, Branch):
                continue
            unread = [(0, "the end")] if node is None else list(_unread(node, pieces, i))
            for n, word in unread:
                if i + n > furthest:
                    furthest, due = i + n, set()
                if i + n == furthest:
                    due.add(word)
    position = sum(map(len, pieces[:furthest]))
    words = sorted(word.strip() for word in due)
    expected = ", ".join(repr(word) for word in words[:5])
    if len(words) > 5:
        expected += f" or {len(words) - 5} more"
    if furthest == len(pieces):
        return Failure(f"the story breaks off: expected {expected}", position)
    got = pieces[furthest]
    position += len(got) - len(got.lstrip())
    if got.strip() in words:
        wrong = "no space" if got.startswith(" ") else "a space"
        return Failure(f"before '{got.strip()}' {wrong} is due", position)
    return Failure(f"'{got.strip() or got}' does not fit here: expected {expected}", position)


def _unread(node: Literal | Slot, pieces: list[str], i: int) -> Iterator[tuple[int, str]]:
    """For each spelling that breaks off after n of its pieces: (n, the piece due next)."""
    for form in spellings(node):
        for n, piece in enumerate(form):
            if i + n == len(pieces) or pieces[i + n] != piece:
                yield n, piece
                break


def follow(grammar: Grammar, walk: list[Choice]) -> float | Failure:
    """Log-probability of a walk in nats, or the first word that breaks an agreement."""
    registers: Registers = [None] * len(grammar.names)
    total = 0.0
    for choice in walk:
        node = choice.node
        if isinstance(node, Branch):
            total += math.log(node.probabilities[choice.option])
        elif isinstance(node, Slot):
            values, surfaces = node.options(registers)
            if choice.surface not in surfaces:
                position = choice.offset + (1 if choice.surface.startswith(" ") else 0)
                return Failure(_explain(grammar, node, choice.surface.strip(), registers), position)
            total -= math.log(len(values))
            if node.bind is not None:
                registers[node.bind] = values[surfaces.index(choice.surface)]
    return total


def log_prob(grammar: Grammar, text: str) -> float:
    """Exact log-probability of a text in nats; minus infinity outside the language."""
    walk = read(grammar, text)
    result = walk if isinstance(walk, Failure) else follow(grammar, walk)
    return -math.inf if isinstance(result, Failure) else result


def _explain(grammar: Grammar, slot: Slot, got: str, registers: Registers) -> str:
    """In plain words, why `got` cannot stand in this slot."""

    def plain(register: int) -> str:
        return grammar.lexicon.kinds[grammar.kinds[register]].forms[""][registers[register]]

    due = [surface.strip() for surface in slot.options(registers)[1]]
    source = slot.source
    if source.operation in "+-":
        sign = "and" if source.operation == "+" else "take away"
        return f"'{got}' does not add up: {plain(source.a)} {sign} {plain(source.b)} is {due[0]}"
    if got in [plain(i) for i in source.excluded]:
        return f"'{got}' was already used: another one is due"
    if slot.count is not None:
        return f"'{got}' does not match '{plain(slot.count)}': expected {_either(due)}"
    if source.operation == "=" and slot.form:
        return f"'{got}' does not match {plain(source.a)}: expected '{due[0]}'"
    if len(due) == 1:
        return f"'{got}' is not what came before: expected '{due[0]}'"
    if source.operation == "@":
        return f"'{got}' does not go with '{plain(source.a)}': expected {_either(due)}"
    return f"'{got}' was not introduced: expected {_either(due)}"


def _either(words: list[str]) -> str:
    return " or ".join(repr(word) for word in words[:6]) + (" ..." if len(words) > 6 else "")
