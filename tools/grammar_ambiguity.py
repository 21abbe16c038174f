"""Proof that a grammar's texts can be read in one way only, by exhaustion.

Without its registers a grammar is a finite automaton over pieces of text (`grammar.split_pieces`), and it
accepts what the permissive reading accepts. Two different readings of one text are two walks through that
automaton that start together, part, and meet again, reading the same pieces all the while. There are few
pairs of positions, so all of them are tried. No such pair of walks means: every text has at most one
permissive reading, hence at most one derivation; its log-probability is one sum, and the entropy of the
choices is the entropy of the texts.

That a text is read in the very pieces it was written in needs one thing more: where two nodes touch, the
splitting rule must split. The rule looks no further than at neighbors, so touching pairs are all there is
to try (`find_bad_seam`).

A position is (node, number of the spelling, pieces of it already read); the end of the text is one, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from diffuapriel.tales.grammar.grammar import (
    END,
    Branch,
    Grammar,
    Literal,
    Node,
    Slot,
    followers,
    index_of,
    spellings,
    split_pieces,
)

Position = tuple[int, int, int]
Pair = tuple[Position, Position, bool]  # two positions, and whether the walks to them have parted
OVER: Position = (END, 0, 0)


class _Automaton:
    """The permissive reading of a grammar, one piece at a time."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.enter = cache(self._enter)
        self.advance = cache(self._advance)

    def _word(self, index: int) -> Literal | Slot:
        node = self.grammar.nodes[index]
        assert not isinstance(node, Branch)  # positions lie in words only
        return node

    def _enter(self, index: int) -> tuple[Position, ...]:
        """Where reading can go on when a node is entered: as often as there are ways to."""
        if index == END:
            return (OVER,)
        node = self.grammar.nodes[index]
        if isinstance(node, Branch):
            return tuple(position for n in node.nodes for position in self.enter(index_of(n)))
        return tuple((index, number, 0) for number in range(len(spellings(node))))

    def piece(self, position: Position) -> str:
        """The next piece at a position; nothing at the end."""
        index, number, done = position
        return "" if index == END else spellings(self._word(index))[number][done]

    def _advance(self, position: Position) -> tuple[Position, ...]:
        """Where reading can go on after the next piece of a position."""
        index, number, done = position
        if index == END:
            return ()
        node = self._word(index)
        if done + 1 < len(spellings(node)[number]):
            return ((index, number, done + 1),)
        return self.enter(index_of(node.next))

    def pairs(self, ones: tuple[Position, ...], others: tuple[Position, ...], parted: bool) -> Iterator[Pair]:
        """Pairs of positions with one next piece. Walks together so far stay together, or part here."""
        by_piece: dict[str, list[int]] = {}
        for j, position in enumerate(others):
            by_piece.setdefault(self.piece(position), []).append(j)
        for i, one in enumerate(ones):
            for j in by_piece.get(self.piece(one), ()):
                if parted or i < j:
                    yield (*sorted((one, others[j])), True)  # type: ignore[misc]
                elif i == j:
                    yield one, one, False


def find_ambiguity(grammar: Grammar) -> str | None:
    """A text's beginning after which two readings of it meet again, or None if no text has two."""
    automaton = _Automaton(grammar)
    start = automaton.enter(index_of(grammar.start))
    came_from: dict[Pair, Pair | None] = dict.fromkeys(automaton.pairs(start, start, False))
    agenda = list(came_from)
    while agenda:
        pair = agenda.pop()
        one, other, parted = pair
        if parted and one == other:
            return _spell(automaton, came_from, pair)
        for following in automaton.pairs(automaton.advance(one), automaton.advance(other), parted):
            if following not in came_from:
                came_from[following] = pair
                agenda.append(following)
    return None


def _spell(automaton: _Automaton, came_from: dict[Pair, Pair | None], pair: Pair) -> str:
    pieces = []
    step = came_from[pair]
    while step is not None:
        pieces.append(automaton.piece(step[0]))
        step = came_from[step]
    return "".join(reversed(pieces))


def find_bad_seam(grammar: Grammar) -> str | None:
    """Two neighboring pieces that the splitting rule would cut elsewhere, or None if there are none."""

    @cache
    def first_pieces(index: int) -> frozenset[str]:
        if index == END:
            return frozenset()
        node: Node = grammar.nodes[index]
        if isinstance(node, Branch):
            return frozenset().union(*(first_pieces(index_of(n)) for n in followers(node)))
        return frozenset(form[0] for form in spellings(node))

    for node in grammar.nodes:
        if isinstance(node, Branch):
            continue
        for last in {form[-1] for form in spellings(node)}:
            for first in first_pieces(index_of(node.next)):
                if split_pieces(last + first) != [last, first]:
                    return last + first
    return None
