"""Reading a text along a grammar: its derivation, its exact log-probability, and what is wrong in it.

Reading goes in two passes. The *permissive* pass asks only for the syntax: every slot takes any word of
its kind and form (any name where a name is due, any pronoun, any number). The text and the syntax
together name the walk through the graph; `grammar_measures.find_ambiguity` proves that there is at most
one. The *strict* pass follows that walk with the registers and compares each word with the words that
agreement allows. So a text may be

    not grammatical           no permissive walk spells it
    grammatical, inconsistent the walk exists, but some word breaks an agreement
    consistent                it is in the language; log_prob is the sum over its choices
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffuapriel.text.grammar import Branch, Grammar, Literal, Node, Registers, Slot, split_pieces


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


def read(grammar: Grammar, text: str) -> list[Choice] | Failure:
    """The walk of a permissive reading, or where the syntax breaks. Linear in the text.

    `reached[i]` holds the nodes that can be entered after i pieces, each with the step that led there.
    """
    pieces = split_pieces(text)
    end = len(pieces)
    reached: list[dict[int, tuple | None]] = [{} for _ in range(end + 1)]
    reached[0][-1 if grammar.start is None else grammar.start.index] = None
    for i in range(end + 1):
        agenda = list(reached[i])
        for index in agenda:  # grows while branches open
            if index < 0:
                continue
            node = grammar.nodes[index]
            if type(node) is Branch:
                for option, following in enumerate(node.nodes):
                    key = -1 if following is None else following.index
                    if key not in reached[i]:
                        reached[i][key] = (i, index, option)
                        agenda.append(key)
                continue
            if i == end:
                continue
            spelled = [node.pieces] if type(node) is Literal else node.readings_by_first.get(pieces[i], ())
            key = -1 if node.next is None else node.next.index
            for form in spelled:
                j = i + len(form)
                if j <= end and pieces[i] == form[0] and tuple(pieces[i:j]) == form:
                    reached[j].setdefault(key, (i, index, -1))
    if -1 not in reached[end]:
        return _syntax_failure(grammar, pieces, reached)
    return _trace(grammar, pieces, reached)


def _trace(grammar: Grammar, pieces: list[str], reached: list[dict]) -> list[Choice]:
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    walk: list[Choice] = []
    j, key = len(pieces), -1
    while (step := reached[j][key]) is not None:
        i, key, option = step
        walk.append(Choice(grammar.nodes[key], "".join(pieces[i:j]), offsets[i], option))
        j = i
    return walk[::-1]


def _syntax_failure(grammar: Grammar, pieces: list[str], reached: list[dict]) -> Failure:
    """The furthest piece that any walk reads, also inside a node, and what could have followed."""
    furthest, expected = 0, set()
    for i, nodes in enumerate(reached):
        for index in nodes:
            if index < 0:
                forms = [()]
            elif type(node := grammar.nodes[index]) is Branch:
                continue
            else:
                forms = [node.pieces] if type(node) is Literal else node.readings
            for form in forms:
                read_on = 0
                while (
                    read_on < len(form) and i + read_on < len(pieces) and pieces[i + read_on] == form[read_on]
                ):
                    read_on += 1
                if read_on == len(form) and form:
                    continue  # the node was read whole: the failure is after it
                if i + read_on > furthest:
                    furthest, expected = i + read_on, set()
                if i + read_on == furthest:
                    expected.add(form[read_on].strip() if form else "the end")
    position = sum(map(len, pieces[:furthest]))
    got = (
        f"'{pieces[furthest].strip()}' does not fit here"
        if furthest < len(pieces)
        else "the story breaks off"
    )
    if furthest < len(pieces) and pieces[furthest].startswith(" ") and pieces[furthest].strip():
        position += 1
    words = sorted(expected)
    more = f" or {len(words) - 4} others" if len(words) > 4 else ""
    return Failure(f"{got}: expected {', '.join(repr(word) for word in words[:4])}{more}", position)


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

    known = [plain(i) for i in slot.inputs]
    surfaces = [surface.strip() for surface in slot.options(registers)[1]]
    source = slot.spec.partition(":")[2]
    if not slot.free and ("-" in source or "+" in source):
        sign = "take away" if "-" in source else "and"
        return f"'{got}' does not add up: {known[0]} {sign} {known[1]} is {surfaces[0]}"
    if slot.bind is None and slot.form is None:
        return f"'{got}' does not match '{known[-1]}': expected '{surfaces[0]}'"
    if slot.bind is None and slot.form:
        return f"'{got}' does not match {known[0]}: expected '{surfaces[0]}'"
    if len(surfaces) == 1:
        return f"'{got}' does not recur as introduced: expected '{surfaces[0]}'"
    if "|" in source:
        return f"'{got}' was not introduced: expected '{surfaces[0]}' or '{surfaces[1]}'"
    if "@" in source and got not in surfaces:
        return f"'{got}' does not go with '{known[0]}': expected {', '.join(repr(s) for s in surfaces[:4])}"
    return f"'{got}' was already used: another word is due"
