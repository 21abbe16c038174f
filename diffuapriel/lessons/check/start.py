"""Lesson 00: a canvas, and what is masked on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from diffuapriel.lessons.check.verdict import Wrong, checker, number, require, run
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.tokenizer import get_tokenizer

__all__ = ["canvas_text", "count_masks"]

MOST_TOKENS = 128  # of a canvas: so long were the texts of the bundled model's training


@checker
def count_masks(answer: Callable[[Canvas], Any]) -> None:
    """`answer(canvas)`: how many tokens of the canvas are [MASK]."""
    tokenizer = get_tokenizer("gpt2-4k")
    cases = {
        "Tom had a [MASK:7] and a kite.": "one hole of seven masks",
        "[MASK] and [MASK:3] met [MASK:5]": "three holes",
        "Tom had a kite.": "no hole",
        "[MASK:30]": "masks and nothing else",
    }
    for text, what in cases.items():
        canvas = Canvas.from_text(text, tokenizer)
        _compare(answer, canvas, f"the canvas {text!r} ({what})")
    canvas = Canvas.from_text("Tom had", tokenizer, length=40)
    _compare(answer, canvas, "the canvas 'Tom had' of 40 tokens, whose end is filled up with masks")
    ids = torch.tensor([9, 9, 5, 9])
    canvas = Canvas(ids, torch.tensor([False, False, True, False]), mask_id=9)
    _compare(answer, canvas, "a canvas of another tokenizer, whose [MASK] has the id 9")
    canvas = Canvas(torch.tensor([5, 9, 5, 9]), torch.tensor([True, False, False, False]), mask_id=9)
    _compare(
        answer,
        canvas,
        "a canvas on which one token was filled in earlier (it is not a [MASK], and not fixed either)",
    )


def _compare(answer: Callable[[Canvas], Any], canvas: Canvas, what: str) -> None:
    wanted = sum(id_ == canvas.mask_id for id_ in canvas.ids.tolist())
    result = run(answer, canvas)
    require(
        not isinstance(result, bool), "The answer must be a number. True and False say whether, not how many."
    )
    got = number(result)
    require(
        got == wanted,
        f"On {what}, you count {got:g}. The canvas has {len(canvas)} tokens; compare each of them with the id of "
        "[MASK], canvas.mask_id.",
    )


@checker
def canvas_text(answer: Callable[[], str]) -> None:
    """`answer()`: a text with something given, then one hole of two masks or more, then something given again."""
    text = run(answer)
    require(isinstance(text, str), f"A text is expected, in quotation marks, not {type(text).__name__}.")
    try:
        canvas = Canvas.from_text(text, get_tokenizer("gpt2-4k"))
    except ValueError as error:
        raise Wrong(f"The canvas cannot be read. {str(error).removeprefix('canvas: ')}") from error
    masked = canvas.masked.tolist()
    require(
        any(masked),
        "There is no hole in this text. A hole is written in square brackets with capital letters: [MASK:4].",
    )
    starts = sum(now and not before for before, now in zip([False, *masked], masked))
    require(starts == 1, f"There are {starts} holes in this text. Leave one.")
    require(sum(masked) > 1, "The hole has one mask. Make room for two or more, with a colon and a number.")
    require(not masked[0], "Nothing is given before the hole. Let the text begin with a word of yours.")
    require(not masked[-1], "Nothing is given after the hole. Let the text go on behind it.")
    before, after = text[: text.index("[MASK")], text[text.rindex("]") + 1 :]
    require(
        any(c.isalpha() for c in before) and any(c.isalpha() for c in after),
        "On each side of the hole a word should be given, so that there is something to fit in with.",
    )
    require(
        len(canvas) <= MOST_TOKENS,
        f"This canvas has {len(canvas):,} tokens. Keep it to {MOST_TOKENS} or fewer, so that it is soon filled.",
    )
