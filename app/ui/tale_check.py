"""The verdict under the canvas of a tales model: whether each story fits the grammar, agrees, and where it breaks.

A story is judged only where the visitor's own words could be part of one: the verdict is on what the model wrote.

While the canvas fills up, the verdict covers what has been revealed so far. This is the only HTML of the app that
contains model text, so every piece of it is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from app.strings.language import texts

if TYPE_CHECKING:
    from diffuapriel.tales.grammar.holes import HoleReader, Part, PartCheck
    from diffuapriel.tokenizer import Tokenizer

BEFORE = 60  # characters of the text shown before the place where it breaks
AFTER = 40
MOST_STORIES = 8  # shown; a canvas of 1,024 tokens may hold more


@dataclass(frozen=True)
class Story:
    """The tokens between two <|endoftext|>s, [MASK]s included. `first` is the position of the first one."""

    first: int
    ids: tuple[int, ...]
    closed: bool


@dataclass(frozen=True)
class Finding:
    """The verdict on one story. `consistent` is None where it is unknown; `offset` counts characters of `text`."""

    grammatical: bool
    consistent: bool | None
    so_far: bool
    message: str = ""
    text: str = ""
    offset: int | None = None
    position: int | None = None  # of the token where it breaks, on the canvas


@dataclass(frozen=True)
class Judgement:
    """The verdict on a canvas, as HTML, and the tokens where it breaks: ((position, why), ...)."""

    html: str
    breaks: tuple[tuple[int, str], ...]


def judge(ids: Sequence[int], tokenizer: Tokenizer, level: int, given: Sequence[bool] = ()) -> Judgement:
    """The verdict on a canvas of the level's stories, finished or not.

    `given`: per position, whether the visitor wrote it. A story that their words alone rule out is not judged.
    """
    found = [s for s in split(ids, tokenizer.eos_id) if any(i != tokenizer.mask_id for i in s.ids)]
    if not found:
        return Judgement(f'<div class="da-verdicts">{texts.NO_STORY}</div>', ())
    finished = tokenizer.mask_id not in ids
    rows, breaks = [], []
    for number, story in enumerate(found[:MOST_STORIES], start=1):
        if any(given) and not possible(story, given, tokenizer, level):
            rows.append(f'<div class="da-story">{_name(number, found)}<span>{texts.NOT_JUDGED}</span></div>')
            continue
        finding = examine(story, tokenizer, level, finished)
        cut = finished and not story.closed
        rows.append(_row(finding, _name(number, found), cut))
        if finding.position is not None:
            breaks.append((finding.position, finding.message))
    return Judgement(f'<div class="da-verdicts">{"".join(rows)}</div>', tuple(breaks))


def split(ids: Sequence[int], eos_id: int) -> list[Story]:
    """The stories of a canvas; empty ones are left out."""
    found, first = [], 0
    for end, token in enumerate([*ids, eos_id]):
        if token == eos_id:
            if end > first:
                found.append(Story(first, tuple(ids[first:end]), end < len(ids)))
            first = end + 1
    return found


def possible(story: Story, given: Sequence[bool], tokenizer: Tokenizer, level: int) -> bool:
    """Whether the syntax of the level has the visitor's words where they are; they may still contradict each other."""
    kept = given[story.first : story.first + len(story.ids)]
    theirs = tuple(i if keep else tokenizer.mask_id for i, keep in zip(story.ids, kept, strict=True))
    if theirs == story.ids:
        return examine(story, tokenizer, level, finished=True).grammatical
    end = story.first + len(story.ids)
    closed = story.closed and end < len(given) and given[end]
    return examine(Story(story.first, theirs, closed), tokenizer, level, finished=False).grammatical


def examine(story: Story, tokenizer: Tokenizer, level: int, finished: bool) -> Finding:
    """The verdict on one story. `finished`: the canvas has no mask left, so a story without an end is cut off."""
    from diffuapriel.tales import language as tales
    from diffuapriel.tales.grammar.parser import REASONS

    def broken(check: Any, so_far: bool, error: Any, text: str, first: int) -> Finding:
        """`error` is a Failure at an offset in `text`, which begins at token `first` of the canvas."""
        position = first + token_at(story.ids[first - story.first :], tokenizer, error.position)
        about = (error.explain(texts.TALE_REASONS or REASONS), text, error.position, position)
        return Finding(check.grammatical, check.consistent, so_far, *about)

    if tokenizer.mask_id not in story.ids and (story.closed or finished):
        text = tokenizer.decode(story.ids)
        check = tales.check(text, level)
        if check.position is None:
            return Finding(True, True, False)
        return broken(check, False, check.failure, text, story.first)
    consistent = None
    for first, part in parts(story, tokenizer):
        check = _read(level, part)
        if check.failure is not None:
            return broken(check, True, check.failure, part.text, first)
        consistent = check.consistent if part.opens else consistent
    return Finding(True, consistent, True)


def parts(story: Story, tokenizer: Tokenizer) -> Iterator[tuple[int, Part]]:
    """(position of its first token, part) for the runs of tokens between the holes of a story."""
    from diffuapriel.tales.grammar.holes import Part

    first = 0
    for end, token in enumerate([*story.ids, tokenizer.mask_id]):
        if token == tokenizer.mask_id:
            if end > first:
                text = tokenizer.decode(story.ids[first:end])
                yield story.first + first, Part(text, first == 0, end == len(story.ids) and story.closed)
            first = end + 1


def token_at(ids: Sequence[int], tokenizer: Tokenizer, offset: int) -> int:
    """Index of the token that holds the character at `offset` of the decoded text; the last one beyond its end."""
    for index, token in enumerate(ids):
        if token == tokenizer.mask_id:
            return max(0, index - 1)
        offset -= len(tokenizer.decode([token]))
        if offset < 0:
            return index
    return len(ids) - 1


@lru_cache(maxsize=3)
def _reader(level: int) -> HoleReader:
    from diffuapriel.tales import language as tales
    from diffuapriel.tales.grammar.holes import HoleReader

    return HoleReader(tales.grammar(level))


@lru_cache(maxsize=4096)  # from one step to the next most parts stay as they are
def _read(level: int, part: Part) -> PartCheck:
    return _reader(level).read(part)


def _name(number: int, found: Sequence[Story]) -> str:
    return f"<span>{texts.STORY.format(number=number)}</span>" if len(found) > 1 else ""


def _row(finding: Finding, name: str, cut: bool) -> str:
    later = f" {texts.SO_FAR}" if finding.so_far else ""
    marks = [_mark(finding.grammatical, texts.GRAMMATICAL + later, texts.NOT_GRAMMATICAL)]
    if finding.grammatical and finding.consistent is not None:
        marks.append(_mark(finding.consistent, texts.CONSISTENT + later, texts.NOT_CONSISTENT))
    where = ""
    if finding.offset is not None:
        at_end = cut and finding.offset >= len(finding.text.rstrip())
        reason = html.escape(finding.message) + (f" ({texts.CUT})" if at_end else "")
        where = f"<span>{reason}</span>{excerpt(finding.text, finding.offset)}"
    return f'<div class="da-story">{name}{"".join(marks)}{where}</div>'


def _mark(good: bool, yes: str, no: str) -> str:
    sign, text, kind = ("✓", yes, "yes") if good else ("✗", no, "no")
    return f'<span class="da-{kind}">{sign} {text}</span>'


def excerpt(story: str, position: int) -> str:
    """The text around a position, with a mark at it; everything escaped."""
    before = story[max(0, position - BEFORE) : position]
    after = story[position : position + AFTER]
    first = "…" if position > BEFORE else ""
    last = "…" if position + AFTER < len(story) else ""
    return (
        f'<span class="da-excerpt">{first}{html.escape(before)}<mark title="{texts.HERE}">▸</mark>'
        f"{html.escape(after)}{last}</span>"
    )
