"""The tour: one line above the canvas that leads a visitor through five things to try, once.

tour.js follows the player and the page; the browser remembers how far a visitor has come.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.strings.language import texts
from app.ui.inputs import scripted
from app.unmask.request import ORDERS

SCRIPT = Path(__file__).with_name("tour.js")


def line() -> dict[str, Any]:
    """Arguments of a `gr.HTML` that is the tour's line."""
    words = texts.TOUR | {"race": texts.RACE_TAB, "one": ORDERS["left"]}
    value = json.dumps(words, ensure_ascii=False).replace("<", "\\u003c")
    return {**scripted(SCRIPT, '<div class="da-tour" role="region"></div>', value), "elem_id": "unmask-tour"}
