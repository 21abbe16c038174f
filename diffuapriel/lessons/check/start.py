"""Lesson 00: a canvas and its masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from diffuapriel.lessons.check.verdict import Wrong, checker, number, require, run
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.tokenizer import get_tokenizer

__all__ = ["canvas_text", "count_masks"]

MAX_TOKENS = 128  # of a canvas: the length of the bundled model's training texts


@checker
def count_masks(answer: Callable[[Canvas], Any]) -> None:
    """`answer(canvas)`: how many tokens of the canvas are [MASK]."""
    tokenizer = get_tokenizer("gpt2-4k")
    cases = {
        "Tom had a [MASK:7] and a kite.": "one hole of seven masks",
        "[MASK] and [MASK:3] met [MASK:5]": "three holes",
        "Tom had a kite.": "no hole",
        "[MASK:30]": "only masks",
    }
    for text, what in cases.items():
        canvas = Canvas.from_text(text, tokenizer)
        _compare(answer, canvas, f"the canvas {text!r} ({what})")
    canvas = Canvas.from_text("Tom had", tokenizer, length=40)
    _compare(answer, canvas, "the canvas 'Tom had' with 40 tokens, padded with masks")
    ids = torch.tensor([9, 9, 5, 9])
    canvas = Canvas(ids, torch.tensor([False, False, True, False]), mask_id=9)
    _compare(answer, canvas, "a canvas of another tokenizer, whose [MASK] has the id 9")
    canvas = Canvas(torch.tensor([5, 9, 5, 9]), torch.tensor([True, False, False, False]), mask_id=9)
    _compare(
        answer,
        canvas,
        "a canvas where one token has been filled in (it is neither a [MASK] nor fixed)",
    )


def _compare(answer: Callable[[Canvas], Any], canvas: Canvas, what: str) -> None:
    wanted = sum(id_ == canvas.mask_id for id_ in canvas.ids.tolist())
    result = run(answer, canvas)
    require(
        not isinstance(result, bool),
        "The answer must be a number. True and False say whether there are masks, not how many.",
    )
    got = number(result)
    require(
        got == wanted,
        f"In {what}, you count {got:g}. The canvas has {len(canvas)} tokens; compare each of them with the id of "
        "[MASK], canvas.mask_id.",
    )


@checker
def canvas_text(answer: Callable[[], str]) -> None:
    """`answer()`: a text with something given, then one hole of two masks or more, then something given again."""
    text = run(answer)
    require(isinstance(text, str), f"Return a text in quotation marks, not {type(text).__name__}.")
    try:
        canvas = Canvas.from_text(text, tokenizer := get_tokenizer("gpt2-4k"))
    except ValueError as error:
        raise Wrong(f"The canvas cannot be read. {str(error).removeprefix('canvas: ')}") from error
    masked = canvas.masked.tolist()
    require(
        any(masked),
        "There is no hole in this text. A hole is written in square brackets: [MASK:4].",
    )
    starts = sum(now and not before for before, now in zip([False, *masked], masked))
    require(starts == 1, f"There are {starts} holes in this text. Leave only one.")
    require(sum(masked) > 1, "The hole has one mask. Make it two or more, with a colon and a number.")
    require(not masked[0], "Nothing is given before the hole. Begin the text with a word of your own.")
    require(not masked[-1], "Nothing is given after the hole. Add some text after it.")
    first, ids = masked.index(True), canvas.ids.tolist()
    before, after = tokenizer.decode(ids[:first]), tokenizer.decode(ids[first + sum(masked) :])
    require(
        any(c.isalpha() for c in before) and any(c.isalpha() for c in after),
        "Give at least one word on each side of the hole, so that the model has something to fit.",
    )
    require(
        len(canvas) <= MAX_TOKENS,
        f"This canvas has {len(canvas):,} tokens. Keep it to {MAX_TOKENS} or fewer, so that it is filled quickly.",
    )
