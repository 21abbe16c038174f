"""Under the canvas of a tales model: is the text grammatical, is it consistent, and where does it break?

The only HTML of the app that holds model text, so every piece of it is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app import texts

if TYPE_CHECKING:
    from diffuapriel.text.tokenizer import Tokenizer

BEFORE = 60  # characters of the text shown before the place where it breaks
AFTER = 40
MOST_STORIES = 8  # shown; a canvas of 1,024 tokens may hold more


def stories(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[list[str], bool]:
    """The texts between <|endoftext|>s that are not empty, and whether the last one has no end of its own."""
    pieces: list[list[int]] = [[]]
    for token in ids:
        if token == tokenizer.eos_id:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [tokenizer.decode(piece) for piece in pieces if piece], bool(pieces[-1])


def verdict_html(ids: Sequence[int], tokenizer: Tokenizer, level: int) -> str:
    """The verdict on every story of a finished canvas, as HTML."""
    found, cut = stories(ids, tokenizer)
    if not found:
        return f'<div class="da-verdicts">{texts.NO_STORY}</div>'
    rows = [
        _row(story, level, number if len(found) > 1 else None, cut and number == len(found))
        for number, story in enumerate(found[:MOST_STORIES], start=1)
    ]
    return f'<div class="da-verdicts">{"".join(rows)}</div>'


def _row(story: str, level: int, number: int | None, cut: bool) -> str:
    from diffuapriel.text import tales

    check = tales.check(story, level)
    name = f"<span>{texts.STORY.format(number=number)}</span>" if number else ""
    marks = [
        _mark(check.grammatical, texts.GRAMMATICAL, texts.NOT_GRAMMATICAL),
        _mark(check.consistent, texts.CONSISTENT, texts.NOT_CONSISTENT) if check.grammatical else "",
    ]
    where = ""
    if check.position is not None:
        at_end = cut and check.position >= len(story.rstrip())
        reason = html.escape(check.message) + (f" ({texts.CUT})" if at_end else "")
        where = f"<span>{reason}</span>{excerpt(story, check.position)}"
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
        f'<span class="da-excerpt">{first}{html.escape(before)}<mark title="here">▸</mark>'
        f"{html.escape(after)}{last}</span>"
    )
