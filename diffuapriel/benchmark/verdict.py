"""The sentences beside a sweep: where the curves cross, where the Transformer wins, and what was fair.

Also the speed ratios that the paper reports, to be drawn beside what was measured here and never mixed with it:
arXiv:2511.15927, "DiffuApriel" (from version 3 on "DiffuMamba"). Versions 1 and 3 give the inference throughput over
that of the Transformer (DiffuTran) as "up to" figures for long sequences. The length at which each was reached is not
known here, so a figure is a level, not a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffuapriel.benchmark.result import (
    EntryFacts,
    EntryResult,
    RaceResult,
    machine_facts,
    matched_parameters,
    what_ran,
)
from diffuapriel.benchmark.sweep import SweepResult
from diffuapriel.benchmark.timing import MIN_ROUNDS

BASELINE = "diffutran"
NOISE = 1.1  # a smaller ratio of one or two runs may be the machine's
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


def race_ranking(race: RaceResult) -> list[tuple[EntryResult, float | None]]:
    """The entries, fastest first, each with its time as a multiple of the first's; None where it is too close to call.

    That is: the runs of the two overlap, or there are fewer than three of each and the ratio is below NOISE.
    """
    first, *others = sorted(race.entries, key=lambda entry: entry.seconds)
    ranking: list[tuple[EntryResult, float | None]] = [(first, 1.0)]
    for other in others:
        ratio = other.seconds / first.seconds
        clear = other.seconds_min > first.seconds_max and (race.repeats >= MIN_ROUNDS or ratio >= NOISE)
        ranking.append((other, ratio if clear else None))
    return ranking


def published_ratios(architectures: set[str] | frozenset[str]) -> list[Published]:
    """The paper's figures for these architectures, in the paper's order."""
    return [figure for figure in PUBLISHED if figure.architecture in architectures]


def baseline_of(facts: Sequence[EntryFacts]) -> EntryFacts | None:
    """The entry that the others are compared with: the first DiffuTran, or None."""
    return next((entry for entry in facts if entry.architecture == BASELINE), None)


def speed_ratios(result: SweepResult, entry: str, baseline: str) -> dict[int, float]:
    """How many times as fast as `baseline` the entry is, by length; below 1 the baseline wins."""
    own, other = result.curve(entry), result.curve(baseline)
    return {length: other[length] / own[length] for length in sorted(own.keys() & other.keys())}


def baseline_wins(result: SweepResult, facts: Sequence[EntryFacts]) -> list[str]:
    """One sentence per other entry: the measured lengths at which DiffuTran was faster."""
    baseline = baseline_of(facts)
    lines = []
    for entry in facts:
        if baseline is None or entry.architecture == BASELINE:
            continue
        ratios = speed_ratios(result, entry.name, baseline.name)
        won = [f"{length:,}" for length, ratio in ratios.items() if ratio < 1]
        wins = f"{baseline.name} wins against {entry.name} at"
        if won:
            lengths = " and ".join(filter(None, (", ".join(won[:-1]), won[-1])))
            lines.append(f"{wins} {lengths} tokens, by {1 / min(ratios.values()):.2f}x at most.")
        elif ratios:
            lines.append(f"{wins} no measured length.")
    return lines


def verdicts(result: SweepResult, facts: Sequence[EntryFacts]) -> list[str]:
    """Where the curves of each pair of entries cross, and where DiffuTran wins, in sentences."""
    crossovers = result.crossovers
    pairs = [f"{cross.a} against {cross.b}: " if len(crossovers) > 1 else "" for cross in crossovers]
    crossed = [pair + cross.message for pair, cross in zip(pairs, crossovers, strict=True)]
    return crossed + baseline_wins(result, facts)


def sweep_fairness(result: SweepResult, facts: Sequence[EntryFacts]) -> list[str]:
    """One sentence per fact, as `RaceResult.fairness` for a race."""
    canvases = "canvas" if result.batch == 1 else "canvases"
    return [
        f"Same work: one forward pass over {result.batch} {canvases}, every second token masked, logits for the "
        "masked ones.",
        f"Timed one after the other, never together: one warm-up at each length, then {result.repeats} runs in an "
        "order that is reversed with each run; figures are medians, bars from least to most.",
        matched_parameters(facts),
        what_ran(facts),
        f"{machine_facts(facts, result.machine, result.threads)}. Peak memory: {result.memory_method}.",
    ]
