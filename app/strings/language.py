"""The texts of the page, in the language of the visitor: `texts.RUN`.

A language is one file, LANGUAGE.json. To add a text, write it in en.json under an upper-case name, with a {placeholder}
for each value; read it as `texts.NAME` inside a function, never when a module is imported (the language is chosen
later); and add the same name, with the same placeholders, to every other file. A translation also holds what is English
elsewhere: the player's words (PLAYER), the names of parameters (PARAMETERS), and what the package says (TALE_REASONS,
LIBRARY_ERRORS, LIBRARY_PATTERNS, FAIRNESS).
tests/app/ui/test_language.py reports what is missing.

A page is in the language of the visitor's cookie, else in that of `--language`: the gateway reads it for each request,
the page for each event. `texts.NAME.format(n=1024)` writes numbers as the language does: 1,024 or 1.024.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
COOKIE = "diffuapriel-language"
SWAPPED = str.maketrans(",.", ".,")  # decimal comma, thousands point
_visitor: ContextVar[str | None] = ContextVar("language", default=None)


def languages() -> list[str]:
    """Codes of the available languages, English first."""
    return sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda code: (code != "en", code))


def table(language: str) -> dict[str, Any]:
    """Name -> text. Raises ValueError for a language without a file."""
    if language not in languages():
        raise ValueError(f"--language is {language!r}; there are: {', '.join(languages())}")
    found = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return {name: localized(value, found["DECIMAL"] == ",") for name, value in found.items()}


class Numbers(string.Formatter):
    """`str.format` with a decimal comma."""

    def format_field(self, value: Any, format_spec: str) -> str:
        written = super().format_field(value, format_spec)
        return written.translate(SWAPPED) if isinstance(value, int | float) else written


class CommaText(str):
    """A text of a language with a decimal comma."""

    def format(self, *args: Any, **values: Any) -> str:
        return Numbers().vformat(self, args, values)


def localized(value: Any, comma: bool) -> Any:
    """A text, list or table whose texts write numbers as the language does."""
    if isinstance(value, dict):
        return {key: localized(part, comma) for key, part in value.items()}
    if isinstance(value, list):
        return [localized(part, comma) for part in value]
    return CommaText(value) if comma and isinstance(value, str) else value


TABLES = {code: table(code) for code in languages()}
ENGLISH = TABLES["en"]


class Strings:
    """The texts by name, as attributes."""

    def __init__(self) -> None:
        self.default = "en"

    def use(self, language: str) -> None:
        """Choose the language of visitors who have not chosen one. Raises ValueError for one without a file."""
        table(language)
        self.default = language

    @contextmanager
    def speaking(self, language: str) -> Iterator[None]:
        """The texts in this language, within the block."""
        token = _visitor.set(language)
        try:
            yield
        finally:
            _visitor.reset(token)

    def follow(self, cookies: Mapping[str, str]) -> None:
        """From here on, in the present task, the texts are in the language of a visitor's cookies."""
        asked = cookies.get(COOKIE)
        _visitor.set(asked if asked in TABLES else None)

    def number(self, value: float, spec: str = "") -> str:
        """A number as the language writes it."""
        return self.figures(format(value, spec))

    def figures(self, written: str) -> str:
        """A text with numbers in English, such as "1.2 GiB", as the language writes them."""
        return written.translate(SWAPPED) if self.DECIMAL == "," else written

    def __getattr__(self, name: str) -> Any:
        try:
            return TABLES[_visitor.get() or self.default][name]
        except KeyError:
            raise AttributeError(f"there is no text named {name!r}") from None


texts = Strings()


def translated(message: str) -> str:
    """A message of the package in the language of the page; "" where it has no translation.

    Groups of a pattern: a, b are names, kept as they are; rest is translated too; all others hold numbers.
    """
    if texts.LANGUAGE == "en" or message in texts.LIBRARY_ERRORS:
        return texts.LIBRARY_ERRORS.get(message, message)
    for pattern, text in texts.LIBRARY_PATTERNS.items():
        if not (found := re.fullmatch(pattern, message, re.DOTALL)):
            continue
        parts = found.groupdict()
        for name, part in parts.items():
            if name == "rest":
                parts[name] = translated(part)
            elif name not in ("a", "b"):
                numbers = re.sub(r"[.,](?=\d)", lambda mark: texts.figures(mark[0]), part)
                parts[name] = numbers.replace(" and ", f" {texts.AND} ")
        return text.format(**parts) if all(parts.values()) else ""
    return ""


def counted(what: str, n: int) -> str:
    """A number with its noun, one of COUNTED: "1 mask", "2 masks"."""
    one, more = texts.COUNTED[what]
    return one if n == 1 else more.format(n=n)
