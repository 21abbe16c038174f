"""What the paper reports, to be drawn beside what was measured here, and never mixed with it.

Source: arXiv:2511.15927, "DiffuApriel" (from version 3 on "DiffuMamba"). Versions 1 and 3 give the inference
throughput over that of the Transformer (DiffuTran) as "up to" figures for long sequences; the length at which each
was reached is not known here, so a figure is a level, not a point.
"""

from __future__ import annotations

from dataclasses import dataclass

V1 = "at 1.3B on long sequences, up to 65K tokens, on an H100"
V3 = "in the abstract, without a length"


@dataclass(frozen=True)
class Published:
    """A speed over DiffuTran's: `ratio` of `architecture`, in `version` of the paper, in `setting`."""

    architecture: str
    ratio: float
    version: str
    setting: str


PUBLISHED = (
    Published("diffuapriel", 4.4, "v1", V1),
    Published("diffuapriel-h", 2.6, "v1", V1),
    Published("diffuapriel", 8.2, "v3", V3),
    Published("diffuapriel-h", 4.3, "v3", V3),
)


def published_ratios(architectures: set[str] | frozenset[str]) -> list[Published]:
    """The paper's figures for these architectures, in the paper's order."""
    return [figure for figure in PUBLISHED if figure.architecture in architectures]
