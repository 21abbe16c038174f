"""Make the notebooks from their sources: `make notebooks`.

    notebooks/src/NN_name.py             the one source of a lesson, a jupytext text notebook (py:percent)
    notebooks/NN_name.ipynb              for the reader: cells tagged "solution" left out
    notebooks/solutions/NN_name.ipynb    solved: cells tagged "exercise" left out

The made files are committed, without outputs, and a test fails if they are stale. The same source always makes the
same bytes: a cell's id comes from its text.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent
LEFT_OUT = {"student": "solution", "solution": "exercise"}  # version: the tag whose cells it lacks
FOLDERS = {"student": NOTEBOOKS, "solution": NOTEBOOKS / "solutions"}


def sources() -> list[Path]:
    """The lessons' sources, in order."""
    return sorted((NOTEBOOKS / "src").glob("[0-9][0-9]_*.py"))


def target(source: Path, version: str) -> Path:
    """The notebook that a version of a lesson is written to."""
    return FOLDERS[version] / f"{source.stem}.ipynb"


def make_notebook(source: Path, version: str) -> NotebookNode:
    """One version of a lesson, without outputs. Raises KeyError for a version that is not in LEFT_OUT."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict({"kernelspec": notebook.metadata["kernelspec"]})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    tag = LEFT_OUT[version]
    notebook.cells = [cell for cell in notebook.cells if tag not in cell.metadata.get("tags", [])]
    taken: set[str] = set()
    for cell in notebook.cells:
        cell.metadata.pop("lines_to_next_cell", None)  # how the source is laid out
        cell.id = _new_id(cell.source, taken)
    nbformat.validate(notebook)
    return notebook


def to_text(notebook: NotebookNode) -> str:
    """The notebook as it stands in its file."""
    return nbformat.writes(notebook) + "\n"


def _new_id(text: str, taken: set[str]) -> str:
    """Eight digits from the text of a cell; equal texts count up. Adds it to `taken`."""
    count = 0
    while (id_ := hashlib.sha256(f"{count}{text}".encode()).hexdigest()[:8]) in taken:
        count += 1
    taken.add(id_)
    return id_


def main() -> None:
    """Write every version of every lesson, and say which files."""
    for source in sources():
        for version in LEFT_OUT:
            path = target(source, version)
            path.parent.mkdir(exist_ok=True)
            path.write_text(to_text(make_notebook(source, version)), encoding="utf-8")
            print(path.relative_to(NOTEBOOKS.parent))


if __name__ == "__main__":
    main()
