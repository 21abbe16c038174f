"""Parses a story that still has holes: can the text between the holes be part of a story?

A hole may hide anything, even the end of one story and the beginning of the next. So the text between two holes is
parsed on its own: the part that opens the story from the start of the grammar, any other part from wherever the
grammar may be by then, also from inside a group of words. A part before a hole may break off anywhere, even within a
word. Agreement (who, which color, how many) is checked in the part that opens the story.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffuapriel.tales.grammar.grammar import Branch, Grammar, spellings, split_pieces
from diffuapriel.tales.grammar.parser import Chart, Failure, follow


@dataclass(frozen=True)
class Part:
    """Text without holes. `opens`: the story begins with it; `closes`: it ends with it. Otherwise there is a hole."""

    text: str
    opens: bool
    closes: bool


@dataclass(frozen=True)
class PartCheck:
    """Whether a story can hold the part, whether its words agree (None: unknown), and what broke."""

    grammatical: bool
    consistent: bool | None
    failure: Failure | None


class HoleReader:
    """Parses parts of the stories of one grammar. Making one takes a moment, so keep it."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.middles: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
        self.vocabulary: set[str] = set()
        for node in grammar.nodes:
            for form in () if isinstance(node, Branch) else spellings(node):
                self.vocabulary.update(form)
                for k in range(1, len(form)):
                    self.middles.setdefault(form[k], []).append((node.index, form[k:]))

    def read(self, part: Part) -> PartCheck:
        """Whether a story of the grammar can hold the part. Linear in its text."""
        pieces = split_pieces(part.text)
        skipped = 0
        if not part.opens and pieces and not pieces[0].startswith(" "):
            skipped = len(pieces.pop(0))  # perhaps the rest of a word that the hole began
        if not pieces:
            return PartCheck(True, True if part.opens else None, None)
        alone = len(pieces) == 1 and not part.opens and not part.closes
        if alone and any(word.startswith(pieces[0]) for word in self.vocabulary):
            return PartCheck(True, None, None)  # by far the most frequent case while a text fills up
        chart = Chart(self.grammar, pieces, opens=part.opens, closes=part.closes, middles=self.middles)
        if not chart.possible:
            failure = chart.failure()
            return PartCheck(False, None, replace(failure, position=skipped + failure.position))
        if not part.opens:
            return PartCheck(True, None, None)
        results = [follow(self.grammar, chart.walk(i, index)) for i, index in chart.ends()]
        failures = [result for result in results if isinstance(result, Failure)]
        if len(failures) < len(results):
            return PartCheck(True, True, None)
        return PartCheck(True, False, max(failures, key=lambda failure: failure.position))
