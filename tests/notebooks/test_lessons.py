"""The lessons: made from their sources, committed without outputs, and running from the first cell to the last."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install jupyterlab")
pytest.importorskip("ipykernel.kernelspec", reason="needs ipykernel: pip install jupyterlab")
pytest.importorskip("jupytext", reason="needs jupytext: pip install jupytext")
pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
from jupyter_client.manager import KernelManager  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SCREEN = 36  # lines


def load(name: str) -> ModuleType:
    """A module of notebooks/, which is no package: its scripts import each other by their bare names."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, NOTEBOOKS / f"{name}.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


sys.path.append(str(NOTEBOOKS))  # for the folders drawing/ and page/
build = load("build")
execute = load("execute")
LESSONS = [(source, version) for source in build.sources() for version in build.LEFT_OUT]
each_lesson = pytest.mark.parametrize(
    ("source", "version"), LESSONS, ids=[f"{source.stem}-{version}" for source, version in LESSONS]
)
each_source = pytest.mark.parametrize("source", build.sources(), ids=[path.stem for path in build.sources()])


def made(source: Path, version: str) -> list:
    return build.make_notebook(source, version).cells


@each_lesson
def test_the_notebook_is_what_its_source_makes(source: Path, version: str) -> None:
    made = build.to_text(build.make_notebook(source, version))
    committed = build.target(source, version)
    assert committed.exists() and committed.read_text(encoding="utf-8") == made, (
        f"{committed.relative_to(ROOT)} is stale: run `make notebooks`"
    )


def test_no_notebook_is_without_a_source() -> None:
    found = {path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert found == {build.target(source, version) for source, version in LESSONS}


@each_lesson
def test_it_is_committed_without_outputs(source: Path, version: str) -> None:
    notebook = json.loads(build.target(source, version).read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "widgets" not in notebook["metadata"]


@each_lesson
def test_no_cell_is_longer_than_a_screen(source: Path, version: str) -> None:
    for cell in build.make_notebook(source, version).cells:
        assert len(cell.source.splitlines()) <= SCREEN, cell.source.splitlines()[0]


@each_source
def test_both_versions_have_every_exercise(source: Path) -> None:
    tags = {
        version: [tag for cell in made(source, version) for tag in cell.metadata.get("tags", [])]
        for version in build.LEFT_OUT
    }
    assert set(tags["student"]) == {"exercise"} and set(tags["solution"]) == {"solution"}
    assert 2 <= len(tags["student"]) == len(tags["solution"]) <= 4


@each_source
def test_an_exercise_has_two_hints_and_is_checked(source: Path) -> None:
    cells = made(source, "student")
    for place, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            assert cells[place - 1].source.count("<summary>Hint") >= 2, cell.source
            assert "return None  # your line" in cell.source
            assert any(c.source.startswith("check.") for c in cells[place + 1 : place + 3]), cell.source


@each_source
def test_the_head_says_what_one_learns_what_one_needs_and_how_long_it_takes(source: Path) -> None:
    head, *rest = [cell.source for cell in made(source, "student") if cell.cell_type == "markdown"]
    assert head.startswith(f"# {source.stem[:2]} · ")
    for part in ("**You will be able to**", "**You need**", "| part | minutes |"):
        assert part in head, part
    sections = [line[3:] for text in rest for line in text.splitlines() if re.match(r"## \d+\. ", line)]
    rows = re.findall(r"^\| (\d+\. .*?) \| \d", head, re.M)
    assert rows == sections and len(rows) >= 3
    assert build.measured(source.stem) in head and "{{" not in head
    closing = "\n".join(rest)
    assert "## Going further" in closing and "arXiv" in closing


@each_source
def test_there_are_two_or_three_questions_and_each_is_answered(source: Path) -> None:
    code = "\n".join(cell.source for cell in made(source, "student") if cell.cell_type == "code")
    asked = re.findall(r"^(guess_\d) = predict\(", code, re.M)
    assert 2 <= len(asked) <= 3
    for name in asked:
        question, _, answer = code.partition(f"{name} = predict(")
        assert name not in question and f"{name}.reveal(" in answer


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One kernel for all lessons: the Python of these tests, whatever else is installed. Training is shortened."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in execute.kernel_environment(tmp_path_factory.mktemp("kernel")).items():
            patch.setenv(name, value)
        patch.setenv("DIFFUAPRIEL_QUICK", "1")
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@each_lesson
def test_every_cell_runs(source: Path, version: str, kernel: KernelManager) -> None:
    if version == "solution" and shutil.which("chromium") and importlib.util.find_spec("playwright"):
        pytest.skip("JupyterLab runs the solved lessons, in tests/browser/notebooks/test_lab.py")
    notebook, folder = build.make_notebook(source, version), build.target(source, version).parent
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"))  # of the lesson before
    execute.execute(notebook, folder, timeout=300, km=kernel)  # raises where a cell fails

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    states = re.findall(r'class="da-verdict-(\w+)"', "".join(pages))
    exercises = sum(bool(cell.metadata.get("tags")) for cell in notebook.cells)
    assert "wrong" not in states
    if version == "student":
        assert states.count("open") == exercises  # an exercise left open stops nobody who runs the whole notebook
    else:
        assert states.count("right") >= exercises and "open" not in states
    figures = [data for data in shown if "application/vnd.plotly.v1+json" in data]
    assert len(figures) == sum("plain-picture" in page for page in pages), "a picture stands in for each figure"
    if "Player" in source.read_text(encoding="utf-8"):
        assert any("da-snapshot" in page for page in pages), "a player leaves a picture in the saved notebook"


# The minutes


def test_the_measured_minutes_stand_in_the_head_and_in_the_teacher_s_table(tmp_path, monkeypatch) -> None:
    source = build.sources()[0]
    kept = {"machine": "3 cores (Abacus)", "minutes": {source.stem: 1.25}}
    monkeypatch.setattr(build, "MINUTES", tmp_path / "minutes.json")
    assert "not been measured" in build.measured(source.stem)
    (tmp_path / "minutes.json").write_text(json.dumps(kept), encoding="utf-8")
    assert "1.2 minutes on 3 cores (Abacus)" in made(source, "student")[0].source
    table = build.teaching("before <!-- minutes -->old<!-- end of the minutes --> after")
    assert re.search(rf"^\| {source.stem[:2]} · .* \| \d+ \| 1.25 \|$", table, re.M) and "old" not in table
    assert table.startswith("before ") and table.endswith(" after")


def test_the_teacher_s_table_is_fresh() -> None:
    text = build.TEACHING.read_text(encoding="utf-8")
    assert build.teaching(text) == text, "notebooks/TEACHING.md is stale: run `make notebooks`"


def test_a_kept_run_of_other_cells_is_not_taken(tmp_path, monkeypatch) -> None:
    source = build.sources()[0]
    monkeypatch.setattr(execute, "KEPT", tmp_path)
    assert execute.executed(source) is None
    notebook = build.make_notebook(source, "solution")
    (tmp_path / f"{source.stem}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
    assert execute.executed(source) is not None
    notebook.cells[-2].source += "\n1 + 1"
    notebook.cells[-2].cell_type = "code"
    notebook.cells[-2].update(outputs=[], execution_count=None)
    (tmp_path / f"{source.stem}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
    assert execute.executed(source) is None


def test_a_lesson_that_is_not_there_is_refused_with_those_that_are(capsys) -> None:
    assert execute.main(["99"]) == 2
    assert "no lesson begins with 99; the lessons are 0" in capsys.readouterr().err
