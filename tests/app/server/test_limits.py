"""Every value is checked on the server; a refusal names the value and what is permitted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server import limits
from app.server.limits import Refused

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=50),
    st.binary(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([10**400, -(10**5000), "8", "nan", "<img src=x onerror=alert(1)>", b"\xff", "\ud800"]),
)


@given(value=ANYTHING)
def test_a_whole_number_is_in_range_or_refused(value):
    try:
        found = limits.whole_number("steps", value, 1, 256)
    except Refused as refusal:
        assert str(refusal).startswith("steps is ")
        assert "from 1 to 256" in str(refusal)
        assert len(str(refusal)) < 160
    else:
        assert type(found) is int
        assert 1 <= found <= 256
        assert found == value


@given(value=ANYTHING)
def test_a_number_is_finite_and_in_range_or_refused(value):
    try:
        found = limits.number("temperature", value, 0, 5)
    except Refused as refusal:
        assert "from 0 to 5" in str(refusal)
        assert len(str(refusal)) < 160
    else:
        assert type(found) is float
        assert 0 <= found <= 5


@given(value=ANYTHING)
def test_a_choice_is_one_of_the_permitted(value):
    try:
        assert limits.choice("strategy", value, ["low_confidence", "random"]) in ("low_confidence", "random")
    except Refused as refusal:
        assert "permitted: low_confidence, random" in str(refusal)


@given(value=ANYTHING)
def test_text_can_always_be_encoded(value):
    try:
        assert isinstance(limits.text("the text", value, 100).encode(), bytes)
    except Refused as refusal:
        assert str(refusal).startswith("the text ")


@pytest.mark.parametrize("value", [True, math.nan, math.inf, "8", 8.5, None, [8], 0, 257])
def test_what_only_looks_like_a_whole_number_is_refused(value):
    with pytest.raises(Refused):
        limits.whole_number("steps", value, 1, 256)


def test_a_slider_sends_whole_numbers_as_floats():
    assert limits.whole_number("steps", 8.0, 1, 256) == 8


def test_a_long_text_is_refused_with_its_length():
    with pytest.raises(Refused, match="has 10,000,000 characters; it may have up to 20,000"):
        limits.text("the text", "a" * 10_000_000, 20_000)


def test_nothing_is_an_empty_text():
    assert limits.text("the text", None, 10) == ""
