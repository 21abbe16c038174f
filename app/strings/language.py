"""The texts of the page in the language chosen at start: `texts.RUN`.

A language is one file, LANGUAGE.json. To add a text, write it in en.json under an upper-case name, with a {placeholder}
for each value; read it as `texts.NAME` inside a function, never when a module is imported (the language is chosen
later); and add the same name, with the same placeholders, to every other file. A translation also holds the player's
words as PLAYER. tests/app/ui/test_language.py reports what is missing.

The whole server uses one language, so that labels, status lines and charts agree. Gradio's `gr.I18n` follows the
browser's language, but translates only labels and fixed values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def languages() -> list[str]:
    """Codes of the available languages, English first."""
    return sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda code: (code != "en", code))


def table(language: str) -> dict[str, Any]:
    """Name -> text. Raises ValueError for a language without a file."""
    if language not in languages():
        raise ValueError(f"--language is {language!r}; there are: {', '.join(languages())}")
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


ENGLISH = table("en")


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
