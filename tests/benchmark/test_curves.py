"""Exponents and crossovers come out of curves whose exponents and crossovers are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuapriel.benchmark.sweep import crossover, fit_exponent

LENGTHS = [256, 512, 1024, 2048, 4096, 8192]


@given(exponent=st.floats(0.2, 3), scale=st.floats(1e-3, 1e3))
def test_a_power_law_gives_its_exponent(exponent, scale):
    assert fit_exponent(LENGTHS, [scale * n**exponent for n in LENGTHS]) == pytest.approx(exponent, abs=1e-6)


def test_only_the_tail_counts():
    flat_then_square = [max(1.0, (n / 1024) ** 2) for n in LENGTHS]
    assert fit_exponent(LENGTHS, flat_then_square) == pytest.approx(2.0)
    assert fit_exponent(LENGTHS, flat_then_square, tail=len(LENGTHS)) < 2.0


def test_points_may_come_in_any_order():
    assert fit_exponent([1024, 256, 512], [16.0, 1.0, 4.0]) == pytest.approx(2.0)


def test_one_point_has_no_slope():
    assert fit_exponent([256], [1.0]) is None
    assert fit_exponent([], []) is None


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf])
def test_what_has_no_logarithm_is_refused(ms):
    with pytest.raises(ValueError, match="above 0"):
        fit_exponent([256, 512], [1.0, ms])
    with pytest.raises(ValueError, match="one time for each length"):
        fit_exponent([256, 512], [1.0])


@given(point=st.floats(300, 8000), linear=st.floats(0.5, 1.2), square=st.floats(1.5, 2.5))
def test_power_laws_cross_where_they_cross(point, linear, square):
    a = {n: (n / point) ** linear for n in LENGTHS}
    b = {n: (n / point) ** square for n in LENGTHS}
    cross = crossover("Mamba", a, "Transformer", b)
    assert cross.length == pytest.approx(point, rel=1e-6)
    assert cross.ms == pytest.approx(1.0, rel=1e-6)
    assert cross.faster_above == "Mamba"
    assert "Mamba is faster from about" in cross.message
    assert "below, Transformer wins" in cross.message


def test_no_crossover_says_who_wins():
    fast, slow = {n: 1.0 for n in LENGTHS}, {n: 2.0 for n in LENGTHS}
    for a, b in ((fast, slow), (slow, fast)):
        cross = crossover("A", a, "B", b)
        assert cross.length is None
        assert cross.faster_above == ("A" if a is fast else "B")
        assert f"{cross.faster_above} is faster at every length measured, 256 to 8,192" in cross.message


def test_the_transformer_may_win():
    cross = crossover("Mamba", {256: 2.0, 512: 4.0}, "Transformer", {256: 3.0, 512: 3.0})
    assert cross.faster_above == "Transformer"
    assert 256 < cross.length < 512


def test_near_a_tie_the_last_crossing_counts():
    a = {256: 1.0, 512: 3.0, 1024: 1.0}
    b = {256: 2.0, 512: 2.0, 1024: 2.0}
    assert crossover("A", a, "B", b).length > 512


def test_equal_curves_are_a_tie():
    same = {256: 1.0, 512: 2.0}
    cross = crossover("A", same, "B", dict(same))
    assert (cross.length, cross.faster_above) == (None, None)
    assert "equally fast" in cross.message


def test_only_common_lengths_count():
    cross = crossover("A", {256: 1.0, 512: 1.0}, "B", {1024: 1.0})
    assert cross.length is None
    assert "No length was measured for both" in cross.message
