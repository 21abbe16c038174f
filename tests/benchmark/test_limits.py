"""Every limit that a report states, on its edge and just past it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diffuapriel.benchmark import memory
from diffuapriel.benchmark.cpu import scan, training
from diffuapriel.benchmark.learning.report import past_best
from diffuapriel.benchmark.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, HYBRID, PURE
from diffuapriel.benchmark.report import (
    BenchReport,
    ForwardRow,
    GenerationRow,
    Machine,
    MemoryRow,
    MixerRow,
    SamplerRow,
    ScanRow,
    TrainingRow,
)
from diffuapriel.benchmark.result import EntryFacts, matched_parameters
from diffuapriel.benchmark.sweep import crossover
from diffuapriel.benchmark.targets import LONGEST, targets

FACTS = EntryFacts(
    name="a",
    architecture="diffuapriel",
    tokenizer="gpt2-4k",
    parameters=1,
    weights="random",
    dtype="float32",
    device="cpu",
    attention="none",
)


def matched(*parameters: int) -> str:
    return matched_parameters([replace(FACTS, name=str(n), parameters=n) for n in parameters])


@pytest.mark.parametrize("smaller", [100, 1_000, 34_567_850, 1_300_000_000])
def test_parameters_are_matched_up_to_exactly_2_percent(smaller):
    most = smaller * 102 // 100
    assert matched(smaller, most).startswith("Parameters matched within 2 %: ")
    assert matched(most, smaller, smaller).startswith("Parameters matched within 2 %: ")
    assert matched(smaller, most + 1).startswith("Parameters are NOT matched: ")
    assert matched(most + 1, smaller, smaller).startswith("Parameters are NOT matched: ")


def test_a_gap_of_parameters_is_shown_so_that_it_does_not_read_as_2_percent():
    assert "1,000 against 1,021, 2.10% apart" in matched(1000, 1021)
    assert "1,000 against 1,050, 5.00% apart" in matched(1000, 1050)
    assert "1,000 against 2,000, 100% apart" in matched(1000, 2000)


def verdict(report: BenchReport, number: int) -> str:
    return targets(report)[number].verdict


CPU = BenchReport(Machine("a machine"), "nano", "float32", "cpu")
GPU = BenchReport(Machine("a card"), "1.3b", "bfloat16")


@pytest.mark.parametrize("peer, expected", [(17.0, "reached"), (16.99, "MISSED")])
def test_our_scan_must_reach_1_7_times_listing_1(peer, expected):
    rows = tuple(ScanRow(name, 1024, 1, (ms,), 1, 1, 1, 0.0) for name, ms in ((scan.OURS, 10.0), (scan.LISTING, peer)))
    assert verdict(replace(CPU, scan=rows), 0) == expected


@pytest.mark.parametrize("hidden, expected", [(90.0, "reached"), (89.9, "MISSED")])
def test_a_tenth_of_a_generation_may_be_outside_the_denoiser(hidden, expected):
    row = SamplerRow("a", 1024, 1, (100.0,), 8, (hidden,))
    assert verdict(replace(CPU, sampler=(row,)), 1) == expected
    ends = (row, replace(row, length=LONGEST, hidden_ms=(100.0,)))
    assert verdict(replace(GPU, sampler=ends), 6) == expected


@pytest.mark.parametrize("plain, expected", [(95.0, "reached"), (94.9, "MISSED")])
def test_the_training_loop_must_reach_0_95_of_a_plain_one(plain, expected):
    rows = tuple(TrainingRow(name, 1024, 1, (ms,)) for name, ms in ((training.OURS, 100.0), (training.PLAIN, plain)))
    assert verdict(replace(CPU, training=rows), 2) == expected


@pytest.mark.parametrize("peak, expected", [(4 * 10**9 - 1, "reached"), (4 * 10**9, "MISSED")])
def test_below_4_gigabytes_is_below(peak, expected):
    row = MemoryRow(PURE, LONGEST, 1, (), peak, 0)
    assert verdict(replace(CPU, memory=(row,)), 3) == expected


@pytest.mark.parametrize("extra, expected", [(0, "reached"), (1, "MISSED")])
def test_no_more_memory_than_diffutran_may_be_as_much(extra, expected):
    rows = (MemoryRow(PURE, LONGEST, 1, (), 1000 + extra, 0), MemoryRow(DIFFUTRAN, LONGEST, 1, (), 1000, 0))
    assert verdict(replace(GPU, memory=rows), 7) == expected


@pytest.mark.parametrize(
    "number, ours, peer, factor",
    [(0, PURE, DIFFUTRAN, 5.5), (1, PURE, DIFFUTRAN_FLASH_2, 8.8), (2, HYBRID, DIFFUTRAN, 3.0)],
)
def test_the_forward_ratios_must_be_reached(number, ours, peer, factor):
    def rows(ms: float) -> tuple[ForwardRow, ...]:
        return tuple(ForwardRow(name, LONGEST, 1, (t,), 1.0, 1, ()) for name, t in ((ours, 10.0), (peer, ms)))

    assert verdict(replace(GPU, forward=rows(10 * factor)), number) == "reached"
    assert verdict(replace(GPU, forward=rows(10 * factor - 0.01)), number) == "MISSED"


@pytest.mark.parametrize("length, counted", [(8192, True), (8191, False)])
def test_the_mixer_s_ratio_must_be_reached_from_8192_tokens_on(length, counted):
    def report(ms: float) -> BenchReport:
        times = (("triton", 10.0), ("mamba_ssm", ms))
        return replace(GPU, mixer=tuple(MixerRow(n, length, 1, (t,), 1.0, False, 0.0) for n, t in times))

    assert verdict(report(18.0), 4) == ("reached" if counted else "not measured")
    assert verdict(report(17.99), 4) == ("MISSED" if counted else "not measured")


@pytest.mark.parametrize("peer, expected", [(13.0, "reached"), (12.99, "MISSED")])
def test_a_training_step_must_reach_1_3_times_the_backend_with_flips(peer, expected):
    rows = tuple(TrainingRow(name, 1024, 1, (ms,)) for name, ms in (("triton", 10.0), ("mamba_ssm", peer)))
    assert verdict(replace(GPU, training=rows), 5) == expected


@pytest.mark.parametrize(
    "length, ms, expected", [(2048, 9.99, "reached"), (2049, 9.99, "MISSED"), (2048, 10.0, "MISSED")]
)
def test_pure_must_be_faster_from_2048_tokens_on_and_a_tie_is_not_faster(length, ms, expected):
    rows = [GenerationRow(name, length, 1, (t,), 8) for name, t in ((PURE, ms), (DIFFUTRAN, 10.0))]
    assert verdict(replace(GPU, generation=tuple(rows)), 3) == expected


def test_a_tie_at_every_length_has_no_winner_and_none_at_one_length_is_a_crossing():
    ties = crossover("a", {256: 1.0, 512: 2.0}, "b", {256: 1.0, 512: 2.0})
    assert ties.length is None and "equally fast" in ties.message
    from_256 = crossover("a", {256: 1.0, 512: 2.0}, "b", {256: 1.0, 512: 2.1})
    assert from_256.length == 256 and from_256.message.startswith("a is faster from about 256 tokens on")


@pytest.mark.parametrize("last, expected", [(2.02, None), (2.0201, 20)])
def test_a_curve_that_ends_within_1_percent_of_its_best_is_not_past_it(last, expected):
    entry: dict[str, Any] = {"runs": [{"curve": {"tokens": [10, 20, 30], "nelbo": [3.0, 2.0, last]}}]}
    assert past_best(entry) == expected


def test_memory_up_to_the_safe_share_is_used_and_not_a_byte_more(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**9)
    most = memory.SAFE_SHARE * 10**9
    assert memory.refusal(most, "cpu", "this") is None
    assert "this needs about" in (memory.refusal(most + 1, "cpu", "this") or "")
