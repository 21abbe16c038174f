"""Ways into a lesson without an installation: its first cell, its badges, and what Binder runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.notebooks.test_lessons import NOTEBOOKS, ROOT, build, each_lesson, load

ADDRESS = "https://github.com/somebody/a-course"
bootstrap = load("bootstrap")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a first cell runs, on a Python without the package; none of them is run."""
    ran: list[list[str]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(list(command)))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return ran


def run_cell(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(bootstrap.cell(address).source, {})


@each_lesson
def test_the_first_cell_installs_and_is_folded_away(source: Path, version: str) -> None:
    first = next(cell for cell in build.make_notebook(source, version).cells if cell.cell_type == "code")
    assert first.source == bootstrap.cell(bootstrap.repository()).source
    assert first.metadata["jupyter"] == {"source_hidden": True} and first.metadata["cellView"] == "form"


def test_the_cell_does_nothing_where_the_package_is(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it ran a command"))
    run_cell(tmp_path, ADDRESS, monkeypatch)
    assert capsys.readouterr().out == ""


def test_in_a_clone_the_cell_installs_the_clone(tmp_path, commands, monkeypatch) -> None:
    folder = tmp_path / "notebooks" / "solutions"
    folder.mkdir(parents=True)
    (tmp_path / "diffuapriel").mkdir()
    (tmp_path / "diffuapriel" / "__init__.py").touch()
    run_cell(folder, "", monkeypatch)
    ((python, *rest),) = commands
    assert python == sys.executable and rest[:2] == ["-m", "pip"]
    assert rest[rest.index("-e") + 1] == str(tmp_path) == sys.path[0]
    assert set(bootstrap.PACKAGES) <= set(rest)


def test_elsewhere_the_cell_clones_the_repository_first(tmp_path, commands, monkeypatch) -> None:
    run_cell(tmp_path, ADDRESS, monkeypatch)
    cloned, installed = commands
    assert cloned[:2] == ["git", "clone"] and cloned[-2:] == [ADDRESS, str(tmp_path / "project")]
    assert str(tmp_path / "project") in installed


def test_elsewhere_without_an_address_the_cell_says_what_to_do(tmp_path, commands, monkeypatch) -> None:
    with pytest.raises(AssertionError, match="Clone the project"):
        run_cell(tmp_path, "", monkeypatch)
    assert not commands


def test_the_cell_installs_what_the_lessons_import() -> None:
    extras = {re.split(r"[^\w-]", line)[0] for line in PROJECT["optional-dependencies"]["notebooks"]}
    assert set(bootstrap.PACKAGES) <= extras
    core = {re.split(r"[^\w-]", line)[0] for line in PROJECT["dependencies"]}
    known = {*bootstrap.PACKAGES, *core, *sys.stdlib_module_names, "diffuapriel", "IPython"}
    for source in build.sources():
        tree = ast.parse(re.sub(r"^%.*$", "", source.read_text(encoding="utf-8"), flags=re.M))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert {name.partition(".")[0] for name in names} <= known, (source.stem, names)


@each_lesson
def test_a_head_has_badges_that_open_this_very_notebook(source: Path, version: str) -> None:
    head = build.make_notebook(source, version, address=ADDRESS).cells[0].source
    links = dict(re.findall(r"\[(Colab|Binder|GitHub)\]\(([^)]+)\)", head))
    path = build.target(source, version).relative_to(ROOT).as_posix()
    assert links == {
        "Colab": f"https://colab.research.google.com/github/somebody/a-course/blob/HEAD/{path}",
        "Binder": f"https://mybinder.org/v2/gh/somebody/a-course/HEAD?urlpath=lab/tree/{path}",
        "GitHub": f"{ADDRESS}/blob/HEAD/{path}",
    }
    assert build.measured(source.stem) in head


def test_without_an_address_there_are_no_badges() -> None:
    assert bootstrap.badges("", "notebooks/00_start_here.ipynb") == ""


def test_the_address_is_written_and_read_and_written_over(tmp_path) -> None:
    project = tmp_path / "pyproject.toml"
    shutil.copy(ROOT / "pyproject.toml", project)
    for address in (ADDRESS, f"{ADDRESS}-2.git/"):
        bootstrap.write_repository(address, project)
    assert bootstrap.repository(project) == f"{ADDRESS}-2"
    written = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    assert written.pop("urls") == {"Repository": f"{ADDRESS}-2"}
    assert written == {name: value for name, value in PROJECT.items() if name != "urls"}


def test_another_kind_of_address_is_refused_before_anything_is_written() -> None:
    before = (ROOT / "pyproject.toml").read_bytes()
    command = [sys.executable, str(NOTEBOOKS / "build.py"), "--repository", "ftp://example.org/course"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "'ftp://example.org/course'" in refused.stderr
    assert "https://github.com/OWNER/NAME" in refused.stderr
    assert (ROOT / "pyproject.toml").read_bytes() == before


def test_pages_that_a_workflow_publishes_have_the_badges_of_its_repository(monkeypatch) -> None:
    export = load("export")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert export.workflow_repository() == ""
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/a-course")
    assert export.workflow_repository() == ADDRESS


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_binder_installs_the_pinned_pytorch_for_a_cpu_and_the_lessons(tmp_path) -> None:
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", str(ROOT / "binder" / "postBuild")], cwd=ROOT, env=environment, check=True)
    torch, lessons = (tmp_path / "calls").read_text().splitlines()
    (pin,) = re.findall(r"^torch==\S+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    assert torch.startswith("-m pip install") and torch.endswith(pin) and "whl/cpu" in torch
    assert lessons.endswith("-e .[notebooks]")
    assert (ROOT / "binder" / "runtime.txt").read_text().startswith("python-3.")
