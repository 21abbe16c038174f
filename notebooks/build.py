"""Make the notebooks from their sources: `make notebooks`.

    notebooks/src/NN_name.py             the source of a lesson, a jupytext text notebook (py:percent)
    notebooks/NN_name.ipynb              the student version, without cells tagged "solution"
    notebooks/solutions/NN_name.ipynb    the solved version, without cells tagged "exercise"

The notebooks are committed without outputs, and a test fails if they are stale. The same source always gives the
same bytes: a cell's id is computed from its text.

`{{measured}}` in a source becomes the run time of the whole lesson, read from minutes.json, which `make lessons`
writes; a section of a head whose cells run for half a minute or more says how long. `![words](diagrams/NAME.svg)`
shows a diagram; drawing/ draws them all. bootstrap.py adds the first cell, which installs the package, and badges,
crosslinks.py the last cell. The tables between two comments in TEACHING.md and docs/lessons.md are made from the
minutes and from the lessons' heads. Code is written at its whole length (lengths.py), except by

    python notebooks/build.py --shortened FOLDER      the student versions as the tests run them, in seconds
    python notebooks/build.py --repository ADDRESS    as without it, with badges for this repository
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import shutil
from pathlib import Path

import bootstrap
import crosslinks
import jupytext
import lengths
import nbformat
import paths
import seen
from drawing import ALL as DIAGRAMS
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent
LEFT_OUT = {"student": "solution", "solution": "exercise"}  # version: the tag of the cells it omits
FOLDERS = {"student": NOTEBOOKS, "solution": NOTEBOOKS / "solutions"}
# {"machine": ..., "minutes": {lesson: minutes and tenths}, "sections": {lesson: {section: minutes and tenths}},
# "elsewhere": {lesson: machine, if another one}}
MINUTES = NOTEBOOKS / "minutes.json"
TEACHING = NOTEBOOKS / "TEACHING.md"
LESSONS = NOTEBOOKS.parent / "docs" / "lessons.md"


def sources() -> list[Path]:

    return sorted((NOTEBOOKS / "src").glob("[0-9][0-9]_*.py"))


def target(source: Path, version: str) -> Path:

    return FOLDERS[version] / f"{source.stem}.ipynb"


def make_notebook(source: Path, version: str, *, shortened: bool = False, address: str = "") -> NotebookNode:
    """One version of a lesson, without outputs. Raises KeyError for an unknown version.

    address: the repository's, in place of the one in pyproject.toml.
    """
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict({"kernelspec": notebook.metadata["kernelspec"]})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    tag = LEFT_OUT[version]
    notebook.cells = [cell for cell in notebook.cells if tag not in cell.metadata.get("tags", [])]
    titles = {other.stem: head_of(other)[0] for other in sources()}
    end = crosslinks.footer(source.stem, titles, version=version, shortened=shortened)
    taken: set[str] = set()
    address = address or bootstrap.repository()
    place = target(source, version).relative_to(NOTEBOOKS.parent).as_posix()
    told = "\n\n".join(filter(None, (measured(source.stem), bootstrap.badges(address, place))))
    notebook.cells[0].source = with_waiting(notebook.cells[0].source, read_sections().get(source.stem, {}))
    notebook.cells.insert(1, bootstrap.cell(address))
    for cell in notebook.cells:
        cell.source = cell.source.replace("{{measured}}", told)
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, source.stem)
        elif not shortened and cell is not notebook.cells[1]:
            cell.source = lengths.whole(cell.source)
        if version == "solution":  # one folder below the student's version
            cell.source = cell.source.replace("](diagrams/", "](../diagrams/")
        cell.metadata.pop("lines_to_next_cell", None)  # layout of the source file
        cell.id = _new_id(cell.source, taken)
    notebook.cells.append(nbformat.v4.new_markdown_cell(end, id=_new_id(end, taken)))
    nbformat.validate(notebook)
    return notebook


def linked(text: str, lesson: str) -> str:
    """Markdown in which each mention of another lesson, such as "lesson 02", leads to it; HTML stays as it is."""
    names = {source.stem[:2]: source.stem for source in sources()}

    def link(found: re.Match[str]) -> str:
        name = names.get(found[2] or "")
        return f"[{found[0]}]({name}.ipynb)" if name and name != lesson else found[0]

    return re.sub(r"(<details>.*?</details>|\[[^\]]*\]\([^)]*\))|\b[Ll]esson (\d\d)\b", link, text, flags=re.S)


def read_minutes() -> tuple[str, dict[str, float]]:
    """The machine of the last full run of the lessons, and the minutes of each lesson."""
    if not MINUTES.exists():
        return "", {}
    document = json.loads(MINUTES.read_text(encoding="utf-8"))
    return document["machine"], document["minutes"]


def read_sections() -> dict[str, dict[str, float]]:
    """The minutes that the cells of each section of each lesson ran."""
    return json.loads(MINUTES.read_text(encoding="utf-8")).get("sections", {}) if MINUTES.exists() else {}


def with_waiting(head: str, minutes: dict[str, float]) -> str:
    """A lesson's head whose table says how many of a section's minutes its cells run, from half a minute on."""

    def told(row: re.Match[str]) -> str:
        taken = minutes.get(row[2], 0.0)
        return f"{row[1]} ({max(1, round(taken))} of them waiting) |" if taken >= 0.5 else row[0]

    return re.sub(r"^(\| (\d+)\. .* \| \d+) \|$", told, head, flags=re.M)


def elsewhere() -> dict[str, str]:
    """The machines of the lessons that were measured on another one than the others."""
    return json.loads(MINUTES.read_text(encoding="utf-8")).get("elsewhere", {}) if MINUTES.exists() else {}


def measured(lesson: str) -> str:
    """The sentence in a lesson's header that gives its run time."""
    machine, minutes = read_minutes()
    machine = elsewhere().get(lesson, machine)
    if lesson not in minutes:
        return "The run time of this lesson has not been measured yet."
    return f"Run time from top to bottom: {minutes[lesson]:.1f} minutes on {machine}."


def teaching(text: str) -> str:
    """TEACHING.md with its tables: minutes (class time from the lessons' heads, measured run time), paths, numbers."""
    machine, minutes = read_minutes()
    lines = [
        f"| lesson | minutes in class | run time in minutes, on {machine or 'no machine yet'} |",
        "|---|---|---|",
    ]
    for source in sources():
        title, sections = head_of(source)
        planned = sum(sections.values())
        other = f" (on {name})" if (name := elsewhere().get(source.stem)) else ""
        lines.append(f"| {title} | {planned} | {minutes.get(source.stem, 'not measured')}{other} |")
    text = _fill(text, "<!-- minutes -->", "\n".join(lines), "<!-- end of the minutes -->")
    chosen = paths.table({source.stem[:2]: head_of(source)[1] for source in sources()})
    text = _fill(text, "<!-- paths -->", chosen, "<!-- end of the paths -->")
    return _fill(text, "<!-- seen -->", seen.table(), "<!-- end of what is seen -->")


def lessons(text: str) -> str:
    """docs/lessons.md with its table: both versions of each lesson, minutes in class, what it needs."""
    lines = ["| lesson | solved | minutes | you need |", "|---|---|---|---|"]
    for source in sources():
        title, sections = head_of(source)
        address, solved = f"../notebooks/{source.stem}.ipynb", f"../notebooks/solutions/{source.stem}.ipynb"
        lines.append(f"| [{title}]({address}) | [solved]({solved}) | {sum(sections.values())} | {needed(source)} |")
    return _fill(text, "<!-- lessons -->", "\n".join(lines), "<!-- end of the lessons -->")


def _fill(text: str, begin: str, made: str, end: str) -> str:
    """The text with `made` between two comments. A text without them stays as it is."""
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{made}\n{end}", text, flags=re.S)


def needed(source: Path) -> str:
    """What a lesson's head says that you need, as one line of Markdown: its first two sentences."""
    words = jupytext.read(source).cells[0].source.partition("**You need**")[2].partition("\n\n")[0]
    return " ".join(re.split(r"(?<=\.)\s", " ".join(words.split()))[:2])


@functools.cache
def head_of(source: Path) -> tuple[str, dict[str, int]]:
    """The title of a lesson, and the minutes in class of its sections, by their numbers."""
    head = jupytext.read(source).cells[0].source
    rows = re.findall(r"^\| (\d+)\. .*? \| (\d+)", head, re.M)
    return head.splitlines()[0].removeprefix("# "), {number: int(minutes) for number, minutes in rows}


def to_text(notebook: NotebookNode) -> str:

    return nbformat.writes(notebook) + "\n"


def _new_id(text: str, taken: set[str]) -> str:
    """Eight hex digits computed from the text of a cell, unique among `taken`, which it extends."""
    count = 0
    while (id_ := hashlib.sha256(f"{count}{text}".encode()).hexdigest()[:8]) in taken:
        count += 1
    taken.add(id_)
    return id_


def write_shortened(folder: Path) -> None:
    """The student versions, shortened, in a folder of their own."""
    shutil.copytree(NOTEBOOKS / "diagrams", folder / "diagrams", dirs_exist_ok=True)
    for source in sources():
        notebook = make_notebook(source, "student", shortened=True)
        (folder / f"{source.stem}.ipynb").write_text(to_text(notebook), encoding="utf-8")


def main() -> None:
    """Write every diagram and every version of every lesson, and print the paths of the lessons."""
    (NOTEBOOKS / "diagrams").mkdir(exist_ok=True)
    for name, picture in DIAGRAMS.items():
        (NOTEBOOKS / "diagrams" / f"{name}.svg").write_text(picture.render(), encoding="utf-8")
    for source in sources():
        for version in LEFT_OUT:
            path = target(source, version)
            path.parent.mkdir(exist_ok=True)
            path.write_text(to_text(make_notebook(source, version)), encoding="utf-8")
            print(path.relative_to(NOTEBOOKS.parent))
    for page, made in ((TEACHING, teaching), (LESSONS, lessons)):
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make notebooks", description="Make the notebooks from their sources.")
    parser.add_argument("--shortened", metavar="FOLDER", type=Path, help="only the shortened lessons, into FOLDER")
    parser.add_argument(
        "--repository", metavar="ADDRESS", help="write https://github.com/OWNER/NAME into pyproject.toml"
    )
    given = parser.parse_args()
    if given.repository:
        try:
            bootstrap.write_repository(given.repository)
        except ValueError as error:
            parser.error(str(error))
    write_shortened(given.shortened) if given.shortened else main()
