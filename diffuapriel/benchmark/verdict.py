"""What the paper reports, to be drawn beside what was measured here, and never mixed with it.

Source: arXiv:2511.15927, "DiffuApriel" (from version 3 on "DiffuMamba"). Versions 1 and 3 give the inference
throughput over that of the Transformer (DiffuTran) as "up to" figures for long sequences; the length at which each
was reached is not known here, so a figure is a level, not a point.

What stands beside a sweep: who the entries were, what was fair, and where the Transformer wins.

A race's result carries all this in its entries; a sweep's holds names and times alone, so the facts of its entries are
taken when it starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffuapriel.benchmark.entry import Entry, distinct_names
from diffuapriel.benchmark.result import matched_parameters, what_ran

if TYPE_CHECKING:
    from diffuapriel.benchmark.sweep import SweepResult


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


BASELINE = "diffutran"


@dataclass(frozen=True)
class EntryFacts:
    """A entry as a result states it; `name` is the name that it has in the result."""

    name: str
    architecture: str
    tokenizer: str
    parameters: int
    weights: str
    dtype: str
    device: str
    attention: str
    scan: str
    form: str

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> tuple[EntryFacts, ...]:
        """The facts of all entries of a sweep or race, under the names that its result gives them."""
        same = ("architecture", "parameters", "weights", "dtype", "attention", "scan", "form")
        return tuple(
            cls(
                name=name,
                tokenizer=entry.tokenizer.name,
                device=str(entry.device),
                **{field: getattr(entry, field) for field in same},
            )
            for name, entry in zip(distinct_names(list(entries)), entries, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def baseline_of(facts: Sequence[EntryFacts]) -> EntryFacts | None:
    """The entry that the others are held against: the first DiffuTran, None where none runs."""
    return next((entry for entry in facts if entry.architecture == BASELINE), None)


def speed_ratios(result: SweepResult, entry: str, baseline: str) -> dict[int, float]:
    """Length to how many times as fast as `baseline` the entry is; below 1 the baseline wins."""
    own, other = result.curve(entry), result.curve(baseline)
    return {length: other[length] / own[length] for length in sorted(own.keys() & other.keys())}


def baseline_wins(result: SweepResult, facts: Sequence[EntryFacts]) -> list[str]:
    """One sentence for each other entry: at which measured lengths DiffuTran was the faster one, or at none."""
    baseline = baseline_of(facts)
    lines = []
    for entry in facts:
        if baseline is None or entry.architecture == BASELINE:
            continue
        ratios = speed_ratios(result, entry.name, baseline.name)
        won = [length for length, ratio in ratios.items() if ratio < 1]
        if not ratios:
            continue
        if won:
            most = 1 / min(ratios.values())
            lines.append(
                f"{baseline.name} wins against {entry.name} at {_listed(won)} tokens, by {most:.2f}x at most."
            )
        else:
            lines.append(f"{baseline.name} wins against {entry.name} at no measured length.")
    return lines


def verdicts(result: SweepResult, facts: Sequence[EntryFacts]) -> list[str]:
    """Where the curves of each pair of entries cross, and where DiffuTran wins, in sentences."""
    crossovers = result.crossovers
    pairs = [f"{cross.a} against {cross.b}: " if len(crossovers) > 1 else "" for cross in crossovers]
    crossed = [pair + cross.message for pair, cross in zip(pairs, crossovers, strict=True)]
    return crossed + baseline_wins(result, facts)


def sweep_fairness(result: SweepResult, facts: Sequence[EntryFacts]) -> list[str]:
    """One sentence per fact, in the order a reader asks for them; as `RaceResult.fairness` for a race."""
    first = facts[0]
    rows = "canvas" if result.batch == 1 else "canvases"
    threads = (
        ""
        if first.device.startswith("cuda")
        else f", {result.threads} {'thread' if result.threads == 1 else 'threads'}"
    )
    dtypes = " and ".join(sorted({entry.dtype for entry in facts}))
    entries: Any = tuple(facts)
    return [
        f"Same work: one forward pass over {result.batch} {rows}, every second token masked, logits for the masked "
        "ones.",
        f"Timed one after the other, never together: one warm-up at each length, then {result.repeats} runs in an "
        "order that turns round with every run; figures are medians, bars from least to most.",
        matched_parameters(entries),
        " ".join(
            [
                what_ran("Attention kernel", {entry.name: entry.attention for entry in facts}),
                what_ran("Scan", {entry.name: entry.scan for entry in facts}),
                *_forms(facts),
            ]
        ),
        f"{dtypes} on {first.device} ({result.machine}{threads}). Peak memory: {result.memory_method}.",
    ]


def _forms(facts: Sequence[EntryFacts]) -> list[str]:
    forms, weights = {entry.form for entry in facts}, {entry.weights for entry in facts}
    unlike = "; ".join(f"{entry.name}: {entry.form}" for entry in facts)
    return [
        f"NOT treated alike: {unlike}." if len(forms) > 1 else f"All entries alike: {forms.pop()}.",
        f"Weights: {' against '.join(sorted(weights, reverse=True))}.",
    ]


def _listed(lengths: list[int]) -> str:
    """'256', '256 and 512', '256, 512 and 1,024'."""
    words = [f"{length:,}" for length in lengths]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
