"""The verdict on a tale while it fills up: what is said so far, and which token breaks it."""

from __future__ import annotations

import pytest

from app.ui.tale_check import judge
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
MASK, EOS = TOKENIZER.mask_id, TOKENIZER.eos_id
STORY = "Ruth had five nuts, ate three and kept two."


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_a_canvas_of_masks_has_no_story_yet():
    assert "No story" in judge([MASK] * 8, TOKENIZER, 1).html


def test_a_tale_with_holes_is_right_so_far():
    found = judge([*ids("Ruth had five nuts, ate"), MASK, MASK, *ids(" two."), EOS], TOKENIZER, 1)
    assert "✓ Fits the story grammar so far" in found.html and "✓ Consistent so far" in found.html
    assert found.breaks == ()


def test_behind_a_hole_agreement_cannot_be_said():
    found = judge([MASK, *ids(" had five nuts, ate three and kept nine.")], TOKENIZER, 1)
    assert "✓ Fits the story grammar so far" in found.html and "onsistent" not in found.html


def test_the_token_that_breaks_a_tale_with_holes_is_named():
    canvas = [*ids("Ruth had five nuts, ate three and kept nine"), MASK, MASK]
    found = judge(canvas, TOKENIZER, 1)
    ((position, why),) = found.breaks
    assert TOKENIZER.decode(canvas[position:]).startswith(" nine") and "does not add up" in why
    assert "✗ Not consistent" in found.html

    canvas = [MASK, MASK, *ids(" zebra"), MASK]
    ((position, why),) = judge(canvas, TOKENIZER, 1).breaks
    assert position == 2 and "does not fit here" in why


def test_of_two_tales_the_broken_one_is_marked():
    canvas = [*ids(STORY), EOS, *ids(STORY.replace("two", "nine")), EOS]
    found = judge(canvas, TOKENIZER, 1)
    ((position, _),) = found.breaks
    assert position > len(ids(STORY)) and TOKENIZER.decode(canvas[position:]).startswith(" nine")
    assert "Story 1" in found.html and "Story 2" in found.html


def test_a_tale_whose_end_is_still_hidden_is_not_called_cut():
    found = judge([*ids(STORY[:20]), MASK], TOKENIZER, 1)
    assert "cut off by" not in found.html and found.breaks == ()


def test_markup_behind_a_hole_stays_text():
    found = judge([MASK, *ids(" <img src=x onerror=alert(1)>"), MASK], TOKENIZER, 1)
    assert "<img" not in found.html and "&lt;" in found.html


def given(text: str, rest: int) -> tuple[list[int], list[bool]]:
    """The visitor's text and `rest` masks behind it, and which of them are theirs."""
    return [*ids(text), *[MASK] * rest], [True] * len(ids(text)) + [False] * rest


@pytest.mark.parametrize("text", ["The capital of France is", "Hello world", "   ", "Müller fand eine Straße"])
def test_words_that_no_story_has_are_not_judged(text):
    canvas, theirs = given(text, 4)
    for ending in ([MASK] * 4, ids(" the zoo.")[:4]):
        found = judge([*canvas[: -len(ending)], *ending], TOKENIZER, 1, theirs[: len(canvas)])
        assert "Not judged" in found.html and "✗" not in found.html and found.breaks == ()


def test_what_the_model_wrote_after_words_of_a_story_is_judged():
    canvas = [*ids("Ruth had five nuts,"), *ids(" ate three and kept nine."), EOS]
    theirs = [position < len(ids("Ruth had five nuts,")) for position in range(len(canvas))]
    found = judge(canvas, TOKENIZER, 1, theirs)
    assert "✗ Not consistent" in found.html and found.breaks


def test_an_agreement_that_one_word_of_the_visitor_breaks_is_shown():
    canvas = [*ids(STORY.replace("two", "nine")), EOS]
    theirs = [TOKENIZER.decode([token]) == " nine" for token in canvas]
    found = judge(canvas, TOKENIZER, 1, theirs)
    assert "✗ Not consistent" in found.html and len(found.breaks) == 1
