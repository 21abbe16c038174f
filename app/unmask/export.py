"""Traces as files: what a visitor saves (JSON, a web page, a GIF) and opens again.

JSON and web page are made after every run. A GIF takes a moment to draw, and a web page with the live model in it is
large, so they are made on request, from the JSON file that the page already holds.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from app.server.guard import guarded_stream
from app.server.limits import Limits, Refused, text
from app.server.models import Models
from app.strings.language import texts
from app.ui.events import AT_ONCE, SKIP
from app.ui.inputs import scripted
from diffuapriel.page import runtime
from diffuapriel.page.build import build_page, size_of_page
from diffuapriel.trace.gif import write_gif
from diffuapriel.trace.trace import Trace

MAX_TRACE_LENGTH = 16_384  # tokens that the player draws
KEPT = "kept"  # the name of the file in which app/ui/keep.js brings back a run
# Tells app/ui/keep.js where the JSON file of the run is.
KEEP = """(file) => {
  if (file?.url) window.dispatchEvent(new CustomEvent("diffuapriel-saved", { detail: file.url }));
  return [];
}"""
DROP_SCRIPT = Path(__file__).with_name("drop.js")
SHARE_SCRIPT = Path(__file__).with_name("share.js")


@contextmanager
def saved(trace: Trace) -> Iterator[tuple[str, str]]:
    """The trace as a JSON file and as a web page, which exist as long as the block lasts: Gradio takes copies."""
    with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
        base = Path(folder) / file_name(trace)
        json_file, html_file = base.with_suffix(".json"), base.with_suffix(".html")
        json_file.write_text(trace.to_json(), encoding="utf-8")
        html_file.write_text(trace.to_html(words=texts.PLAYER, language=texts.LANGUAGE), encoding="utf-8")
        yield str(json_file), str(html_file)


def file_name(trace: Trace) -> str:
    """Model, strategy and seed, in letters, digits and dashes."""
    words = "-".join(str(trace.meta.get(key, "")) for key in ("model", "strategy", "seed"))
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:80] or "trace"


def read_trace(path: Any, limits: Limits) -> Trace:
    """The trace in an uploaded file. Raises Refused for a file that is too large, damaged or not a trace."""
    if not isinstance(path, str) or not Path(path).is_file():
        raise Refused(texts.NO_FILE)
    size = Path(path).stat().st_size
    if size > limits.max_upload_bytes:
        raise Refused(texts.FILE_TOO_LARGE.format(size=size, most=limits.max_upload_bytes))
    try:
        trace = Trace.from_file(Path(path).read_bytes())
    except ValueError as error:  # also for invalid UTF-8
        why = f": {error}" if texts.LANGUAGE == "en" else ""
        raise Refused(texts.NOT_A_TRACE.format(why=why)) from error
    if len(trace.fixed) > MAX_TRACE_LENGTH:
        raise Refused(texts.TRACE_TOO_LONG.format(tokens=len(trace.fixed), most=MAX_TRACE_LENGTH))
    return trace


class GifExport:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def build(self, json_file: Any) -> None:
        """Draw it inside the row of file buttons. `json_file`: the download button that holds the trace as JSON."""
        gif = gr.Button(texts.SAVE_GIF, elem_id="save-gif", size="sm", scale=0, min_width=160)
        picture = gr.DownloadButton(visible="hidden", elem_id="gif-file")
        dark = gr.Checkbox(visible=False)
        gif.click(lambda: gr.update(value=texts.GIF_DRAWING, interactive=False), None, gif, **AT_ONCE)
        made = gif.click(
            guarded_stream(self.draw_gif, lambda message: SKIP),
            [json_file, dark],
            picture,
            js="(file) => [file, document.body.classList.contains('dark')]",
            show_progress_on=[gif],
            api_visibility="private",
        )
        made.success(None, None, None, js="() => document.querySelector('#gif-file').click()", api_visibility="private")
        for ended in (made.success, made.failure):
            ended(lambda: gr.update(value=texts.SAVE_GIF, interactive=True), None, gif, **AT_ONCE)

    def draw_gif(self, trace: str | None, dark: bool = False) -> Iterator[Any]:
        """Draw a trace, saved as JSON, as an animated GIF in the page's colors; yields the file."""
        recorded = read_trace(trace, self.limits)
        with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
            path = (Path(folder) / file_name(recorded)).with_suffix(".gif")
            write_gif(recorded, path, words=texts.GIF, dark=dark)
            yield str(path)


class LivePageExport:
    """A web page that plays the run and holds the chosen model, which goes on writing there."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits

    def build(self, json_file: Any, prompt: Any, model: Any) -> None:
        """Draw it inside the row of file buttons; prompt and model: the components of the settings."""
        label = self.label(self.models.default)
        live = gr.Button(label, elem_id="save-live", size="sm", scale=0, min_width=160)
        page = gr.DownloadButton(visible="hidden", elem_id="live-file")
        model.change(self.label, model, live, **AT_ONCE)
        live.click(lambda: gr.update(value=texts.LIVE_BUILDING, interactive=False), None, live, **AT_ONCE)
        made = live.click(
            guarded_stream(self.write, lambda message: SKIP),
            [json_file, prompt, model],
            page,
            show_progress_on=[live],
            api_visibility="private",
        )
        made.success(
            None, None, None, js="() => document.querySelector('#live-file').click()", api_visibility="private"
        )
        for ended in (made.success, made.failure):
            ended(lambda model: gr.update(value=self.label(model), interactive=True), model, live, **AT_ONCE)

    def label(self, model: Any) -> str:
        """What the button says: how large the page with this model is."""
        size = size_of_page(self.models.find(model).parameters)
        return texts.SAVE_LIVE.format(megabytes=round(size / 1e6))

    def write(self, trace: str | None, prompt: Any, model: Any) -> Iterator[Any]:
        """Build the page with a trace, saved as JSON, if there is one; yields the file."""
        entry = self.models.find(model, self.models.trained)
        folder = runtime.find_runtime()
        if folder is None:
            raise Refused(texts.NO_RUNTIME.format(version=runtime.VERSION, folder=runtime.cache_folder()))
        written = text("the text", prompt, self.limits.max_characters)
        opening = read_trace(trace, self.limits).to_json() if trace else None
        with tempfile.TemporaryDirectory(prefix="diffuapriel-") as made:
            name = re.sub(r"[^A-Za-z0-9]+", "-", entry.label).strip("-") or "model"
            page = Path(made) / f"{name}-live.html"
            build_page(page, models=[entry.source], runtime_folder=folder, opening=opening, text=written)
            yield str(page)


def drop_zone() -> dict[str, Any]:
    """Arguments that make a `gr.HTML` a drop zone: files dropped on its column go to #open-trace."""
    return scripted(DROP_SCRIPT, '<p class="da-drop">${value}</p>', texts.DROP)
