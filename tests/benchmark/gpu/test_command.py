"""`diffuapriel bench --gpu` from the command line: figures from a file, refusals, and where things are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffuapriel import assets, cli
from diffuapriel.benchmark import run as bench
from diffuapriel.benchmark.report import BenchReport
from tests.benchmark.gpu.figures import figures


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def call(*argv: object) -> tuple[int, str, str]:
        return (cli.main(["bench", "--gpu", *map(str, argv)]), *capsys.readouterr())

    return call


@pytest.fixture
def kept(tmp_path) -> Path:
    figures().save(tmp_path / "gpu.json")
    return tmp_path / "gpu.json"


def test_without_a_gpu_it_is_one_line_and_exit_code_1(run, tmp_path):
    code, out, err = run("--json", tmp_path / "gpu.json")
    assert (code, out) == (1, "")
    assert err.startswith("diffuapriel: error: no NVIDIA GPU answers here") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_figures_from_a_file_are_shown_and_drawn(run, kept):
    code, out, err = run("--from", kept, "--chart", kept.with_suffix(".png"))
    assert (code, err) == (0, "")
    assert "Targets" in out and "6.15x" in out
    assert kept.with_suffix(".png").is_file()


@pytest.mark.parametrize("option", ["--docs", "--readme"])  # the second is the older spelling
def test_the_page_is_written_from_a_file_of_the_repository(run, kept, tmp_path, monkeypatch, option):
    monkeypatch.setattr(assets, "root", lambda: tmp_path / "assets")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "benchmarks.md"
    page.write_text("<!-- GPU tables -->\n<!-- end of the GPU tables -->\n")
    assert run("--from", kept, option)[0] == 0
    assert page.read_text().startswith("<!-- GPU tables of gpu.json -->")
    monkeypatch.setattr(assets, "root", lambda: tmp_path / "elsewhere" / "assets")
    code, _, err = run("--from", kept, option)
    assert code == 1 and "the GPU tables come from a file in the repository" in err


def test_what_is_measured_goes_on_from_what_is_kept_and_is_kept_itself(run, kept, monkeypatch, tmp_path):
    asked = {}

    def measure(plan, device, known, *, keep, say):
        asked.update(plan=plan, device=device, known=known)
        keep(known)
        return known

    monkeypatch.setattr(bench, "require_gpu", lambda: None)
    monkeypatch.setattr(bench, "run_bench", measure)
    before = kept.stat().st_mtime_ns
    code, out, _ = run("forward", "mixer", "--lengths", "1024,65536", "--repeats", "5", "--json", kept)
    assert code == 0 and "Targets" in out
    plan = asked["plan"]
    assert (plan.parts, plan.lengths, plan.repeats) == (("forward", "mixer"), (1024, 65_536), 5)
    assert (asked["device"], asked["known"]) == ("cuda", figures())
    assert BenchReport.load(kept) == figures() and kept.stat().st_mtime_ns > before

    monkeypatch.setattr(assets, "root", lambda: tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(bench, "run_bench", lambda *_, keep, say: keep(figures()) or figures())
    assert run("ceilings", "--save")[0] == 0
    assert (tmp_path / "results" / "gpu-nvidia-h200.json").is_file()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--gpu", "scan"], "permitted with --gpu: peaks, forward"),
        (["--gpu", "--lengths", "0"], "lengths are (0,)"),
        (["--gpu", "forward", "--from", "gpu.json"], "--from shows figures and measures nothing"),
        (["--gpu", "--from", "nowhere.json"], "nowhere.json is missing"),
        (["--lengths", "1024"], "--lengths goes with --gpu"),
        (["--from", "gpu.json"], "--from goes with --gpu"),
        (["--docs"], "--docs goes with --gpu"),
        (["--readme"], "--docs goes with --gpu"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(capsys, argv, said):
    assert cli.main(["bench", *argv]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
