"""Make the notebooks from their sources: `make notebooks`.

    notebooks/src/NN_name.py             the one source of a lesson, a jupytext text notebook (py:percent)
    notebooks/NN_name.ipynb              for the reader: cells tagged "solution" left out
    notebooks/solutions/NN_name.ipynb    solved: cells tagged "exercise" left out

The made files are committed, without outputs, and a test fails if they are stale. The same source always makes the
same bytes: a cell's id comes from its text.

`{{measured}}` in a source becomes how long the whole lesson ran, read from minutes.json, which `make lessons` writes;
the table of TEACHING.md between its two comments comes from there too.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent
LEFT_OUT = {"student": "solution", "solution": "exercise"}  # version: the tag whose cells it lacks
FOLDERS = {"student": NOTEBOOKS, "solution": NOTEBOOKS / "solutions"}
MINUTES = NOTEBOOKS / "minutes.json"  # {"machine": ..., "minutes": {lesson: whole minutes and tenths}}
TEACHING = NOTEBOOKS / "TEACHING.md"


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
    told = measured(source.stem)
    for cell in notebook.cells:
        cell.source = cell.source.replace("{{measured}}", told)
        cell.metadata.pop("lines_to_next_cell", None)  # how the source is laid out
        cell.id = _new_id(cell.source, taken)
    nbformat.validate(notebook)
    return notebook


def read_minutes() -> tuple[str, dict[str, float]]:
    """The machine that the lessons were last run whole on, and the minutes of each."""
    if not MINUTES.exists():
        return "", {}
    document = json.loads(MINUTES.read_text(encoding="utf-8"))
    return document["machine"], document["minutes"]


def measured(lesson: str) -> str:
    """How long a lesson ran, as its head says it."""
    machine, minutes = read_minutes()
    if lesson not in minutes:
        return "How long the machine works for all of it has not been measured yet."
    return f"The machine's part, run from top to bottom: {minutes[lesson]:.1f} minutes on {machine}."


def teaching(text: str) -> str:
    """TEACHING.md with its table of minutes: those in class from the lessons' heads, those of computing as measured."""
    machine, minutes = read_minutes()
    lines = [
        f"| lesson | minutes in class | of which the machine computes, on {machine or 'no machine yet'} |",
        "|---|---|---|",
    ]
    for source in sources():
        head = jupytext.read(source).cells[0].source
        title = head.splitlines()[0].removeprefix("# ")
        planned = sum(map(int, re.findall(r"^\| \d+\. .*? \| (\d+)", head, re.M)))
        lines.append(f"| {title} | {planned} | {minutes.get(source.stem, 'not measured')} |")
    table = "<!-- minutes -->\n" + "\n".join(lines) + "\n<!-- end of the minutes -->"
    return re.sub(r"<!-- minutes -->.*?<!-- end of the minutes -->", lambda _: table, text, flags=re.S)


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
    TEACHING.write_text(teaching(TEACHING.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
