"""The player: one JavaScript module that shows a generation, in notebooks, in the app and in exported files.

player.js, player.css   the module and its styles        page.html       the frame of an exported file
widget.py               in a notebook (anywidget)        gradio_host.py  in gr.HTML
"""

from __future__ import annotations

from importlib import resources


def read_source(name: str) -> str:
    """A file of the player as text: "player.js", "player.css" or "page.html"."""
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
