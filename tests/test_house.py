"""Targets, pins, sizes, and a README that tells the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffuapriel

ROOT = Path(diffuapriel.__file__).resolve().parent.parent
README = ROOT / "README.md"
MOST_ASSET_BYTES = 16_000_000


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAKEFLAGS": ""}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )


# The Makefile and the requirements


@pytest.mark.parametrize(
    "target", ["demo", "test", "lab", "bench", "gpu", "lint", "lessons", "lessons-html", "notebooks", "help"]
)
def test_every_promised_target_is_there(target: str) -> None:
    dry = make("-n", target)
    assert dry.returncode == 0, dry.stderr


def test_from_an_empty_clone_torch_is_installed_first_and_alone() -> None:
    lines = make("-n", "-B", "demo").stdout.splitlines()
    steps = [line for line in lines if "-m venv" in line or "pip install" in line or "app/main.py" in line]
    torch_pin = re.search(r"^torch==\S+$", (ROOT / "requirements.txt").read_text(), re.M)
    assert torch_pin
    wanted = [
        "-m venv",
        f"pip install --no-compile {torch_pin.group()}",
        "pip install --no-compile -r requirements.txt",
        "--no-deps -e .",
    ]
    assert len(steps) == len(wanted) + 1
    for step, part in zip(steps, [*wanted, "app/main.py"], strict=True):
        assert part in step


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = "-V" ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    made = subprocess.run(
        ["make", "-f", ROOT / "Makefile", f"PYTHON={old}", ".venv/.installed"], cwd=_copy(tmp_path), **_TEXT
    )
    assert made.returncode == 2
    assert "Python 3.9.2; Python 3.11 or newer is needed" in made.stderr.splitlines()[0]


_TEXT = {"capture_output": True, "text": True}


def _copy(folder: Path) -> Path:
    """A folder that holds what the Makefile reads, so that no real .venv is touched."""
    for name in ("requirements.txt", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def test_torch_is_pinned_and_the_pin_is_in_the_tested_range() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "torch==2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.11,<2.16" in project["dependencies"]
    assert project["requires-python"] == ">=3.11"


def test_the_extras_ask_for_nothing_that_requirements_leave_out() -> None:
    files = ("requirements.txt", "requirements-eval.txt")
    installed = {line.strip() for file in files for line in (ROOT / file).read_text().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {need for needs in project["optional-dependencies"].values() for need in needs}
    assert asked <= installed


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest
    assert project["version"] == diffuapriel.__version__ == newest.group(1)


def test_the_ci_script_is_executable_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


# What is shipped and what is promised


def test_no_asset_is_larger_than_16_mb() -> None:
    for path in (ROOT / "assets").rglob("*"):
        assert not path.is_file() or path.stat().st_size <= MOST_ASSET_BYTES, relative(path)


def test_the_license_covers_the_rank_table() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License")
    assert "assets/gpt2.tiktoken" in text and "Copyright (c) 2019 OpenAI" in text
