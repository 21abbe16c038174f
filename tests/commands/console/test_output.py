"""What a command writes: refused before work begins where it cannot be written, and never lost at the end."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffuapriel import cli
from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.commands import race, sample
from diffuapriel.commands.console.output import output_file, output_folder, write_figures
from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.trace.trace import Trace

OUTPUTS = [  # every option that names what is written
    ("race", "--json"),
    ("bench", "--json"),
    ("bench", "--chart"),
    ("sample", "--trace"),
    ("tokenize", "--out"),
    ("tasks", "--out"),
    ("train", "--out"),
    ("train", "--run-folder"),
    ("compare", "--out"),
    ("compare", "--folder"),
    ("tune", "--out"),
    ("export", "--onnx"),
    ("export", "--page"),
]
FILES = [
    (command, option) for command, option in OUTPUTS if option in ("--json", "--chart", "--trace", "--onnx", "--page")
]


def actions() -> Iterator[tuple[str, argparse.Action]]:
    parser = cli.build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        yield from ((name, action) for action in command._actions)


def test_every_option_that_names_an_output_is_checked_when_it_is_parsed() -> None:
    found = {(name, action.option_strings[0]): action.type for name, action in actions() if action.type}
    checked = {option for option, type in found.items() if type in (output_file, output_folder)}
    assert checked == set(OUTPUTS)
    unchecked = {option for option, type in found.items() if type is Path}
    assert unchecked == {("bench", "--from"), ("export", "--runtime")}, "inputs"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    words = [*argv, *(["tales:1"] if argv[0] in ("tokenize", "tasks", "export") else [])]
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 600
    return err


@pytest.fixture
def no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and commands that must not run."""
    monkeypatch.chdir(tmp_path)
    for command in cli.COMMANDS.values():
        monkeypatch.setattr(command, "run", None)
    return tmp_path


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
def test_what_cannot_be_written_is_refused_before_work_begins(capsys, no_work, command, option) -> None:
    (no_work / "file").write_text("mine")
    assert "file is not a folder" in refused(capsys, command, option, "file/x/y.json")
    assert "File name too long" in refused(capsys, command, option, "x" * 5000)
    assert [path.name for path in no_work.iterdir()] == ["file"], "nothing is left behind"


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
def test_a_file_is_no_folder_and_a_folder_no_file(capsys, no_work, command, option) -> None:
    (no_work / "folder").mkdir()
    (no_work / "file").write_text("mine")
    name, what = ("folder", "a folder") if (command, option) in FILES else ("file", "a file")
    assert f"{name} is {what}" in refused(capsys, command, option, name)


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
def test_a_folder_without_permission_is_refused(capsys, no_work, command, option, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert f"{no_work} cannot be written" in refused(capsys, command, option, "new/x.json")


@pytest.mark.parametrize(
    "argv",
    [
        *([command, option, "caf\udce9"] for command, option in OUTPUTS),
        ["train", "--corpus", "caf\udce9.txt"],
        ["evaluate", "caf\udce9"],
        ["sample", "caf\udce9 [MASK]"],
        ["race", "caf\udce9"],
        ["harness", "caf\udce9"],
        ["tokenize", "caf\udce9", "--out", "x"],
        ["bench", "--from", "caf\udce9"],
    ],
    ids=str,
)
def test_an_argument_that_is_not_utf_8_is_refused_before_work_begins(capsys, no_work, argv) -> None:
    assert "an argument is 'caf\\udce9" in refused(capsys, *argv)


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    file = output_file(str(tmp_path / "a" / "b.json"))
    assert not file.parent.exists()
    write_figures(file, {"seconds": 1.5})
    assert json.loads(file.read_text()) == {"seconds": 1.5}


def test_figures_that_cannot_be_written_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").mkdir()  # after the path was checked
    with pytest.raises(OSError):
        write_figures(tmp_path / "x.json", {"seconds": 1.5})
    assert json.loads(capsys.readouterr().out) == {"seconds": 1.5}


def full(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_race_whose_figures_cannot_be_written_prints_them(capsys, tmp_path, monkeypatch) -> None:
    event = SimpleNamespace(fraction=1.0, phase="", entry="", result=SimpleNamespace(to_dict=lambda: {"seconds": 1.5}))
    monkeypatch.setattr(race, "open_entry", lambda *_: SimpleNamespace(tuned=lambda dtype: None))
    monkeypatch.setattr(race, "format_race", lambda result: "the table")
    monkeypatch.setattr("diffuapriel.benchmark.generation.race_events", lambda *_, **__: [event])
    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(["race", "--json", str(tmp_path / "race.json")]) == 1
    out, err = capsys.readouterr()
    assert out == 'the table\n{"seconds": 1.5}\n' and err == "diffuapriel: error: [Errno 28] No space left on device\n"


def test_a_benchmark_whose_figures_cannot_be_written_prints_them(capsys, tmp_path, monkeypatch) -> None:
    report = SimpleNamespace(to_dict=lambda: {"seconds": 1.5}, save=full)
    monkeypatch.setattr("diffuapriel.benchmark.run.run_bench", lambda *_, keep, **__: keep(report))
    assert cli.main(["bench", "scan", "--json", str(tmp_path / "bench.json")]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"seconds": 1.5} and err.endswith("No space left on device\n")


def test_a_comparison_whose_report_cannot_be_written_prints_it(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffuapriel.benchmark.learning.study.run_study", lambda *_: {"seconds": 1.5})
    monkeypatch.setattr("diffuapriel.benchmark.learning.report.write_report", full)
    assert cli.main(["compare"]) == 1
    assert json.loads(capsys.readouterr().out) == {"seconds": 1.5}


def test_a_chart_s_ending_is_looked_at_before_anything_is_measured(capsys, tmp_path) -> None:
    assert cli.main(["bench", "--gpu", "--chart", str(tmp_path / "x.gif")]) == 1
    assert "x.gif: the name must end in .html or .png" in capsys.readouterr().err


# What the terminal cannot show


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    shape = {"d_model": 16, "depth": 1, "d_state": 4, "headdim": 8, "attention_headdim": 8, "cond_dim": 8}
    folder = tmp_path_factory.mktemp("model") / "small"
    save_checkpoint(
        folder, Denoiser(ModelConfig("diffuapriel", vocab_size=4098, tokenizer="gpt2-4k", **shape)), card=""
    )
    return str(folder)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("cp1252", "Ærø \\u4e2d"), ("ascii", "\\xc6r\\xf8 \\u4e2d"), ("utf-8", "Ærø 中")],
)
def test_a_pipe_s_encoding_costs_neither_text_nor_trace(model, encoding, shown, tmp_path, monkeypatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding=encoding))
    argv = ["sample", "Ærø 中", "--checkpoint", model, "--steps", "1", "--trace", str(tmp_path / "t.json")]
    assert cli.main(argv) == 0
    assert pipe.getvalue().decode(encoding) == shown + "\n"
    assert Trace.from_json((tmp_path / "t.json").read_bytes()).text == "Ærø 中"


def test_the_trace_is_written_though_nobody_reads_the_text(model, tmp_path, monkeypatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        argv = ["sample", "Mia", "--checkpoint", model, "--steps", "1", "--trace", str(tmp_path / "t.json")]
        assert cli.main(argv) == 1
    assert Trace.from_json((tmp_path / "t.json").read_bytes()).text == "Mia"


def test_the_text_is_printed_though_its_trace_cannot_be_written(model, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sample, "save_trace", full)
    argv = ["sample", "Mia", "--checkpoint", model, "--steps", "1", "--trace", str(tmp_path / "t.json")]
    assert cli.main(argv) == 1
    assert capsys.readouterr() == ("Mia\n", "diffuapriel: error: [Errno 28] No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    code = (
        "import sys; from diffuapriel import cli; cli.COMMANDS['params'].run = lambda args: print('a table') or 0;"
        "sys.exit(cli.main(['params']))"
    )
    with open("/dev/full", "w") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "diffuapriel: error: [Errno 28] No space left on device\n")
