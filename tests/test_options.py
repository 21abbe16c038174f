"""An option is declared once; its check, its range in words and its flag follow from the declaration."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuapriel.options import add_argument, check_fields, option, options_of, shown


@dataclass(frozen=True)
class Toy:
    steps: int = option(32, least=1, most=64, help="denoiser calls at most", flags=("--calls",))
    top_k: int | None = option(None, least=1)
    top_p: float | None = option(None, least=0.0, most=1.0, above=True)
    strategy: str = option("entropy", choices=("entropy", "margin"), renamed={"surest": "entropy"})
    compile: bool = option(False)
    corpus: str = option("tales")
    note: str = "not an option"

    def __post_init__(self) -> None:
        check_fields(self)


@given(st.integers())
def test_a_whole_number_is_accepted_in_its_range_only(value):
    if 1 <= value <= 64:
        assert Toy(steps=value).steps == value
    else:
        with pytest.raises(ValueError, match=r"steps is .*; it must be a whole number from 1 to 64"):
            Toy(steps=value)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan"), float("inf"), 10**400])
def test_an_excluded_end_nan_and_infinity_are_refused(value):
    with pytest.raises(ValueError, match=r"top_p is .*; it must be a number above 0 and up to 1"):
        Toy(top_p=value)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", True), ("steps", 2.0), ("top_p", "1"), ("compile", 1), ("top_k", [1])]
)
def test_another_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"{name} is .*; it must be "):
        Toy(**{name: value})


def test_none_is_permitted_only_where_the_annotation_says_so():
    assert Toy(top_k=None, top_p=None).top_k is None
    with pytest.raises(TypeError, match=r"steps is None"):
        Toy(steps=None)


def test_an_unknown_choice_is_refused_with_the_known_ones_and_an_older_spelling_is_accepted():
    assert Toy(strategy="surest").strategy == "entropy"
    for value in ("random", "", None, 3):
        with pytest.raises(ValueError, match=r"strategy is .*; permitted: entropy, margin"):
            Toy(strategy=value)


def test_numpy_numbers_become_python_numbers():
    toy = Toy(steps=np.int64(4), top_p=np.float32(0.5))
    assert type(toy.steps) is int and type(toy.top_p) is float


def test_a_number_of_thousands_of_digits_is_refused_in_a_short_message():
    with pytest.raises(ValueError) as error:
        Toy(steps=10**5000)
    assert len(str(error.value)) < 200


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**5000, -(10**5000), nested(10**5), list(range(10**6)), {"k" * 10**6: "v"}, b"x" * 10**6],
    ids=["text", "number", "negative", "nested", "list", "object", "bytes"],
)
def test_a_message_shows_any_value_in_60_characters(value):
    assert len(shown(value)) <= 60
    for name in ("steps", "strategy", "compile"):
        with pytest.raises((TypeError, ValueError)) as error:
            Toy(**{name: value})
        assert len(str(error.value)) < 200


@given(st.text(max_size=100), st.integers(10, 90))
def test_a_text_is_shown_as_repr_shows_it_until_it_is_cut(text, most):
    assert shown(text, most) == (repr(text) if len(repr(text)) <= most else repr(text[:most])[: most - 3] + "...")


def test_a_text_that_is_not_utf_8_is_refused():
    with pytest.raises(ValueError, match=r"corpus is 'caf\\udce9.txt', which is not UTF-8"):
        Toy(corpus=b"caf\xe9.txt".decode(errors="surrogateescape"))
    assert Toy(corpus="café 中.txt").corpus == "café 中.txt"


def test_a_narrower_range_is_said_in_the_message():
    with pytest.raises(ValueError, match="from 1 to 8"):
        options_of(Toy)["steps"].within(most=8).check(9)


def test_the_flag_has_the_type_the_default_and_the_older_spellings():
    parser = argparse.ArgumentParser()
    for declared in options_of(Toy).values():
        add_argument(parser, declared)
    assert vars(parser.parse_args([])) == {name: o.default for name, o in options_of(Toy).items()}
    read = parser.parse_args(["--calls", "4", "--strategy", "surest", "--top-p", "0.5", "--compile"])
    assert Toy(**vars(read)) == Toy(steps=4, strategy="entropy", top_p=0.5, compile=True)
    assert "note" not in vars(read)
