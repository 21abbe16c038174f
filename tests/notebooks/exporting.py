"""A small executed notebook with one of everything that a page of a lesson shows, and the exporter of notebooks/."""

from __future__ import annotations

import ipywidgets
import nbformat
import plotly.graph_objects as go
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from diffuapriel.lessons.figure import HIDDEN
from diffuapriel.lessons.predict import predict
from diffuapriel.trace.messages import compact
from diffuapriel.trace.player.widget import Player, snapshot
from tests.notebooks.test_lessons import load
from tests.trace.player.example import trace

load("build")
load("execute")
export = load("export")

HOSTILE = "<script>window.harmed = 1</script></script><img src=x onerror='window.harmed = 1'>"
TEXT = r"""# 09 · Made up

The text $x_t$ costs `$5` in code, and a link leads to [lesson 01](01_masked_diffusion.ipynb).

$$\mathbb{E}_t\Big[\frac{1}{t} \sum_i -\log p(x_i \mid x_t)\Big]$$

<details><summary>Hint 1</summary>Look at $h_t$; leave <code>$a $b</code> alone.</details>
"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def shown(**data) -> NotebookNode:
    """An output by media type, `text_html` for text/html; or the bundle that a widget makes of itself."""
    bundle = data.pop("bundle", {}) | {kind.replace("_", "/"): value for kind, value in data.items()}
    return new_output("display_data", data=nbformat.from_dict(bundle))


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = ()) -> NotebookNode:
    metadata = {"tags": list(tags)} if tags else {}
    return new_code_cell(source, outputs=list(outputs), execution_count=1, metadata=metadata)


def bundle_of(widget) -> dict:
    made = widget._repr_mimebundle_()
    return made[0] if isinstance(made, tuple) else made


def example() -> NotebookNode:
    """The notebook, with its widgets saved as a run saves them."""
    player = Player(message=compact(trace(length=24, steps=8, words={5: HOSTILE}, model=HOSTILE)))
    guess = predict("A", "B", HOSTILE)
    texts = [ipywidgets.HTML(value=value) for value in ("100%", " 12/12 [00:02&lt;00:00, 5.1it/s]")]
    bar = ipywidgets.HBox([texts[0], ipywidgets.FloatProgress(value=12, max=12), texts[1]])
    figure = go.Figure(layout={"title": HOSTILE, "height": 300})
    figure.add_scatter(x=[1, 2, 3], y=[3, 1, 2], name="a curve")
    picture = f'<style>{HIDDEN}</style><img class="plain-picture" alt="" src="data:image/png;base64,{PIXEL}">'
    cells = [
        new_markdown_cell(TEXT),
        code(
            "Player().record()",
            shown(bundle=bundle_of(player)),
            shown(text_html=snapshot(player.message, player.snapshot_id)),
        ),
        code("price = '$x_t$'  # $5", new_output("stream", name="stdout", text=f"it costs $5$ {HOSTILE}\n")),
        code("guess", shown(bundle=bundle_of(guess))),
        code("guess.reveal('B')", shown(text_plain=f"You had no guess. The answer is: B. {HOSTILE}")),
        code("for _ in tqdm(range(12)): pass", shown(bundle=bundle_of(bar), text_plain="  0%| 0/12 [00:00]")),
        code(
            "show(figure)",
            shown(bundle={"application/vnd.plotly.v1+json": figure.to_plotly_json()}),
            shown(text_html=picture),
        ),
        code("display(Markdown(text))", shown(text_markdown=f"The loss is **1.5**, of $x$. {HOSTILE}")),
        code("ipywidgets.IntSlider()", shown(bundle=bundle_of(ipywidgets.IntSlider()))),
        code("text", shown(text_plain=repr(HOSTILE))),
        code("solved = 1", tags=("solution",)),
    ]
    state = ipywidgets.Widget.get_manager_state()
    metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": state}}
    return new_notebook(cells=cells, metadata=nbformat.from_dict(metadata))
