"""The language of the page: English as in app/strings/en.py, or a translation, which is one file LANGUAGE.json.

A translation holds every name of app/strings/en.py, with the same {holes} in each text, and the player's words as
PLAYER.
One language holds for the whole server: a line of status, a chart and the player's legend are then in the same one,
which the browser's language could not give (Gradio translates labels only).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.strings import en as texts

ENGLISH = {name: value for name, value in vars(texts).items() if name.isupper()}
FOLDER = Path(__file__).parent


def languages() -> list[str]:
    """Codes of the languages that the page can be in, English first."""
    return ["en", *sorted(path.stem for path in FOLDER.glob("*.json"))]


def table(language: str) -> dict[str, Any]:
    """Name -> text, as in app/strings/en.py. Raises ValueError for a language that there is no file for."""
    if language == "en":
        return ENGLISH
    if language not in languages():
        raise ValueError(f"--language is {language!r}; there are: {', '.join(languages())}")
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


def use(language: str) -> None:
    """Have app.strings.en hold this language's texts. Before the page is built: it keeps those it was built with."""
    for name, text in {**ENGLISH, **table(language)}.items():
        setattr(texts, name, text)
