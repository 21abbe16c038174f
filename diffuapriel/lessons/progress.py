"""What a reader has guessed, solved and answered, kept between the lessons in `runs/lessons/progress.json`.

    note("guesses", "01.2", ["A", "C"])   the guess, then the answer
    note("checks", "mask_exactly", "right")
    score()                               at the end of a lesson: what this session did, and the course so far

Nothing leaves the machine. Delete the file to begin again. The tests of this project keep nothing.
"""

from __future__ import annotations

import contextlib
import html
import json
from pathlib import Path
from typing import Any

from diffuapriel import assets
from diffuapriel.lessons.session import QUICK

KINDS = ("guesses", "checks", "quiz")
_session: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}


def folder() -> Path:
    """Where the lessons keep files: `runs/lessons` beside the assets of a clone, else below the working folder."""
    clone = assets.root().parent
    return (clone if (clone / "pyproject.toml").exists() else Path.cwd()) / "runs" / "lessons"


def kept() -> dict[str, dict[str, Any]]:
    """Everything noted so far, by kind and name: the file, then this session."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    with contextlib.suppress(OSError, ValueError):
        stored = json.loads((folder() / "progress.json").read_text(encoding="utf-8"))
        for kind in KINDS:
            found[kind].update(stored.get(kind) or {})
    for kind in KINDS:
        found[kind].update(_session[kind])
    return found


def note(kind: str, name: str, value: Any) -> None:
    """Keep one result. A file that cannot be written is no error: the session remembers it."""
    if _session[kind].get(name) == value:
        return
    _session[kind][name] = value
    if not QUICK:
        document = json.dumps(kept(), indent=1)
        with contextlib.suppress(OSError):
            folder().mkdir(parents=True, exist_ok=True)
            (folder() / "progress.json").write_text(document + "\n", encoding="utf-8")


class Score:
    """The guesses and exercises of this session, and of the course so far."""

    def __init__(self) -> None:
        course = kept()
        parts = [_told(_session, "In this lesson"), _told(course, "In the course so far")]
        wrong = [name for name, (guess, right) in sorted(_session["guesses"].items()) if guess != right]
        if wrong:
            parts.insert(1, f"Worth another look: the predictions {', '.join(wrong)}.")
        self.text = "\n".join(parts)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        body = html.escape(self.text).replace("\n", "<br>")
        return f'<div role="status" style="border-left:4px solid #3b7ddd;padding:.4em .8em;margin:.4em 0">{body}</div>'


def score() -> Score:
    """What this session did, for the last line of a cell."""
    return Score()


def _told(results: dict[str, dict[str, Any]], where: str) -> str:
    guesses = results["guesses"].values()
    hits = sum(guess == right for guess, right in guesses)
    solved = sum(state == "right" for state in results["checks"].values())
    return (
        f"{where}: {hits} of {len(guesses)} predictions right, {solved} of {len(results['checks'])} exercises solved."
    )
