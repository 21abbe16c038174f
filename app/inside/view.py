"""The rows of tokens of the Inside tab: what travels to app/inside/view.js, and what a visitor's choice sends back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.strings.language import texts

if TYPE_CHECKING:
    from app.inside.request import Question
    from diffuapriel.interpret.influence import Influence

SCRIPT = Path(__file__).with_name("view.js")
LEVELS = 8  # colors of the player's scale
DECADES = 2  # the colors begin at a hundredth of the strongest
FAR = 16  # tokens: farther than this counts as far


@dataclass(frozen=True)
class Looked:
    """What one model said: its label on the page, its influence, the text of its answer, and whether it has learnt."""

    label: str
    influence: Influence
    answer: str
    trained: bool = True


def view_arguments() -> dict[str, Any]:
    """Arguments that make a `gr.HTML` into the rows of tokens; it emits `select` with the position as index."""
    return {
        "value": "",
        "html_template": '<div class="da-host"></div>',
        "css_template": "",
        "js_on_load": SCRIPT.read_text(encoding="utf-8"),
        "apply_default_css": False,
    }


def view_message(question: Question, mask_id: int, looked: Sequence[Looked]) -> str:
    """The rows as JSON text; `<` is escaped, so that no token can look like a tag."""
    masked = (question.ids == mask_id).tolist()
    lanes = [
        {
            "label": one.label,
            "note": entry_note(one, question.position),
            "levels": levels(one.influence, question.position),
            "titles": titles(one.influence, question.position, question.tokens, masked),
        }
        for one in looked
    ]
    message = {
        "hint": texts.INSIDE_HINT,
        "scale": texts.INSIDE_SCALE,
        "chosen": question.position,
        "tokens": question.tokens,
        "masked": masked,
        "lanes": lanes,
    }
    return json.dumps(message, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def levels(influence: Influence, position: int) -> list[int]:
    """A color for every position but the chosen one, on a logarithmic scale below the strongest; -1: none."""
    values = [0.0 if math.isnan(v) or p == position else v for p, v in enumerate(influence.values.tolist())]
    strongest = max(values)
    shares = [1 + math.log10(v / strongest) / DECADES if v > 0 else -1.0 for v in values]
    return [min(LEVELS - 1, math.floor(LEVELS * share)) if share >= 0 else -1 for share in shares]


def titles(influence: Influence, position: int, tokens: Sequence[str], masked: Sequence[bool]) -> list[str]:
    """What a token says of itself: its text, its place, its share."""
    found = []
    for p, (share, token) in enumerate(zip(influence.share.tolist(), tokens)):
        name = texts.INSIDE_MASKED if masked[p] else f"“{token}”"
        if p == position:
            found.append(texts.INSIDE_ASKED.format(position=p))
        elif math.isnan(share):
            found.append(texts.INSIDE_UNKNOWN.format(token=name, position=p))
        else:
            found.append(texts.INSIDE_SHARE.format(token=name, position=p, share=share))
    return found


def entry_note(looked: Looked, position: int) -> str:
    """The answer, and where it came from: left, right, far."""
    share = looked.influence.share.nan_to_num().tolist()
    others = sum(share) - share[position]
    line = texts.INSIDE_ANSWER.format(answer=looked.answer, probability=looked.influence.probability)
    line = line if looked.trained else f"{texts.INSIDE_UNTRAINED}: {line}"
    if others <= 0:
        return line
    far = sum(s for p, s in enumerate(share) if abs(p - position) > FAR)
    return line + texts.INSIDE_SIDES.format(
        left=sum(share[:position]) / others,
        right=sum(share[position + 1 :]) / others,
        far=far / others,
        n=FAR,
    )
