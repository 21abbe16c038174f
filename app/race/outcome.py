"""The result of a race in one sentence, with that of the same models at other lengths beside it; a sweep in some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.race.store import SavedResult
from app.strings.language import texts, translated

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import EntryFacts, RaceResult


def outcome(race: RaceResult) -> str:
    """'At 2,048 tokens Mamba wins: attention takes 2.1 times as long, the hybrid 1.3 times.'"""
    return " ".join([_times(race), *([passes(race)] if race.own_rules else [])])


def passes(race: RaceResult) -> str:
    """How many passes each entry took, and what a pass filled: the reason for the times where each has its own rule."""
    said = (
        texts.RACE_PASSES_OF.format(name=e.name, passes=e.forward_passes, rate=e.tokens_per_pass) for e in race.entries
    )
    return texts.RACE_PASSES.format(entries="; ".join(said))


def _times(race: RaceResult) -> str:
    from diffuapriel.benchmark.verdict import race_ranking

    (first, _), *others = race_ranking(race)
    names = entry_names(race.entries)
    length = race.length
    tied = [names[first.name], *(names[entry.name] for entry, ratio in others if ratio is None)]
    behind = [(names[entry.name], ratio) for entry, ratio in others if ratio is not None]
    parts = [
        (texts.RACE_BEHIND if number else texts.RACE_BEHIND_FIRST).format(name=name, ratio=ratio)
        for number, (name, ratio) in enumerate(behind)
    ]
    if len(tied) > 1:
        return texts.RACE_TIED.format(length=length, names=listed(tied), rest="".join(f"; {part}" for part in parts))
    if not parts:
        return texts.RACE_ALONE.format(length=length, name=names[first.name], seconds=first.seconds)
    return texts.RACE_WON.format(length=length, name=names[first.name], others=", ".join(parts))


def outcomes(race: RaceResult, earlier: Sequence[RaceResult]) -> str:
    """`outcome` of the race, and of the newest earlier ones of the same models at other lengths; shortest first."""
    entries = sorted(entry.name for entry in race.entries)
    newest = {one.length: one for one in (*earlier, race) if sorted(entry.name for entry in one.entries) == entries}
    return " ".join(outcome(newest[length]) for length in sorted(newest))


def entry_names(entries: Sequence[EntryFacts]) -> dict[str, str]:
    """How sentences call the entries: by their kind ('Mamba') where that says it all, else by their names.

    It does not where two are of one kind, and for models of blocks, whose block length is in the name.
    """
    kinds = [entry.architecture for entry in entries]
    in_blocks = any(entry.block_length is not None for entry in entries)
    if in_blocks or len(set(kinds)) < len(kinds) or set(kinds) - texts.KINDS.keys():
        return {entry.name: entry.name for entry in entries}
    return {entry.name: texts.KINDS[entry.architecture] for entry in entries}


def listed(names: Sequence[str]) -> str:
    """'A, B and C'."""
    return f"{', '.join(names[:-1])} {texts.AND} {names[-1]}"


def summary(result: SavedResult) -> list[str]:
    """The crossovers in words, where DiffuTran wins, and what was not run and why."""
    from diffuapriel.benchmark.verdict import verdicts

    assert result.sweep is not None, "only a sweep has a summary"
    sentences = filter(None, map(translated, verdicts(result.sweep, result.facts)))
    reasons = dict.fromkeys(translated(refused.message) for refused in result.sweep.refusals)
    return [*sentences, *(f"{texts.NOT_RUN}: {why}." if why else texts.NOT_RUN_LENGTHS for why in reasons)]
