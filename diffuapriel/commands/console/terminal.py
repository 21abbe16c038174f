"""Live output on a terminal: a canvas that fills, and a progress line.

Masks are shown as ░ and tokens that were just revealed in bold green. Control characters in a model's text are written
out, so that the terminal does not execute them.
"""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.tokenizer import Tokenizer

HOLE = " ░░░"  # one [MASK], about as wide as a token
BRIGHT, DIM, RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class LiveCanvas:
    """Redraws a canvas in place. `show` takes the frames of a stream in order."""

    def __init__(self, tokenizer: Tokenizer, out: TextIO = sys.stdout) -> None:
        self._tokenizer, self._out = tokenizer, out
        self._lines = 0  # of the last drawing, to be overwritten

    def show(self, frame: StepFrame) -> None:
        """Draw the canvas after a step, with a status line."""
        columns, rows = shutil.get_terminal_size()
        lines = wrap(pieces(frame.ids, frame.revealed, self._tokenizer), columns)
        masks = frame.ids.count(self._tokenizer.mask_id)
        lines = lines[: rows - 2]  # lines that scrolled off the screen cannot be overwritten
        lines.append(f"{DIM}step {frame.step}, {masks} masks left{RESET}")
        self._draw(lines)

    def finish(self, ids: Sequence[int]) -> None:
        """Replace the drawing by the final text."""
        self._draw([])
        print(printable(final_text(ids, self._tokenizer)), file=self._out, flush=True)

    def _draw(self, lines: list[str]) -> None:
        back = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._out.write(back + "".join(f"{line}\n" for line in lines))
        self._out.flush()
        self._lines = len(lines)


def final_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a filled canvas; a run of <|endoftext|> is written once, with its length."""
    parts = []
    for ends, run in groupby(ids, key=lambda id: id == tokenizer.eos_id):
        members = list(run)
        text = tokenizer.decode(members[:1] if ends else members)
        parts.append(f"{text} x{len(members)}" if ends and len(members) > 1 else text)
    return "".join(parts)


def printable(text: str) -> str:
    """The text with control characters other than line feeds escaped, e.g. "\\x1b"."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def pieces(ids: Sequence[int], revealed: Iterable[int], tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """(text, style) of every token; the style is an escape sequence or empty."""
    from diffuapriel.trace.characters import spread

    fresh, mask_id = set(revealed), tokenizer.mask_id
    texts = [None if id == mask_id else text for id, text in zip(ids, tokenizer.token_strings(ids))]
    for position, (text, drawn) in enumerate(zip(texts, spread(texts))):
        if text is None:
            yield HOLE, DIM
        elif drawn:
            yield printable(drawn), BRIGHT if position in fresh else ""


def wrap(styled: Iterable[tuple[str, str]], columns: int) -> list[str]:
    """Lines of at most `columns` cells, broken between tokens, or inside a token wider than a line."""
    lines, line, used = [], "", 0
    for text, style in styled:
        for number, part in enumerate(text.split("\n")):
            if number:
                lines, line, used = [*lines, line], "", 0
            for chunk in _chunks(part, columns):
                if used + width(chunk) > columns:
                    lines, line, used = [*lines, line], "", 0
                    chunk = chunk.lstrip(" ")
                line += f"{style}{chunk}{RESET}" if style and chunk else chunk
                used += width(chunk)
    return [*lines, line]


def width(text: str) -> int:
    """Terminal cells: two for a wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _chunks(text: str, columns: int) -> Iterator[str]:
    size = max(1, columns // 2)  # safe for wide characters too
    if width(text) <= columns:
        yield text
    else:
        yield from (text[i : i + size] for i in range(0, len(text), size))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A status line "12 of 64 sequences", updated by the yielded function and removed at the end."""
    try:
        yield lambda done: status(f"{min(done, total)} of {total} {what}")
    finally:
        status("")


def status(text: str) -> None:
    """Replace the last line on standard error if it is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
