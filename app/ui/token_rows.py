"""Rows of tokens colored by a value, one row per model: the arguments and the message of token_rows.js."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.ui.inputs import scripted

SCRIPT = Path(__file__).with_name("token_rows.js")
LEVELS = 8  # colors of the scale


@dataclass(frozen=True)
class TokenRow:
    """One row. levels: a color for each token, 0 to LEVELS - 1, or -1 for none. titles: what is said of each token."""

    label: str
    note: str
    levels: Sequence[int]
    titles: Sequence[str]


def rows_arguments() -> dict[str, Any]:
    """Arguments that make a `gr.HTML` into rows of tokens; it emits `select` with the position as index."""
    return scripted(SCRIPT)


def rows_message(
    rows: Sequence[TokenRow],
    tokens: Sequence[str],
    masked: Sequence[bool],
    *,
    hint: str,
    scale: Sequence[str],
    chosen: int | None = None,
) -> str:
    """The rows as JSON text; `<` is escaped, so that no token can look like a tag.

    hint: what the rows are, to a screen reader. scale: the words at both ends of the legend. chosen: a marked position.
    """
    lanes = [vars(row) for row in rows]
    message = {"hint": hint, "scale": scale, "chosen": chosen, "tokens": tokens, "masked": masked, "lanes": lanes}
    return json.dumps(message, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
