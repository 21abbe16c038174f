"""The lessons: made from their sources, committed without outputs, and running from the first cell to the last."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install jupyterlab")
pytest.importorskip("jupytext", reason="needs jupytext: pip install jupytext")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SCREEN = 36  # lines


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_build", NOTEBOOKS / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
LESSONS = [(source, version) for source in build.sources() for version in build.LEFT_OUT]
each_lesson = pytest.mark.parametrize(
    ("source", "version"), LESSONS, ids=[f"{source.stem}-{version}" for source, version in LESSONS]
)


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


def test_both_versions_have_every_exercise() -> None:
    for source in build.sources():
        tags = {
            version: [
                t
                for cell in build.make_notebook(source, version).cells
                for t in cell.metadata.get("tags", [])
            ]
            for version in build.LEFT_OUT
        }
        assert set(tags["student"]) == {"exercise"} and set(tags["solution"]) == {"solution"}
        assert len(tags["student"]) == len(tags["solution"]) >= 2


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel "python3" that is the Python of these tests, whatever else is installed; training is shortened."""
    kernelspec = pytest.importorskip("ipykernel.kernelspec", reason="needs ipykernel: pip install jupyterlab")
    kernelspec.install(prefix=str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DIFFUAPRIEL_QUICK", "1")


@pytest.mark.slow
@each_lesson
def test_every_cell_runs(source: Path, version: str, kernel: None) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
    notebook = build.make_notebook(source, version)
    folder = build.target(source, version).parent
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()  # raises at the first cell that fails

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    exercises = sum("solution" in cell.metadata.get("tags", []) for cell in notebook.cells)
    assert printed.count("Right.\n") == exercises
    if version == "student":
        assert "Not done yet" in printed  # an exercise left open stops nobody who runs the whole notebook
    shown = [output["data"] for output in outputs if "data" in output]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    figures = [data for data in shown if "application/vnd.plotly.v1+json" in data]
    assert len(figures) == sum("plain-picture" in page for page in pages), (
        "a picture stands in for each figure"
    )
    assert any("da-snapshot" in page for page in pages), "a player leaves a picture in the saved notebook"
