"""Entries are timed in turn, the order is reversed in each round, and ratios are taken round by round."""

from __future__ import annotations

import pytest

from diffuapriel.benchmark.timing import Spread, paired_ratio, time_interleaved


def test_rounds_reverse_and_end_when_the_time_is_over():
    calls: list[str] = []
    entries = {name: lambda name=name: calls.append(name) for name in "ABC"}
    found = time_interleaved(entries, repeats=4, seconds=1e9)
    assert "".join(calls) == "ABCCBAABCCBA"
    assert all(len(ms) == 4 for ms in found.values())
    assert len(time_interleaved(entries, repeats=50, seconds=0)["A"]) == 3, "three rounds are the least"
    assert time_interleaved({}, repeats=1, seconds=1) == {}
    with pytest.raises(ValueError, match="repeats is 0"):
        time_interleaved(entries, repeats=0, seconds=1)


def test_a_ratio_is_taken_round_by_round():
    assert paired_ratio([1.0, 2.0, 4.0], [3.0, 4.0, 20.0]) == (3.0, 2.0, 5.0)


def test_a_spread_says_its_figures() -> None:
    spread = Spread.of([6.45, 6.38, 6.41])
    assert spread == (6.41, 6.38, 6.45)
    assert spread.text("x") == "6.41x (6.38 to 6.45)"
