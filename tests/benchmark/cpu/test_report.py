"""The bench as a whole: its parts, its memory children, its tables and its JSON."""

from __future__ import annotations

import json

import pytest

from diffuapriel.benchmark import run
from diffuapriel.benchmark.cpu import training
from diffuapriel.benchmark.cpu.blocks import compare_passes
from diffuapriel.benchmark.cpu.memory import measure_peak
from diffuapriel.benchmark.cpu.training import compare_training
from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.format import format_report, table
from diffuapriel.benchmark.plan import PARTS, BenchPlan
from diffuapriel.benchmark.report import BenchReport, Machine, MemoryRow, SamplerRow
from diffuapriel.benchmark.run import run_bench, time_generations
from diffuapriel.benchmark.targets import LONGEST, targets


@pytest.fixture(scope="module")
def entry() -> Entry:
    return Entry.random("nano", "diffuapriel")


def test_a_generation_s_time_is_split_between_denoiser_and_the_rest(entry: Entry) -> None:
    (result,) = time_generations(entry, length=16, steps=[4], repeats=1)
    assert (result.length, result.steps) == (16, 4)
    assert 0 < result.outside_share < 1
    assert result.median_ms > 0


def test_memory_is_read_in_a_process_of_its_own() -> None:
    result = measure_peak("nano", "diffuapriel", 64)
    assert (result.entry, result.length, result.batch) == ("diffuapriel", 64, 1)
    assert 10**7 < result.baseline_bytes <= result.peak_bytes


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"diffuapriel huge at 64 tokens failed: .*huge"):
        measure_peak("huge", "diffuapriel", 64)


def test_a_child_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(RuntimeError, match="took over 0 s"):
        measure_peak("nano", "diffuapriel", 64, timeout=0.01)


def test_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="permitted: scan, forward, generation, training, blocks, memory"):
        BenchPlan.on("cpu", parts=("speed",))
    with pytest.raises(ValueError, match="repeats is 0"):
        BenchPlan.on("cpu", repeats=0)


def test_quick_measures_the_same_parts() -> None:
    plan = BenchPlan.on("cpu")
    quick = plan.quick()
    assert quick.parts == plan.parts == PARTS["cpu"]
    assert set(quick.lengths) < set(plan.lengths)


def test_the_promised_figures_are_in_the_full_plan() -> None:
    plan = BenchPlan.on("cpu")
    assert plan.lengths[0] == 256 and plan.lengths[-1] == 16_384
    assert ("diffuapriel", LONGEST) in plan.memory_runs


def test_a_report_prints_and_survives_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "default_entry", lambda preset: Entry.random(preset, "diffuapriel"))
    plan = BenchPlan.on(
        "cpu", parts=("forward", "generation"), lengths=(16, 32), forward_repeats=1, generation_steps=(2,)
    )
    heard: list[str] = []
    report = run_bench(plan, say=heard.append)
    assert len(heard) == 2
    text = format_report(report)
    for expected in ("DiffuTran / DiffuApriel", "outside the denoiser", "16", "32"):
        assert expected in text
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["schema"], values["version"]) == ("diffuapriel-bench", 2)
    assert sorted(point["length"] for point in values["sweep"]["points"]) == [16, 16, 32, 32]
    assert values["scan"] == []
    assert BenchReport.from_dict(values) == report


def report_of(**rows: tuple) -> BenchReport:
    machine = Machine("a processor", torch="2.13.0", python="3.11.7", threads=2)
    return BenchReport(machine, "nano", "float32", "cpu", **rows)


def test_a_target_that_is_missed_is_said() -> None:
    report = report_of(
        sampler=(SamplerRow("m", 256, 1, (1.0,), 32, (0.75,)), SamplerRow("m", 256, 1, (1.0,), 64, (0.95,))),
        memory=(MemoryRow("diffuapriel", 65_536, 1, (), int(3e9), int(3e8)),),
    )
    outside, memory = targets(report)[1], targets(report)[3]
    assert (outside.target, outside.verdict) == ("at most 10 %", "MISSED")
    assert (memory.target, memory.measured, memory.verdict) == ("below 4.0 GB", "3.0 GB", "reached")
    text = format_report(report)
    assert text.startswith("a processor, 2 threads, PyTorch 2.13.0, Python 3.11.7, float32")
    assert text.count("MISSED") == text.count("reached") == 1


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
    result = compare_training(batch=3, length=128, updates=2, repeats=1)
    ours, plain = result
    assert ours.over(plain).median == pytest.approx(plain.median_ms / ours.median_ms)
    assert "a plain loop's time over that of train()" in format_report(report_of(training=(ours, plain)))


def test_folded_passes_are_compared_with_the_plain_one_of_their_architecture() -> None:
    rows = compare_passes("diffutran", batch=1, length=64, repeats=1)
    assert [row.entry for row in rows] == [
        f"diffutran nano, {name}" for name in ("plain", "S = 1", "S = 4", "S = 16", "S = 64")
    ]
    shown = format_report(report_of(blocks=tuple(rows)))
    assert "Training in blocks of S tokens" in shown and shown.count("| diffutran nano, S = ") == 4


def test_loops_that_train_differently_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "noise_seed", lambda seed, step: 7)
    with pytest.raises(RuntimeError, match="the loops do not train the same"):
        compare_training(batch=1, length=128, updates=2, repeats=1)
