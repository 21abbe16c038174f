"""Keeping a run of the Unmask tab: a GIF of it, and a trace that is dropped onto the canvas opens.

JSON and web page are offered by the run itself (files.py). A picture takes a moment to draw, so it is made when it
is asked for, from the trace that the page already holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from app.server.guard import guarded_stream
from app.server.limits import Limits
from app.strings.language import texts
from app.ui.events import SKIP
from app.unmask import files
from diffuapriel.trace.gif import write_gif

SCRIPT = Path(__file__).with_name("drop.js")


class Keep:
    """The buttons beside those of the run, and what they do."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def build(self, json_file: Any) -> None:
        """Draw it inside the row of file buttons. `json_file`: the download button that holds the trace as JSON."""
        gif = gr.Button(texts.SAVE_GIF, elem_id="save-gif", size="sm", scale=0, min_width=160)
        picture = gr.DownloadButton(visible="hidden", elem_id="gif-file")
        made = gif.click(
            guarded_stream(self.trace_gif, lambda message: SKIP),
            json_file,
            picture,
            show_progress_on=[gif],
            api_name="trace_gif",
        )
        made.success(
            None, None, None, js="() => document.querySelector('#gif-file').click()", api_visibility="private"
        )

    def trace_gif(self, trace: str | None) -> Iterator[Any]:
        """Draw a recorded run of the sampler as an animated GIF: the canvas of tokens, step by step.

        Args:
            trace: a trace saved as JSON, by this app or by Trace.to_json in a notebook
        Returns:
            The GIF file.
        """
        recorded = files.read_trace(trace, self.limits)
        with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
            path = (Path(folder) / files.file_name(recorded)).with_suffix(".gif")
            write_gif(recorded, path)
            yield str(path)


def drop_zone() -> dict[str, Any]:
    """Arguments that make a `gr.HTML` the hint "or drop one here": files dropped on its column go to #open-trace."""
    return {
        "value": texts.DROP,
        "html_template": '<p class="da-drop">${value}</p>',
        "css_template": "",
        "js_on_load": SCRIPT.read_text(encoding="utf-8"),
        "apply_default_css": False,
    }
