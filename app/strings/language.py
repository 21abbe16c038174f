"""The texts of the page in the language chosen at start: `texts.RUN`.

English is app/strings/en.py; a translation is one file LANGUAGE.json with every name of en.py, the same {holes} in
each text, and the player's words as PLAYER. The whole server uses one language, so that labels, status lines and
charts agree. Gradio's `gr.I18n` follows the browser's language, but translates only labels and fixed values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.strings import en

ENGLISH = {name: value for name, value in vars(en).items() if name.isupper()}
FOLDER = Path(__file__).parent


def languages() -> list[str]:
    """Codes of the available languages, English first."""
    return ["en", *sorted(path.stem for path in FOLDER.glob("*.json"))]


def table(language: str) -> dict[str, Any]:
    """Name -> text. Raises ValueError for a language without a file."""
    if language == "en":
        return ENGLISH
    if language not in languages():
        raise ValueError(f"--language is {language!r}; there are: {', '.join(languages())}")
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


class Strings:
    """The texts by name, as attributes; in English until `use` chooses another language."""

    def __init__(self) -> None:
        self._table = ENGLISH

    def use(self, language: str) -> None:
        """Choose the language. Call it before the page is built, which copies its labels."""
        self._table = table(language)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._table[name]
        except KeyError:
            raise AttributeError(f"there is no text named {name!r}") from None


texts = Strings()
