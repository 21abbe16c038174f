"""The rows of tokens of the Inside tab, one per model, colored by influence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.strings.language import texts
from app.ui.token_rows import LEVELS, TokenRow, rows_message

if TYPE_CHECKING:
    from app.inside.request import InspectRequest
    from diffuapriel.interpret.influence import Influence

DECADES = 2  # the colors start at a hundredth of the strongest influence
FAR = 16  # tokens: what is farther away counts as far


@dataclass(frozen=True)
class InspectedModel:
    """What was measured of one model; `answer` is the text of the token that it predicts."""

    label: str
    influence: Influence
    answer: str
    trained: bool = True
    architecture: str = ""


def view_message(asked: InspectRequest, mask_id: int, models: Sequence[InspectedModel]) -> str:
    """The rows of tokens, one per model."""
    masked = (asked.ids == mask_id).tolist()
    rows = [
        TokenRow(
            one.label,
            entry_note(one, asked.position),
            levels(one.influence, asked.position),
            titles(one.influence, asked.position, asked.tokens, masked),
        )
        for one in models
    ]
    words = {"hint": texts.INSIDE_HINT, "scale": texts.INSIDE_SCALE}
    return rows_message(rows, asked.tokens, masked, **words, chosen=asked.position)


def levels(influence: Influence, position: int) -> list[int]:
    """A color for every position but the chosen one, on a logarithmic scale below the strongest; -1: none."""
    values = [0.0 if math.isnan(v) or p == position else v for p, v in enumerate(influence.values.tolist())]
    strongest = max(values)
    shares = [1 + math.log10(v / strongest) / DECADES if v > 0 else -1.0 for v in values]
    return [min(LEVELS - 1, math.floor(LEVELS * share)) if share >= 0 else -1 for share in shares]


def titles(influence: Influence, position: int, tokens: Sequence[str], masked: Sequence[bool]) -> list[str]:
    """The title of each token: its text, its position, its share of the influence."""
    found = []
    for p, (share, token) in enumerate(zip(influence.share.tolist(), tokens)):
        name = texts.INSIDE_MASKED if masked[p] else f"“{token}”"
        text = texts.INSIDE_UNKNOWN if math.isnan(share) else texts.INSIDE_SHARE
        text = texts.INSIDE_ASKED if p == position else text
        found.append(text.format(token=name, position=p, share=share))
    return found


def entry_note(model: InspectedModel, position: int) -> str:
    """The answer, and how much of the influence comes from the left, from the right and from far away."""
    share = model.influence.share.nan_to_num().tolist()
    others = sum(share) - share[position]
    line = texts.INSIDE_ANSWER.format(answer=model.answer, probability=model.influence.probability)
    line = line if model.trained else f"{texts.INSIDE_UNTRAINED}: {line}"
    if others <= 0:
        return line
    far = sum(s for p, s in enumerate(share) if abs(p - position) > FAR)
    left, right = sum(share[:position]), sum(share[position + 1 :])
    return line + texts.INSIDE_SIDES.format(left=left / others, right=right / others, far=far / others, n=FAR)
