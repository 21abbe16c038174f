"""Export the lessons as web pages that open offline: `make lessons-html`, or `make lessons-html ARGS="01 04"`.

    lessons-html/index.html      all lessons
    lessons-html/NN_name.html    one lesson, solved and run, with working players and interactive figures
    lessons-html/slides.html     the diagrams as slides (slides.py)
    lessons-html/plotly.min.js   draws the figures of all pages

Uses the saved runs of `make lessons`; a lesson without a run, or whose code has changed since, is run first. Text
is always the newest. The folder can be copied anywhere or opened where it is.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import sys
from pathlib import Path

import bootstrap
import build
import execute
import plotly
import slides
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from page.export import PLOTLY, lesson_page

PAGES = execute.ROOT / "lessons-html"
INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DiffuApriel: the lessons</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 44rem; margin: 0 auto; padding: 24px 16px; font: 16px/1.5 system-ui, sans-serif; }}
li {{ margin: 20px 0; list-style: none; }}
ul {{ padding: 0; }}
h2 {{ margin: 0; font-size: 1.1em; }}
p {{ margin: 4px 0; }}
</style>
</head>
<body>
<main>
<h1>The lessons</h1>
<ul>
{items}
</ul>
<p><a href="slides.html">The diagrams as slides</a></p>
</main>
</body>
</html>
"""


def run_of(source: Path) -> NotebookNode | None:
    """The newest text of a lesson with the outputs of its saved run, or None without a run of these cells."""
    kept = execute.executed(source)
    if kept is None:
        return None
    notebook = build.make_notebook(source, "solution", address=workflow_repository())
    notebook.metadata |= kept.metadata
    ran = [cell for cell in kept.cells if cell.cell_type == "code"]
    for cell, old in zip([cell for cell in notebook.cells if cell.cell_type == "code"], ran, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    notebook.cells = [cell for cell in notebook.cells if "cellView" not in cell.metadata]  # nothing is installed here
    return notebook


def workflow_repository() -> str:
    """The address of the repository whose workflow on GitHub runs this, or "": the pages then have its badges."""
    name = os.environ.get("GITHUB_REPOSITORY", "")
    return bootstrap.checked(f"https://github.com/{name}") if name else ""


def head(source: Path) -> tuple[str, str]:
    """The title of a lesson and its first paragraph, without Markdown markup."""
    text = build.make_notebook(source, "solution").cells[0].source
    title, paragraph = re.match(r"# (.+?)\n\s*\n(.+?)\n\s*\n", text, re.S).groups()
    return title, re.sub(r"[*`]", "", " ".join(paragraph.split()))


def index(folder: Path) -> str:
    """The page that links to all lessons in the folder."""
    items = []
    for source in build.sources():
        if (folder / f"{source.stem}.html").exists():
            title, words = map(html.escape, head(source))
            minutes = sum(build.head_of(source)[1].values())
            needs = html.escape(re.sub(r"[*`]", "", build.needed(source)))
            small = f"<p><small>{minutes} minutes in class. You need {needs}</small></p>"
            items.append(f'<li><h2><a href="{source.stem}.html">{title}</a></h2><p>{words}</p>{small}</li>')
    return INDEX.format(items="\n".join(items))


def write(source: Path, folder: Path) -> Path:
    """Export one lesson, running it if necessary; returns its page. Raises CellExecutionError if a cell fails."""
    notebook = run_of(source)
    if notebook is None:
        print(f"{source.stem}: running it first, which takes minutes", flush=True)
        execute.run(source)
        notebook = run_of(source)
    path = folder / f"{source.stem}.html"
    path.write_text(lesson_page(notebook, head(source)[0]), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Export the chosen lessons and the page that links to them; returns the exit code."""
    chosen = execute.choose("make lessons-html", "Export lessons as web pages.", arguments)
    if not chosen:
        return 2
    PAGES.mkdir(exist_ok=True)
    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / PLOTLY, PAGES / PLOTLY)
    with execute.kernel():
        for source in chosen:
            try:
                print(write(source, PAGES).relative_to(execute.ROOT), flush=True)
            except CellExecutionError as error:
                print(f"error: {source.stem} failed\n{error}", file=sys.stderr)
                return 1
    (PAGES / "slides.html").write_text(slides.page(), encoding="utf-8")
    (PAGES / "index.html").write_text(index(PAGES), encoding="utf-8")
    print((PAGES / "index.html").relative_to(execute.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
