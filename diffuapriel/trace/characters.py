r"""Characters of tokens that end in the middle of one: every screen draws characters, not bytes.

A token of a byte-level vocabulary may hold a part of a character; its display string then has the bytes as escapes
("\xc3"). `spread` decodes neighbors together: "\xc3", "\xbc" are drawn as "ü" and "". player.js has the same function.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

PENDING = "\u25cc"  # for bytes that are not a character yet: a neighbor is masked, or was never written
_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")
_JOINER = "\u200d"


def spread(texts: Sequence[str | None]) -> list[str]:
    """What each token of a row draws: a character as a whole in its first token, nothing ("") in the others.

    `texts`: display strings (`Tokenizer.token_strings`); None for what no character continues through, such as a mask.
    A combining mark, and whatever else joins the character before it, stays with that character.
    """
    drawn = [text or "" for text in texts]
    start = 0
    for end, text in enumerate([*texts, None]):
        if text is None or not is_partial(text):
            drawn[start:end] = _spread_run(drawn[start:end])
            start = end + 1
    return drawn


def is_partial(text: str) -> bool:
    """Whether what a token draws may depend on its neighbors."""
    return not text.isascii() or _BYTE.search(text) is not None


def _spread_run(texts: Sequence[str]) -> list[str]:
    raw = [_raw_bytes(text) for text in texts]
    owners = [index for index, data in enumerate(raw) for _ in data]
    drawn = [""] * len(texts)
    offset, previous, owner = 0, "", 0
    for character in b"".join(raw).decode("utf-8", errors="surrogateescape"):
        stray = "\udc80" <= character <= "\udcff"
        if not previous or not _joins(previous, character):
            owner = owners[offset]
        if not stray:
            drawn[owner] += character
        elif not drawn[owner].endswith(PENDING):
            drawn[owner] += PENDING
        previous = "" if stray else previous + character if _joins(previous, character) else character
        offset += 1 if stray else len(character.encode())
    return drawn


def _raw_bytes(text: str) -> bytes:
    return b"".join(
        bytes([int(piece, 16)]) if number % 2 else piece.encode(errors="surrogatepass")
        for number, piece in enumerate(_BYTE.split(text))
    )


def _joins(before: str, character: str) -> bool:
    """Whether a character belongs to those before it: marks, joined emoji, skin tones, the second half of a flag."""
    if not before:
        return False
    if unicodedata.category(character)[0] == "M" or character == _JOINER or before[-1] == _JOINER:
        return True
    if "\U0001f3fb" <= character <= "\U0001f3ff":
        return True
    return _is_flag_half(character) and len(before) == 1 and _is_flag_half(before)


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
