"""What is said about GPU figures: targets reached and missed, tables, the chart, a page that agrees with its JSON."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from diffuapriel import assets
from diffuapriel.benchmark.format import BLOCK, docs_tables, format_report, write_tables
from diffuapriel.benchmark.gpu.chart import LABELS, latency_curves, speed_curves, write_chart
from diffuapriel.benchmark.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, FULL, HYBRID, LENGTHS, PURE
from diffuapriel.benchmark.report import BenchReport, Measured, Problem
from diffuapriel.benchmark.targets import best_diffutran, faster_from, targets
from tests.benchmark.gpu.figures import CARD, SLOWER, figures

ROOT = assets.root().parent
PAGE = ROOT / "docs" / "benchmarks.md"
BLOCKS = ROOT / "assets" / "results" / "gpu-nvidia-h200-blocks.json"


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return figures()


# Targets


def test_every_promise_of_the_table_is_a_target(report):
    found = targets(report)
    assert [target.target for target in found] == [
        "5.5x",
        "8.8x",
        "3.0x",
        "2K or less",
        "1.8x",
        "1.3x",
        "at most 10 %",
        "no more",
    ]
    verdicts = [target.verdict for target in found]
    assert verdicts == ["reached"] * 6 + ["MISSED", "reached"], "a step's launches are a fifth of it at 1K"
    assert found[0].measured.startswith("6.15x (")


def test_what_was_missed_is_said_plainly():
    slow = figures({**SLOWER, PURE: 1.5, HYBRID: 1.5}, others=1.2)
    by_target = {target.target: target.verdict for target in targets(slow)}
    assert by_target["5.5x"] == by_target["8.8x"] == by_target["3.0x"] == "MISSED"
    assert by_target["1.8x"] == by_target["1.3x"] == "MISSED"
    assert by_target["2K or less"] == "MISSED"
    assert format_report(slow).count("MISSED") == 7


def test_what_was_not_measured_is_neither_reached_nor_missed():
    nothing = BenchReport(CARD, "1.3b", "bfloat16")
    assert {target.verdict for target in targets(nothing)} == {"not measured"}
    assert "not measured" in format_report(nothing)


def test_the_strongest_diffutran_is_the_peer(report):
    assert best_diffutran(report, 65_536, 1).entry == DIFFUTRAN
    reverse = figures({**SLOWER, DIFFUTRAN: 3.0})
    assert best_diffutran(reverse, 65_536, 1).entry == DIFFUTRAN_FLASH_2
    assert targets(reverse)[0].measured == targets(reverse)[1].measured


def test_faster_from_means_from_there_on_at_every_length(report):
    assert faster_from(report) == 2048
    ours = report.find("generation", PURE, 8192, 1)
    slow = dataclasses.replace(ours, ms=tuple(10 * ms for ms in ours.ms))
    assert faster_from(report.with_rows("generation", [slow])) == 16_384
    lost = [dataclasses.replace(r, ms=(1e6,) * 3) for r in report.generation if r.entry == PURE]
    never = report.with_rows("generation", lost)
    assert faster_from(never) is None
    assert targets(never)[3].measured == "not up to 65,536"


def test_the_mixer_counts_from_8k_on_and_by_its_worst_shape(report):
    row = report.find("mixer", "mamba_ssm", 32_768, 2)
    worse = report.with_rows("mixer", [dataclasses.replace(row, ms=tuple(0.8 * ms for ms in row.ms))])
    (target,) = [target for target in targets(worse) if "mixer" in target.what]
    assert target.measured.startswith("1.60x")
    assert "at 2 x 32,768, the least of all shapes" in target.measured
    row = report.find("mixer", "mamba_ssm", 4096, 1)
    short = report.with_rows("mixer", [dataclasses.replace(row, ms=tuple(0.1 * ms for ms in row.ms))])
    assert targets(short)[4].met


# The report


def test_the_report_names_peers_peaks_kernels_and_rooflines(report):
    text = format_report(report)
    for part in (
        "NVIDIA H200, PyTorch 2.11.0, Triton 3.6.0",
        "790 TFLOP/s",
        "4.30 TB/s",
        "pure, over best",
        "pure, over FA2",
        "triton scan",
        "mamba_ssm / triton",
        "(67%)",
        "Not compiled: mamba_ssm.",
        "forward 200 s",
        "6.0 GB",
    ):
        assert part in text, part
    assert "NOT" not in text.replace("NOT RUN", "")


def test_problems_are_gathered_by_reason(report):
    problems = [Problem("mixer", n, 1, "mamba_ssm", "no nvcc", gradient=True) for n in (1024, 2048)]
    text = format_report(dataclasses.replace(report, problems=tuple(problems)))
    assert "NOT RUN\nmixer, backward, mamba_ssm, at 1 x 1,024, 1 x 2,048: no nvcc" in text


def test_figures_of_different_code_are_marked(report):
    mixed = {**report.measured, "sampler": Measured(5.0, "b" * 12)}
    assert "NOT all with the same code" in format_report(dataclasses.replace(report, measured=mixed))


# The chart


def test_the_curves_hold_every_length_and_the_bound(report):
    names = [LABELS[name] for name in (PURE, HYBRID, DIFFUTRAN, DIFFUTRAN_FLASH_2)]
    assert [curve.name for curve in latency_curves(report)] == names
    measured, bound = speed_curves(report)[:2]
    assert measured.x == bound.x == LENGTHS
    assert all(y < most for y, most in zip(measured.y, bound.y))
    assert (measured.dash, bound.dash) == ("solid", "dot") and (measured.markers, bound.markers) == (
        True,
        False,
    )


def test_a_chart_is_one_offline_file(report, tmp_path):
    pytest.importorskip("plotly")
    write_chart(report, tmp_path / "new" / "chart.html")
    page = (tmp_path / "new" / "chart.html").read_text(encoding="utf-8")
    assert "DiffuApriel-H, roofline" in page
    assert not re.findall(r'<script[^>]+src="', page)


def test_a_chart_is_a_picture_too(report, tmp_path):
    pytest.importorskip("matplotlib")
    write_chart(report, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_another_kind_or_of_nothing_is_refused(report, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.html or \.png"):
        write_chart(report, tmp_path / "chart.svg")
    with pytest.raises(ValueError, match="nothing to draw"):
        write_chart(BenchReport(CARD, "1.3b", "bfloat16"), tmp_path / "chart.png")


# The page


def written(page) -> list[tuple[str | None, str]]:
    """(source, text) of the page's places for tables; source None while nothing has been measured."""
    return [(found["source"], found["text"]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def test_the_page_s_gpu_tables_are_those_of_its_files():
    places = written(PAGE)
    assert [source for source, _ in places] == ["assets/results/gpu-nvidia-h200.json", str(BLOCKS.relative_to(ROOT))]
    for source, text in places:
        assert text == docs_tables(BenchReport.load(ROOT / str(source))), (
            f"GPU tables of docs/benchmarks.md differ from {source}: diffuapriel bench --gpu --from {source} --docs"
        )


def test_what_the_page_says_of_the_cuda_scan_is_in_its_figures():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    report = BenchReport.load(ROOT / "assets" / "results" / "gpu-nvidia-h200.json")
    pure, hybrid = (report.find("forward", name, 65_536, 1) for name in (PURE, HYBRID))
    assert "CUDA scan" in pure.kernels and "triton scan" in hybrid.kernels
    assert f"DiffuApriel's forward pass reaches {100 * pure.roofline_share:.0f} % of its roofline" in text
    report = BenchReport.load(ROOT / "assets" / "results" / "gpu-nvidia-h200-mixer.json")
    one, many = ([report.find("mixer", name, 1024, n) for name in ("triton", "mamba_ssm")] for n in (1, 64))
    assert f"takes {one[0].median_ms:.3f} ms at 1 x 1,024 and {many[0].median_ms:.2f} ms at 64 x 1,024, and" in text
    ratios = " and ".join(f"{ours.over(theirs).median:.2f}x" for ours, theirs in (one, many))
    assert f"take {one[1].median_ms:.3f} and {many[1].median_ms:.2f} ms: {ratios} (" in text


def test_what_the_pages_say_of_models_of_blocks_is_in_the_figures():
    report = BenchReport.load(BLOCKS)
    benchmarks, blocks = (" ".join((ROOT / "docs" / name).read_text().split()) for name in (PAGE.name, "blocks.md"))
    three = (PURE, HYBRID, DIFFUTRAN)
    at = {n: [report.find("block_passes", name, n, 1) for name in three] for n in (65_536, 262_144)}
    near, far = ([row.over(rows[2]).median for row in rows[:2]] for rows in at.values())
    assert f"{near[0]:.2f}x and the hybrid's {near[1]:.2f}x as fast as DiffuTran's, after 262,144" in benchmarks
    assert f"tokens {far[0]:.2f}x and {far[1]:.2f}x." in benchmarks
    cached = [row for row in report.block_passes if row.entry in three]
    shares = {b: sorted(row.roofline_share for row in cached if row.batch == b) for b in (1, 16)}
    one, sixteen = (f"{100 * found[0]:.0f} to {100 * found[-1]:.0f} %" for found in shares.values())
    assert f"With one text a pass reaches {one} of its roofline, with sixteen {sixteen}." in benchmarks
    ends = [report.find("block_passes", PURE, n, 1).median_ms for n in (1024, 262_144)]
    assert f"1,024 and after 262,144 tokens differ by {100 * (ends[1] / ends[0] - 1):.1f} %" in benchmarks
    between = max(report.find("block_passes", PURE, n, 1).median_ms for n in (4096, 16_384, 65_536))
    assert f"took up to {100 * (between / ends[0] - 1):.0f} % more" in benchmarks
    for length, sentence in {
        65_536: "A text of {:,} tokens takes DiffuApriel",
        262_144: "A text of {:,} tokens takes",
    }.items():
        whole = [report.find("block_generations", name, length, 1) for name in three]
        seconds = [f"{row.median_ms / 1000:.1f} s" for row in whole]
        names = ("", "the hybrid ", "DiffuTran ") if length == 65_536 else ("", "", "")
        said = f"{seconds[0]}, {names[1]}{seconds[1]} and {names[2]}{seconds[2]}"
        ratios = " and ".join(f"{row.over(whole[2]).median:.2f}x" for row in whole[:2])
        assert f"{sentence.format(length)} {said}: {ratios}." in benchmarks
    full = {row: report.find("block_passes", row.entry + FULL, row.length, 1) for row in report.block_generations}
    calls = {row: row.steps * row.block_length // row.length for row in full}
    assert all(calls[row] * whole.median_ms < row.median_ms for row, whole in full.items() if whole), "at every length"
    ratios = sorted(row.steps * full[row].median_ms / row.median_ms for row in full if row.length == 65_536)
    assert f"together take {ratios[0]:.0f}x to {ratios[-1]:.0f}x as long at 65,536 tokens" in benchmarks
    ms = [f"{row.median_ms:.2f} ms" for row in at[65_536]]
    said = f"{ms[0]} (DiffuApriel), {ms[1]} (DiffuApriel-H) and {ms[2]} (DiffuTran)"
    assert f"after 65,536 tokens a pass takes {said} |" in blocks


def test_targets_and_misses_are_not_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert "MISSED" not in text and "reached" not in text


SAVED = sorted((ROOT / "assets" / "results").glob("gpu-*.json"))


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_saved_figures_load_and_survive_json(file):
    report = BenchReport.load(file)
    assert report.device == "gpu" and report.peaks is not None
    assert BenchReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_figures_of_version_1_have_their_present_names(file):
    """Version 1 called entries racers, peaks ceilings, the roofline bound or floor, and mamba_ssm official."""
    values = json.loads(file.read_text(encoding="utf-8"))
    if values["version"] != 1:
        pytest.skip("written with the present names")
    report = BenchReport.load(file)
    assert report.peaks.flops_rounds == tuple(values["ceilings"]["matrix_rates"])
    for part in ("forward", "mixer"):
        rows = getattr(report, part)
        assert [row.roofline_ms for row in rows] == [r.get("bound_ms", r.get("floor_ms")) for r in values[part]]
    old = [row["racer"] for row in values["mixer"]]
    assert [row.entry for row in report.mixer] == [name.replace("official", "mamba_ssm") for name in old]
    assert set(report.measured) == {"peaks" if p == "ceilings" else p for p in values["measured"]}


def test_tables_are_written_between_the_comments_and_nowhere_else(report, tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- GPU tables -->\nnothing yet\n<!-- end of the GPU tables -->\nafter\n")
    assert written(page) == [(None, "nothing yet\n")]
    for _ in range(2):  # the second time over its own tables
        write_tables(page, report, "assets/results/gpu.json")
        assert written(page) == [("assets/results/gpu.json", docs_tables(report))]
    text = page.read_text()
    assert text.startswith("before\n<!-- GPU tables of assets/results/gpu.json -->\nNVIDIA H200")
    assert text.endswith("<!-- end of the GPU tables -->\nafter\n")


def test_a_changed_figure_no_longer_agrees(report, tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("<!-- GPU tables -->\n<!-- end of the GPU tables -->")
    write_tables(page, report, "gpu.json")
    row = report.find("forward", PURE, 1024, 1)
    other = report.with_rows("forward", [dataclasses.replace(row, ms=(1.0, 1.0, 1.0))])
    assert written(page)[0][1] != docs_tables(other)


def test_a_page_has_a_place_for_each_source(report, tmp_path):
    page, places = tmp_path / "benchmarks.md", "<!-- GPU tables of a.json -->\nold\n<!-- end of the GPU tables -->\n"
    page.write_text(places + "between\n" + places.replace(" of a.json", ""))
    write_tables(page, report, "b.json")
    assert written(page) == [("a.json", "old\n"), ("b.json", docs_tables(report))]
    assert "\nbetween\n" in page.read_text()
    with pytest.raises(ValueError, match=r"has 0 places for GPU tables of c\.json"):
        write_tables(page, report, "c.json")


def test_a_page_without_a_place_is_refused(report, tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has 0 places for GPU tables"):
        write_tables(page, report, "gpu.json")
