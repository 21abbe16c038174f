"""The study of block lengths: its models, their bounds at every length, and what is compared with what.

    mixed               trained on block lengths drawn from all of LENGTHS
    S = 1, ..., whole   trained at one block length alone
    no reverse scan     mixed; inside a block only attention looks ahead (pure: nothing does)
    noise level         trained at TIME_CONDITIONED alone and told the noise level

Each is scored at all of LENGTHS, also those that it was not trained for: excess NELBO where the corpus's entropy is
known, bits per byte elsewhere. Models of one architecture are compared at each length on the same sequences under the
same noise.
"""

from __future__ import annotations

from typing import Any

from diffuapriel.config import ARCHITECTURES, ModelConfig, preset

LENGTHS = (1, 4, 16, 64, 0)  # 0: the whole sequence
TIME_CONDITIONED = 16
MIXED, NO_REVERSE, CONDITIONED = "mixed", "mixed, no reverse scan", f"S = {TIME_CONDITIONED}, noise level"


def name_of(block_length: int) -> str:
    """Of a model that is trained at one block length alone."""
    return f"S = {block_length or 'whole'}"


def models(size: str, tokenizer: str) -> dict[str, ModelConfig]:
    """The models of the study by name, "architecture, kind"."""
    found = {}
    for architecture in ARCHITECTURES:
        kinds: dict[str, dict[str, Any]] = {MIXED: {"block_lengths": LENGTHS}}
        kinds |= {name_of(length): {"block_lengths": (length,)} for length in LENGTHS}
        if architecture != "diffutran":
            kinds[NO_REVERSE] = {"block_lengths": LENGTHS, "block_reverse": False}
        kinds[CONDITIONED] = {"block_lengths": (TIME_CONDITIONED,), "time_conditioning": True}
        for kind, changes in kinds.items():
            options = {"tokenizer": tokenizer, "time_conditioning": False, **changes}
            found[f"{architecture}, {kind}"] = preset(size, architecture, **options)
    return found


def pairs(names: list[str]) -> list[tuple[str, str, int]]:
    """What is compared, at which block length, of the entries that there are."""
    found = []
    for architecture in ARCHITECTURES:
        mixed, conditioned = f"{architecture}, {MIXED}", f"{architecture}, {CONDITIONED}"
        found += [(mixed, f"{architecture}, {name_of(length)}", length) for length in LENGTHS]
        found += [(mixed, f"{architecture}, {NO_REVERSE}", length) for length in LENGTHS]
        found.append((f"{architecture}, {name_of(TIME_CONDITIONED)}", conditioned, TIME_CONDITIONED))
    return [pair for pair in found if pair[0] in names and pair[1] in names]
