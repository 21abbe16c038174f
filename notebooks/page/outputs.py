"""The outputs of an executed notebook's cells, each as one piece of HTML.

A player becomes an element with its state as data, a Plotly figure an element with its data: page.js draws them.
The buttons of `predict` become choices that need no script, and the answer is folded. A progress bar shows its
last state. Printed text stays text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Any

from nbformat import NotebookNode, from_dict

from diffuapriel.trace.trace import embeddable
from page.text import to_html, to_mathml

WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
FIGURE = "application/vnd.plotly.v1+json"
UNANSWERED = "You had no guess. "  # how an answer begins without a guess: diffuapriel/lessons/predict.py
LIVE_ONLY = '<p class="lesson-live">This part needs the running notebook.</p>'

Widgets = dict[str, dict[str, Any]]  # id: {"model_name": ..., "state": {...}}


def draw_outputs(notebook: NotebookNode) -> None:
    """Replace every output except printed text by HTML, in place, and remove the saved widgets."""
    widgets = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            drawn = draw(output.data, widgets) if "data" in output else ""
            if drawn:
                output.data = from_dict({"text/html": drawn})


def draw(data: dict[str, Any], widgets: Widgets) -> str:
    """One output (its texts by media type) as HTML; "" for plain text."""
    if WIDGET in data:
        return _draw_widget(data[WIDGET]["model_id"], data.get("text/plain", ""), widgets)
    if FIGURE in data:
        return f'<div class="lesson-figure">{_carried(data[FIGURE])}</div>'
    text = data.get("text/plain", "")
    if text.startswith(UNANSWERED):
        answer = html.escape(text.removeprefix(UNANSWERED))
        return f'<details class="lesson-answer"><summary>The answer</summary><div>{answer}</div></details>'
    for kind, make in KINDS.items():
        if kind in data:
            return make(data[kind])
    return ""


KINDS: dict[str, Callable[[str], str]] = {  # best first
    "text/html": str,
    "text/markdown": lambda text: to_html(text, trusted=False),
    "text/latex": lambda text: to_mathml(text.strip().strip("$"), "block"),
    "image/svg+xml": str,
    "image/png": lambda code: f'<img alt="the figure that this cell draws" src="data:image/png;base64,{code}">',
}


def _draw_widget(id_: str, text: str, widgets: Widgets) -> str:
    widget = widgets.get(id_, {"model_name": "", "state": {}})
    name, state = widget["model_name"], widget["state"]
    if name == "AnyModel" and "snapshot_id" in state:
        kept = {key: state.get(key) for key in ("message", "height", "snapshot_id")}
        return f'<div class="lesson-player">{_carried(kept)}</div>'
    if name == "ToggleButtonsModel":
        return _draw_choices(id_, state)
    children = [widgets.get(child.removeprefix("IPY_MODEL_")) for child in state.get("children", [])]
    if "FloatProgressModel" in [child["model_name"] for child in children if child]:
        return _draw_bar([child for child in children if child])
    return f"<p>{html.escape(text)}</p>" if text.startswith("Your guess") else LIVE_ONLY


def _draw_choices(id_: str, state: dict[str, Any]) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{html.escape(id_)}"> {html.escape(str(option))}</label>'
        for option in state["_options_labels"]
    )
    legend = html.escape(state.get("description", ""))
    return f'<fieldset class="lesson-guess"><legend>{legend}</legend>{choices}</fieldset>'


def _draw_bar(children: list[dict[str, Any]]) -> str:
    """tqdm's progress bar: a text, the bar, a text; the texts are HTML."""
    parts = []
    for child in children:
        state = child["state"]
        if child["model_name"] == "FloatProgressModel":
            parts.append(f'<progress value="{state["value"]:g}" max="{state["max"]:g}"></progress>')
        else:
            parts.append(html.escape(html.unescape(re.sub(r"<[^>]*>", "", state.get("value", "")))))
    return f'<div class="lesson-bar">{" ".join(parts)}</div>'


def _carried(value: Any) -> str:
    """A value as data within the page, escaped so that no text in it ends its element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f'<script type="application/json">{embeddable(text)}</script>'
