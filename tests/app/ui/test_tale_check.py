"""The verdict on a tale while it fills up: what is said so far, and which token breaks it."""

from __future__ import annotations

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
    assert "✓ Grammatical so far" in found.html and "✓ Consistent so far" in found.html
    assert found.breaks == ()


def test_behind_a_hole_agreement_cannot_be_said():
    found = judge([MASK, *ids(" had five nuts, ate three and kept nine.")], TOKENIZER, 1)
    assert "✓ Grammatical so far" in found.html and "onsistent" not in found.html


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
