"""Infilling of code: spans lie in lines of code, and rates are right where the answer is known."""

from __future__ import annotations

import ast

import pytest
import torch

from diffuapriel.data.stdlib import stdlib_corpus
from diffuapriel.evaluation.infilling import draw_holes, evaluate_infilling, find_blocks, parses
from diffuapriel.evaluation.interval import wilson_interval
from diffuapriel.tokenizer import get_tokenizer
from tests.evaluation.known_models import Knows

TOKENIZER = get_tokenizer("gpt2-4k")
MODULE = '''"""A module."""

import os


class Shelf:
    """Docstrings hold no holes.

    Not even here: x = 1 + 2 + 3.
    """

    # nor do comments: y = 1 + 2 + 3
    @property
    def size(self) -> int:
        \'\'\'Größe.\'\'\'
        return len(self.books) + len(self.films) * 2

    def add(self, book):
        if book not in self.books:
            self.books.append(book)


def last(values):
    return values[-1] if values else None
'''
OTHERS = [f"def f{i}(a, b):\n    c = a + b * {i}\n    return c - a\n" for i in range(10)]


def block_of(ids, hole) -> str:
    window = b"".join(map(TOKENIZER.token_bytes, ids))
    return window[hole.before : len(window) - hole.after].decode()


def fill_with(text: str):
    """A denoiser that writes the one token `text` everywhere."""
    (token,) = TOKENIZER.encode(text)

    def denoise(ids, sigma, positions):
        logits = torch.zeros(int(positions.sum()), TOKENIZER.vocab_size)
        logits[:, token] = 30.0
        return logits

    return denoise


def knows(holes, **options) -> Knows:
    model = Knows([], TOKENIZER, **options)
    model.texts = [list(hole.ids) for hole in holes]
    return model


def test_functions_and_classes_are_found_with_their_decorators():
    lines = MODULE.split("\n")
    found = sorted(find_blocks(MODULE))
    assert [lines[first].strip() for first, _ in found] == [
        "class Shelf:",
        "@property",
        "def add(self, book):",
        "def last(values):",
    ]
    assert [lines[last].strip() for _, last in found][1].startswith("return len(self.books)")
    assert list(find_blocks("no python (")) == []


@pytest.mark.parametrize("length", [48, 96, 1000])
def test_a_span_lies_in_one_line_of_code_of_a_block_that_parses(length):
    holes = draw_holes([MODULE, *OTHERS], TOKENIZER, spans=60, span=2, length=length, seed=1)
    assert len(set(holes)) == 60
    code = [line.strip() for line in MODULE.split("\n") if "1 + 2 + 3" not in line and '""' not in line]
    code += [line.strip() for module in OTHERS for line in module.split("\n")]
    for hole in holes:
        assert len(hole.ids) <= length and hole.stop - hole.start == 2
        block = block_of(hole.ids, hole)
        assert parses(block.encode()) and block.lstrip().startswith(("class", "def", "@property"))
        hidden = TOKENIZER.decode(hole.ids[hole.start : hole.stop])
        assert hidden.strip() and "\n" not in hidden
        assert any(hidden.strip() in line for line in code)
        before = len(b"".join(map(TOKENIZER.token_bytes, hole.ids[: hole.start])))
        assert hole.before <= before < hole.before + len(block.encode())


def test_no_span_hides_a_docstring_or_a_comment():
    holes = draw_holes([MODULE], TOKENIZER, spans=60, span=1, length=300)
    for hole in holes:
        text = TOKENIZER.decode(hole.ids[: hole.start])
        line = text[text.rfind("\n") + 1 :]
        assert "#" not in line and "Docstrings" not in line and "Not even" not in line and "Gr" not in line


def test_a_window_holds_as_much_of_the_module_around_the_block_as_fits():
    whole = len(TOKENIZER.encode(MODULE))
    holes = draw_holes([MODULE], TOKENIZER, spans=30, span=1, length=whole - 20)
    assert {len(hole.ids) for hole in holes} == {whole - 20}
    assert {len(h.ids) for h in draw_holes([MODULE], TOKENIZER, spans=30, span=1, length=999)} == {whole}


def test_a_model_that_knows_the_code_fills_every_span_and_breaks_nothing():
    options = {"spans": 24, "span": 3, "length": 96, "seed": 2}
    holes = draw_holes([MODULE, *OTHERS], TOKENIZER, **options)
    report = evaluate_infilling(knows(holes), TOKENIZER, [MODULE, *OTHERS], batch_size=5, **options)
    assert report.exact_token == report.exact_span == report.parses == 1
    assert report.exact_span_ci95 == report.exact_token_ci95 == report.parses_ci95 == wilson_interval(24, 24)
    assert report.examples == ()


def test_a_model_that_is_always_wrong_gets_no_token_right():
    options = {"spans": 24, "span": 3, "length": 96, "seed": 2}
    holes = draw_holes([MODULE, *OTHERS], TOKENIZER, **options)
    report = evaluate_infilling(knows(holes, wrong=True), TOKENIZER, [MODULE, *OTHERS], **options)
    assert report.exact_token == report.exact_span == 0
    assert report.exact_token_ci95 == wilson_interval(0, 24)
    assert len(report.examples) == 5 and " -> " in report.examples[0]


def test_what_is_not_python_does_not_parse_and_another_name_does():
    """Each module is one function and fits its window, so parsing the whole window must say the same."""
    options = {"spans": 40, "span": 1, "length": 64}
    for text in (" (", " b"):
        report = evaluate_infilling(fill_with(text), TOKENIZER, OTHERS, **options)
        expected = right = 0
        for hole in draw_holes(OTHERS, TOKENIZER, **options):
            filled = [*hole.ids[: hole.start], *TOKENIZER.encode(text), *hole.ids[hole.stop :]]
            right += filled == list(hole.ids)
            try:
                ast.parse(TOKENIZER.decode(filled))
                expected += 1
            except SyntaxError:
                pass
        assert (report.parses, report.exact_span) == (expected / 40, right / 40)
        assert (expected > 10) == (text == " b")  # some hide the very token


@pytest.mark.parametrize(
    "block, valid",
    [
        (b"def f():\n    return 1", True),
        (b"    def f(self):\n        return 1", True),
        (b"    def f(self):\n  return 1", False),
        (b"def f():\n    return (", False),
        (b"def f():\n    return '\xff'", False),
        (b"def f():\n    return '\x00'", False),
        (b"def f():\n    return '\\d'", True),
        (b"def f(): return " + b"(" * 5000 + b")" * 5000, False),
    ],
)
def test_what_parses(block, valid, recwarn):
    assert parses(block) is valid and not recwarn.list


def test_the_same_seed_hides_the_same_spans():
    def draw(seed):
        return draw_holes([MODULE, *OTHERS], TOKENIZER, spans=10, span=2, length=64, seed=seed)

    assert draw(0) == draw(0) != draw(1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"spans": 0}, "spans is 0"),
        ({"span": 0}, "span is 0"),
        ({"length": 2}, "length is 2; it must be 3 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"span": 30, "length": 40}, "modules hold only 0 of 4 spans of 30 tokens"),
    ],
)
def test_counts_out_of_range_and_too_little_code_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_infilling(fill_with(" b"), TOKENIZER, OTHERS, **{"spans": 4, "span": 2, **options})
    with pytest.raises(ValueError, match="0 modules hold"):
        draw_holes([], TOKENIZER, spans=1, span=1, length=8)


def test_held_out_modules_of_the_standard_library_are_full_of_spans():
    modules = stdlib_corpus(TOKENIZER).splits["validation"]
    holes = draw_holes(modules, TOKENIZER, spans=40, span=4, length=192)
    assert len(holes) == 40 and all(parses(block_of(hole.ids, hole).encode()) for hole in holes)
