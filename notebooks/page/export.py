"""The page around the cells: nbconvert's lab template with this project's player and no external URL."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import plotly.io
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from diffuapriel.trace.player import read_source
from page.outputs import draw_outputs
from page.text import to_html

HERE = Path(__file__).parent
PLOTLY = "plotly.min.js"  # beside the pages: its five megabytes are not copied into each page


def lesson_page(notebook: NotebookNode, title: str) -> str:
    """An executed notebook as a page. It draws its figures if plotly.min.js is beside it."""
    notebook = copy.deepcopy(notebook)
    draw_outputs(notebook)
    notebook.metadata["title"] = title
    exporter = _Exporter(raw_template=_read("page.html.j2"))
    dark = plotly.io.templates["plotly_dark"].to_plotly_json()
    script = _read("page.js").replace('"DARK"', json.dumps(dark)).replace('"PLAYER";', read_source("player.js"))
    about = {
        "plotly": PLOTLY,
        "style": read_source("player.css") + _read("page.css"),
        "script": script,
    }
    if any("</" + name in about[part].lower() for part, name in (("style", "style"), ("script", "script"))):
        raise RuntimeError("a script or style sheet would end its own element; fix the player or this folder")
    return exporter.from_notebook_node(notebook, {"lesson": about})[0]


class _Exporter(HTMLExporter):
    def markdown2html(self, context: Any, source: str) -> str:
        return to_html(source, trusted=True)  # text of a lesson

    markdown2html.jinja_pass_arg = HTMLExporter.markdown2html.jinja_pass_arg


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
