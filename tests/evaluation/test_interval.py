"""The interval of a median holds it as often as it says; others are tested where they are used."""

from __future__ import annotations

import math

import pytest

from diffuapriel.evaluation.interval import median_interval


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)])
def test_the_interval_of_a_median_is_that_of_the_tables(count, low, high):
    values = range(count, 0, -1)  # in any order
    assert median_interval(values) == ((count + 1) / 2, (low, high))


@pytest.mark.parametrize("count", range(6, 60))
def test_the_interval_of_a_median_is_the_narrowest_that_holds_it_in_95_percent(count):
    _, (low, high) = median_interval(range(1, count + 1))
    assert low + high == count + 1
    left_out = [sum(math.comb(count, k) for k in range(int(at))) / 2**count for at in (low, low + 1)]
    assert left_out[0] <= 0.025 < left_out[1]


def test_fewer_than_six_values_give_their_range():
    assert median_interval([5, 1, 2]) == (2, (1, 5))
    assert median_interval([3]) == (3, (3, 3))
