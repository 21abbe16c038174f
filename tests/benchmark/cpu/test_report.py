"""The bench as a whole: its parts, its memory children, its tables and its JSON."""

from __future__ import annotations

import json

import pytest

from diffuapriel.benchmark.cpu import memory, training
from diffuapriel.benchmark.cpu.generation import GenerationResult, measure_generation
from diffuapriel.benchmark.cpu.memory import PeakResult, measure_peak
from diffuapriel.benchmark.cpu.report import format_report
from diffuapriel.benchmark.cpu.run import PARTS, BenchReport, Plan, run_bench
from diffuapriel.benchmark.cpu.training import compare_training
from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.table import table


@pytest.fixture(scope="module")
def entry() -> Entry:
    return Entry.random("nano", "diffuapriel")


def test_a_generation_s_time_is_split_between_denoiser_and_the_rest(entry: Entry) -> None:
    (result,) = measure_generation(entry, length=16, steps=[4], repeats=1)
    assert (result.length, result.steps) == (16, 4)
    assert 0 < result.outside_share < 1
    assert result.seconds > 0


def test_memory_is_read_in_a_process_of_its_own() -> None:
    result = measure_peak("nano", "diffuapriel", 64)
    assert (result.preset, result.architecture, result.length) == ("nano", "diffuapriel", 64)
    assert 10**7 < result.baseline_bytes <= result.peak_bytes


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"diffuapriel huge at 64 tokens failed: .*huge"):
        measure_peak("huge", "diffuapriel", 64)


def test_a_child_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(RuntimeError, match="took over 0 s"):
        measure_peak("nano", "diffuapriel", 64, timeout=0.01)


def test_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="permitted: scan, forward, generation, training, memory"):
        Plan(parts=("speed",))
    with pytest.raises(ValueError, match="repeats is 0"):
        Plan(repeats=0)


def test_quick_measures_the_same_parts() -> None:
    plan = Plan()
    quick = plan.quick()
    assert quick.parts == plan.parts == PARTS
    assert set(quick.forward_lengths) < set(plan.forward_lengths)


def test_the_promised_figures_are_in_the_full_plan() -> None:
    plan = Plan()
    assert plan.forward_lengths[0] == 256 and plan.forward_lengths[-1] == 16_384
    assert ("diffuapriel", memory.TARGET_LENGTH) in plan.memory_runs


def test_a_report_prints_and_survives_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "diffuapriel.benchmark.cpu.run.default_entry", lambda preset: Entry.random(preset, "diffuapriel")
    )
    plan = Plan(
        parts=("forward", "generation"), forward_lengths=(16, 32), forward_repeats=1, generation_steps=(2,)
    )
    heard: list[str] = []
    report = run_bench(plan, heard.append)
    assert len(heard) == 2
    text = format_report(report)
    for expected in ("DiffuTran / DiffuApriel", "outside the denoiser", "16", "32"):
        assert expected in text
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["schema"], values["version"]) == ("diffuapriel-bench", 1)
    assert sorted(point["length"] for point in values["forward"]["points"]) == [16, 16, 32, 32]
    assert values["scan"] is None


def test_a_target_that_is_missed_is_said() -> None:
    report = BenchReport(
        machine="a processor",
        threads=2,
        torch_version="2.13.0",
        python_version="3.11.7",
        preset="nano",
        generation=(GenerationResult("m", 256, 32, 1.0, 0.25), GenerationResult("m", 256, 64, 1.0, 0.05)),
        memory=(PeakResult("nano", "diffuapriel", 65_536, int(3e9), int(3e8)),),
    )
    text = format_report(report)
    assert "must be 10% or less: MISSED" in text
    assert "must stay below 4.0 GB: reached" in text


def test_a_table_is_markdown_that_lines_up() -> None:
    lines = table(["a", "long"], [["wide cell", "1"], ["b", "22"]]).splitlines()
    assert lines == [
        "| a         | long |",
        "| :-------- | ---: |",
        "| wide cell |    1 |",
        "| b         |   22 |",
    ]


def test_our_training_loop_and_a_plain_one_reach_the_same_losses_and_are_compared() -> None:
    """Losses that differ are refused: the two must do the same work."""
    result = compare_training(batch=1, length=128, updates=2, repeats=1)
    assert result.ratio == pytest.approx(result.plain.median_ms / result.ours.median_ms)
    report = BenchReport("a machine", 1, "2.13", "3.12", "nano", training=result)
    assert "speed of ours over the plain loop's" in format_report(report)


def test_loops_that_train_differently_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "noise_seed", lambda seed, step: 7)
    with pytest.raises(RuntimeError, match="the loops do not train the same"):
        compare_training(batch=1, length=128, updates=2, repeats=1)
