"""Proves by exhaustion that every text of a grammar has one derivation. The tests of the tales run it.

Without that proof `log_prob` would be one term of a sum and the entropy of the choices an upper bound on the entropy
of the texts. To check a grammar after a change of its templates:

    .venv/bin/python -m tools.grammar_ambiguity        all levels of the tales, a few seconds

Without its registers a grammar is a finite automaton over pieces of text (`split_pieces`), which accepts what
permissive parsing accepts. Two different readings of one text are two walks through that automaton that start
together, part and meet again while they read the same pieces. There are few pairs of positions, so all are tried
(`find_ambiguity`). A position is (node, number of the spelling, pieces of it already read), or the end of the text.

The proof also needs that a text is split into the pieces it was written in: where two nodes touch, the splitting rule
must split. The rule looks only at neighbors, so all touching pairs are tried (`find_bad_seam`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from diffuapriel.tales import language as tales
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
    """The automaton that reads a grammar permissively, one piece at a time."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.enter = cache(self._enter)
        self.advance = cache(self._advance)

    def _word(self, index: int) -> Literal | Slot:
        node = self.grammar.nodes[index]
        assert not isinstance(node, Branch)  # positions lie in words only
        return node

    def _enter(self, index: int) -> tuple[Position, ...]:
        """The positions at the beginning of a node, once for each way to get there."""
        if index == END:
            return (OVER,)
        node = self.grammar.nodes[index]
        if isinstance(node, Branch):
            return tuple(position for n in node.nodes for position in self.enter(index_of(n)))
        return tuple((index, number, 0) for number in range(len(spellings(node))))

    def piece(self, position: Position) -> str:
        """The next piece at a position; empty at the end."""
        index, number, done = position
        return "" if index == END else spellings(self._word(index))[number][done]

    def _advance(self, position: Position) -> tuple[Position, ...]:
        """The positions after the next piece."""
        index, number, done = position
        if index == END:
            return ()
        node = self._word(index)
        if done + 1 < len(spellings(node)[number]):
            return ((index, number, done + 1),)
        return self.enter(index_of(node.next))

    def pairs(self, ones: tuple[Position, ...], others: tuple[Position, ...], parted: bool) -> Iterator[Pair]:
        """Pairs of positions with the same next piece. Walks that are together stay together or part here."""
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
    """The beginning of a text after which two of its readings meet again; None if no text has two readings."""
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
    """Two neighboring pieces that the splitting rule would split elsewhere; None if there are none."""

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


def main() -> None:
    """Check the grammar of every level; ends with an error message at the first fault."""
    for level in tales.LEVELS:
        if fault := find_ambiguity(tales.grammar(level)) or find_bad_seam(tales.grammar(level)):
            raise SystemExit(f"level {level}: not unique at {fault!r}")
        print(f"level {level}: every story has one derivation")


if __name__ == "__main__":
    main()
