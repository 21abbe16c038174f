"""Reading a story that still has holes: can what stands there already be part of one?

A hole may hide anything, the end of one story and the beginning of the next included. So the text between two holes
is read on its own: the part that opens the story from the grammar's start, any other part from wherever the grammar
could be by then, also from inside a word group. A part that a hole follows may break off anywhere, in the middle of
a word too. Agreement (who, which color, how many) is followed as far as the story is whole from its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from diffuapriel.tales.grammar.grammar import (
    END,
    Branch,
    Grammar,
    Literal,
    Slot,
    followers,
    index_of,
    spellings,
    split_pieces,
)
from diffuapriel.tales.grammar.parser import Choice, Failure, follow

MOST_EXPECTED = 5  # words named in a message


@dataclass(frozen=True)
class Part:
    """Text without holes. `opens`: the story begins with it; `closes`: it ends with it. Otherwise there is a hole."""

    text: str
    opens: bool
    closes: bool


@dataclass(frozen=True)
class Verdict:
    """What is known so far: is the part possible, do its words agree (None: cannot be said), and what broke."""

    grammatical: bool
    consistent: bool | None
    failure: Failure | None


class HoleReader:
    """Reads parts of stories of one grammar; make one and keep it."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        # Which node's spelling may go on with a piece, when its own beginning is hidden by a hole.
        self.middles: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
        self.vocabulary: set[str] = set()
        for node in grammar.nodes:
            for form in () if isinstance(node, Branch) else spellings(node):
                self.vocabulary.update(form)
                for k in range(1, len(form)):
                    self.middles.setdefault(form[k], []).append((node.index, form[k:]))

    def read(self, part: Part) -> Verdict:
        """Whether a part can stand in a story of the grammar. Linear in its text."""
        pieces = split_pieces(part.text)
        skipped = 0
        if not part.opens and pieces and not pieces[0].startswith(" "):
            skipped = len(pieces.pop(0))  # perhaps the rest of a word that the hole began
        if not pieces:
            return Verdict(True, True if part.opens else None, None)
        alone = len(pieces) == 1 and not part.opens and not part.closes
        if alone and any(word.startswith(pieces[0]) for word in self.vocabulary):
            return Verdict(True, None, None)  # the most frequent case by far while a text fills up
        reading = _Reading(self, pieces, part)
        if not reading.possible:
            return Verdict(False, None, reading.break_(skipped))
        if not part.opens:
            return Verdict(True, None, None)
        failure = reading.disagreement()
        return Verdict(True, failure is None, failure)


class _Reading:
    """The chart of one part: after so many pieces, which nodes can come next, and how each was reached."""

    def __init__(self, reader: HoleReader, pieces: list[str], part: Part) -> None:
        self.grammar, self.pieces = reader.grammar, pieces
        self.opens, self.closes = part.opens, part.closes
        self.steps: list[dict[int, tuple[int, int, int] | None]] = [{} for _ in range(len(pieces) + 1)]
        self.inside: set[tuple[int, int]] = set()  # (pieces read, node): the part ends within the node
        if part.opens:
            self.steps[0][index_of(self.grammar.start)] = None
        else:
            self.steps[0].update(dict.fromkeys(range(len(self.grammar.nodes))))
            for piece, forms in reader.middles.items():
                if self._fits(0, piece):
                    for index, form in forms:
                        self._match(0, index, form, None)
        for i in range(len(self.steps)):
            self._read_on(i)

    @property
    def possible(self) -> bool:
        """Whether the part can stand in a story."""
        end = self.steps[-1]
        return END in end if self.closes else bool(end or self.inside)

    def _fits(self, i: int, piece: str) -> bool:
        """Whether `piece` is the part's i-th, or may become it: a hole may hold the rest of the last word."""
        mine = self.pieces[i]
        return piece == mine or (not self.closes and i == len(self.pieces) - 1 and piece.startswith(mine))

    def _read_on(self, i: int) -> None:
        entered = self.steps[i]
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

    def _match(self, i: int, index: int, form: tuple[str, ...], step: tuple[int, int, int] | None) -> None:
        """Read a spelling of a node, or the rest of one, from piece i on, as far as the part goes."""
        here = tuple(self.pieces[i : i + len(form)])
        if here == form:
            node = self.grammar.nodes[index]
            self.steps[i + len(form)].setdefault(index_of(followers(node)[0]), step)
        cut = i + len(here) == len(self.pieces) and form[: len(here) - 1] == here[:-1]
        if cut and not self.closes and form != here and self._fits(len(self.pieces) - 1, form[len(here) - 1]):
            self.inside.add((i, index))

    def break_(self, skipped: int) -> Failure:
        """The first piece that fits nowhere."""
        furthest, due = 0, set[str]()
        for i, entered in enumerate(self.steps):
            for index in entered:
                node = None if index == END else self.grammar.nodes[index]
                forms = (
                    [] if isinstance(node, Branch) else [("the end",)] if node is None else spellings(node)
                )
                for form in forms:
                    n = self._common(i, form)
                    if i + n > furthest:
                        furthest, due = i + n, set()
                    if i + n == furthest and n < len(form):
                        due.add(form[n].strip())
        words = sorted(due) if self.opens or furthest else []  # behind a hole anything could have begun
        because = ": expected " + ", ".join(repr(word) for word in words[:MOST_EXPECTED]) if words else ""
        because += f" or {len(words) - MOST_EXPECTED} more" if len(words) > MOST_EXPECTED else ""
        position = skipped + sum(map(len, self.pieces[:furthest]))
        if furthest == len(self.pieces):
            return Failure(f"the story breaks off{because}", position)
        got = self.pieces[furthest]
        return Failure(
            f"'{got.strip() or got}' does not fit here{because}", position + len(got) - len(got.lstrip())
        )

    def _common(self, i: int, form: tuple[str, ...]) -> int:
        """How many pieces of a spelling stand at piece i and after it."""
        n = 0
        while n < len(form) and i + n < len(self.pieces) and form[n] == self.pieces[i + n]:
            n += 1
        return n

    def disagreement(self) -> Failure | None:
        """What no reading of an opening part makes agree; None where one does."""
        n = len(self.pieces)
        ends = [(n, index) for index in self.steps[n] if not self.closes or index == END]
        found: list[Failure] = []
        for i, index in [*ends, *sorted(self.inside)]:
            result = follow(self.grammar, self._walk(i, index))
            if not isinstance(result, Failure):
                return None
            found.append(result)
        return max(found, key=lambda failure: failure.position)

    def _walk(self, i: int, index: int) -> list[Choice]:
        offsets = [0, *accumulate(map(len, self.pieces))]
        walk: list[Choice] = []
        while (step := self.steps[i][index]) is not None:
            before, index, option = step
            surface = "".join(self.pieces[before:i])
            walk.append(Choice(self.grammar.nodes[index], surface, offsets[before], option))
            i = before
        return walk[::-1]
