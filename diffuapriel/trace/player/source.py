"""The player's own files as text."""

from __future__ import annotations

from importlib import resources


def read_source(name: str) -> str:
    """A file of the player: "player.js", "player.css" or "page.html"."""
    return (resources.files("diffuapriel.trace.player") / name).read_text(encoding="utf-8")
