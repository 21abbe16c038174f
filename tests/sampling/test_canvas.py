"""A canvas: what is given, what is to be filled, and which texts are refused."""

import pytest
import torch

from diffuapriel.sampling.canvas import MAX_LENGTH, Canvas
from diffuapriel.tokenizer import get_tokenizer
from tests.sampling.models import Letters

LETTERS = Letters()
M = LETTERS.mask_id


def test_a_hole_is_one_mask_and_a_numbered_hole_that_many():
    canvas = Canvas.from_text("ab[MASK]c[MASK:3]", LETTERS)
    assert canvas.ids.tolist() == [0, 1, M, 2, M, M, M]
    assert canvas.fixed.tolist() == [True, True, False, True, False, False, False]
    assert torch.equal(canvas.masked, ~canvas.fixed)


def test_underscores_and_lower_case_are_holes_too():
    canvas = Canvas.from_text("ab ___c[mask:2]", LETTERS)
    assert canvas.ids.tolist() == [0, 1, M, M, M, 2, M, M]
    with pytest.raises(ValueError, match="not a hole"):
        Canvas.from_text("ab[mask:0]", LETTERS)


def test_a_length_fills_the_end_with_masks():
    assert Canvas.from_text("ab", LETTERS, length=5).ids.tolist() == [0, 1, M, M, M]
    assert Canvas.from_text("ab", LETTERS, length=2).ids.tolist() == [0, 1]
    assert Canvas.from_text("", LETTERS, length=2).ids.tolist() == [M, M]


def test_masks_alone():
    canvas = Canvas.masks(4, LETTERS)
    assert canvas.ids.tolist() == [M] * 4 and not canvas.fixed.any() and len(canvas) == 4


def test_the_text_of_a_canvas_shows_its_holes_and_reads_back():
    tokenizer = get_tokenizer("gpt2-4k")
    canvas = Canvas.from_text("Mia found a [MASK:2] under the table.", tokenizer)
    assert canvas.text(tokenizer) == "Mia found a[MASK][MASK] under the table."
    assert torch.equal(Canvas.from_text(canvas.text(tokenizer), tokenizer).ids, canvas.ids)


def test_the_space_before_a_hole_belongs_to_the_hole():
    tokenizer = get_tokenizer("gpt2-4k")
    before, after = tokenizer.encode("Mia found a"), tokenizer.encode(".")
    canvas = Canvas.from_text("Mia found a [MASK:2].", tokenizer)
    assert canvas.ids.tolist() == [*before, tokenizer.mask_id, tokenizer.mask_id, *after]


def test_words_that_only_look_like_holes_are_text():
    tokenizer = get_tokenizer("gpt2-4k")
    for text in ("[MASKED]", "[mask]", "MASK:3]", "[ MASK]", "x[mask]", "x[mask:n]", "__init__", "<|endoftext|>"):
        canvas = Canvas.from_text(text, tokenizer)
        assert canvas.fixed.all() and canvas.text(tokenizer) == text


@pytest.mark.parametrize(
    "hole",
    ["[MASK:0]", "[MASK:-1]", "[MASK:abc]", "[MASK:99999999]", "[MASK:]", "[MASK: 3]", "[MASK:+3]", "[MASK:3.0]",
     "[MASK:٣]", "[MASK:" + "9" * 5000 + "]"],
)  # fmt: skip
def test_a_malformed_hole_is_refused_by_name_with_the_range(hole):
    with pytest.raises(ValueError, match="1 to 65,536") as error:
        Canvas.from_text("ab" + hole, LETTERS)
    assert hole[:20] in str(error.value) and len(str(error.value)) < 200


def test_a_hole_without_a_closing_bracket_is_refused():
    with pytest.raises(ValueError, match="no closing bracket"):
        Canvas.from_text("ab[MASK:3", LETTERS)


def test_what_does_not_fit_is_refused_with_the_figure():
    with pytest.raises(ValueError, match="3 tokens or more; permitted: 1 to 2"):
        Canvas.from_text("abc", LETTERS, length=2)
    with pytest.raises(ValueError, match="permitted: 1 to 65,536"):
        Canvas.from_text(f"[MASK:{MAX_LENGTH}]a", LETTERS)
    with pytest.raises(ValueError, match="empty"):
        Canvas.from_text("", LETTERS)
    assert len(Canvas.from_text(f"[MASK:{MAX_LENGTH}]", LETTERS)) == MAX_LENGTH


@pytest.mark.parametrize("length", [0, -1, MAX_LENGTH + 1])
def test_a_length_out_of_range_is_refused(length):
    with pytest.raises(ValueError, match="1 to 65,536"):
        Canvas.masks(length, LETTERS)
    with pytest.raises(ValueError, match="1 to 65,536"):
        Canvas.from_text("a", LETTERS, length=length)


def test_a_canvas_of_tensors_may_be_longer_than_one_that_is_asked_for():
    ids = torch.full((MAX_LENGTH + 1,), M)
    assert len(Canvas(ids, ids != M, M).to("cpu")) == MAX_LENGTH + 1


@pytest.mark.parametrize("length", [True, 3.0, "3", float("nan")])
def test_a_length_that_is_no_whole_number_is_refused(length):
    with pytest.raises(TypeError, match="whole number"):
        Canvas.masks(length, LETTERS)


def test_a_text_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="must be a string, not int"):
        Canvas.from_text(3, LETTERS)


def test_a_canvas_keeps_its_own_copies():
    ids, fixed = torch.tensor([0, M]), torch.tensor([True, False])
    canvas = Canvas(ids, fixed, M)
    ids[0], fixed[0] = 5, False
    assert canvas.ids.tolist() == [0, M] and canvas.fixed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("ids", "fixed", "message"),
    [
        (torch.tensor([[0]]), torch.tensor([[True]]), "must be .length,."),
        (torch.tensor([0.0]), torch.tensor([True]), "torch.int64"),
        (torch.tensor([0, 1]), torch.tensor([True]), "torch.bool"),
        (torch.tensor([0]), torch.tensor([1]), "torch.bool"),
        (torch.tensor([-1]), torch.tensor([True]), "ids run from -1"),
        (torch.tensor([M + 1]), torch.tensor([True]), f"0 to {M}"),
        (torch.tensor([M]), torch.tensor([True]), "could never be filled"),
        (torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.bool), "1 token or more"),
    ],
)
def test_tensors_that_are_no_canvas_are_refused(ids, fixed, message):
    with pytest.raises(ValueError, match=message):
        Canvas(ids, fixed, M)


def test_the_text_needs_the_tokenizer_of_the_canvas():
    with pytest.raises(ValueError, match="use the tokenizer that made the canvas"):
        Canvas.masks(2, LETTERS).text(Letters(3))
