"""The results that a visitor has measured: kept on the server for the visit, a few for each visitor.

Traces are not kept, only figures, so that a room of visitors takes a few megabytes. Nothing is written to disk.
"""

from __future__ import annotations

import datetime
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.strings.language import texts

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import EntryFacts, RaceResult
    from diffuapriel.benchmark.sweep import SweepResult

MOST_RESULTS = 12  # of one visitor; the oldest goes first
MOST_VISITORS = 256
SCHEMA = "diffuapriel-results"
VERSION = 1


@dataclass(frozen=True)
class Kept:
    """One measurement: a race or a sweep. `facts` says who the entries of a sweep were."""

    number: int  # 1, 2, ... in this visit
    measured: str  # ISO time
    race: RaceResult | None = None
    sweep: SweepResult | None = None
    facts: tuple[EntryFacts, ...] = ()

    @property
    def kind(self) -> str:
        """'race' or 'sweep'."""
        return "race" if self.race else "sweep"

    @property
    def title(self) -> str:
        """What it was, in a line."""
        if self.race:
            entries = " / ".join(f"{entry.name} {entry.ms_per_step:.3g} ms" for entry in self.race.entries)
            return texts.KEPT_RACE.format(
                number=self.number, length=self.race.length, steps=self.race.steps, entries=entries
            )
        assert self.sweep is not None, "a result is of a race or of a sweep"
        top = max((p.length for p in self.sweep.points), default=0)
        return texts.KEPT_SWEEP.format(number=self.number, top=top, entries=" / ".join(self.sweep.entries))

    def fairness(self) -> list[str]:
        """What was fair, in sentences."""
        from diffuapriel.benchmark.verdict import sweep_fairness

        if self.race:
            return self.race.fairness()
        assert self.sweep is not None, "a result is of a race or of a sweep"
        return sweep_fairness(self.sweep, self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the package's own format of the result, and what stands beside it."""
        result = self.race or self.sweep
        assert result is not None, "a result is of a race or of a sweep"
        about = {"number": self.number, "kind": self.kind, "measured": self.measured, "title": self.title}
        facts = {"facts": [entry.to_dict() for entry in self.facts]} if self.facts else {}
        return {**about, "result": result.to_dict(), **facts, "fairness": self.fairness()}


def document(kept: Sequence[Kept]) -> dict[str, Any]:
    """Several results as one JSON object."""
    return {"schema": SCHEMA, "version": VERSION, "results": [one.to_dict() for one in kept]}


class Shelf:
    """The results of every visitor, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visitors: OrderedDict[str | None, list[Kept]] = OrderedDict()
        self._count: dict[str | None, int] = {}

    def add(
        self,
        session: str | None,
        *,
        race: RaceResult | None = None,
        sweep: SweepResult | None = None,
        facts: tuple[EntryFacts, ...] = (),
    ) -> Kept:
        """Keep one result without its traces; of a caller without a session nothing is kept, it would be anybody's."""
        if race:
            race = replace(race, entries=tuple(replace(entry, trace=None) for entry in race.entries))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if session is None:
            return Kept(0, now, race, sweep, facts)
        with self._lock:
            self._count[session] = self._count.get(session, 0) + 1
            kept = Kept(self._count[session], now, race, sweep, facts)
            mine = self._visitors.setdefault(session, [])
            mine.append(kept)
            del mine[:-MOST_RESULTS]
            self._visitors.move_to_end(session)
            while len(self._visitors) > MOST_VISITORS:
                gone, _ = self._visitors.popitem(last=False)
                self._count.pop(gone, None)
        return kept

    def of(self, session: str | None, numbers: Sequence[int] | None = None) -> list[Kept]:
        """A visitor's results, oldest first; only those of `numbers` where given."""
        with self._lock:
            mine = list(self._visitors.get(session, ()))
        return mine if numbers is None else [kept for kept in mine if kept.number in numbers]

    def forget(self, session: str | None) -> None:
        """The visitor has left, or wants to begin anew."""
        with self._lock:
            self._visitors.pop(session, None)
            self._count.pop(session, None)

    def __len__(self) -> int:
        return len(self._visitors)
