"""The results that a visitor has measured: kept on the server for the visit, a few per visitor.

Figures are kept, and the recordings of the newest races of all visitors, so that many visitors take a few megabytes.
Nothing is written to disk.
"""

from __future__ import annotations

import datetime
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.strings.language import texts
from app.strings.numbers import figure

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import EntryFacts, RaceResult
    from diffuapriel.benchmark.sweep import SweepResult

MOST_RESULTS = 12  # per visitor; the oldest goes first
MOST_VISITORS = 256
MOST_RECORDED = 8  # races with a recording, of all visitors: up to 2 MB each


@dataclass(frozen=True)
class SavedResult:
    """One measurement: a race, or a sweep with the facts of its entries."""

    number: int = 0  # 1, 2, ... in this visit; 0 for one that is not kept
    measured: str = ""  # ISO time
    race: RaceResult | None = None
    sweep: SweepResult | None = None
    facts: tuple[EntryFacts, ...] = ()

    @property
    def kind(self) -> str:
        """'race' or 'sweep'."""
        return "race" if self.race else "sweep"

    @property
    def title(self) -> str:
        """What was measured, in one line."""
        if self.race:
            times = [
                f"{figure(entry.ms_per_step)} ms" if self.race.equal_steps else f"{figure(entry.seconds)} s"
                for entry in self.race.entries
            ]
            entries = " / ".join(f"{entry.name} {time}" for entry, time in zip(self.race.entries, times))
            return texts.KEPT_RACE.format(
                number=self.number, length=self.race.length, steps=self.race.steps, entries=entries
            )
        assert self.sweep is not None, "a result is that of a race or of a sweep"
        top = max((p.length for p in self.sweep.points), default=0)
        return texts.KEPT_SWEEP.format(number=self.number, top=top, entries=" / ".join(self.sweep.entries))

    def fairness(self) -> list[str]:
        """What was equal for all entries and what was not, in sentences."""
        from diffuapriel.benchmark.verdict import sweep_fairness

        if self.race:
            return self.race.fairness()
        assert self.sweep is not None, "a result is that of a race or of a sweep"
        return sweep_fairness(self.sweep, self.facts)


class ResultStore:
    """The results of all visitors, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visitors: OrderedDict[str | None, list[SavedResult]] = OrderedDict()
        self._count: dict[str | None, int] = {}
        self._recorded: deque[tuple[str | None, int]] = deque()  # oldest first

    def add(self, session: str | None, result: SavedResult) -> SavedResult:
        """Number and keep a result without its traces. A caller without a session gets it back, but nothing is kept.

        One that was measured before, and read from a file, keeps its time.
        """
        race = result.race
        if race:
            race = replace(race, entries=tuple(replace(entry, trace=None) for entry in race.entries))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        result = replace(result, measured=result.measured or now, race=race)
        if session is None:  # anybody could read it
            return result
        with self._lock:
            self._count[session] = self._count.get(session, 0) + 1
            result = replace(result, number=self._count[session])
            mine = self._visitors.setdefault(session, [])
            mine.append(result)
            del mine[:-MOST_RESULTS]
            self._visitors.move_to_end(session)
            while len(self._visitors) > MOST_VISITORS:
                oldest, _ = self._visitors.popitem(last=False)
                self._count.pop(oldest, None)
            if race:
                self._recorded.append((session, result.number))
                while len(self._recorded) > MOST_RECORDED:
                    self._drop_recording(*self._recorded.popleft())
        return result

    def _drop_recording(self, session: str | None, number: int) -> None:
        mine = self._visitors.get(session, [])
        for place, one in enumerate(mine):
            if one.number == number and one.race:
                mine[place] = replace(one, race=one.race.without_replays())

    def of(self, session: str | None, numbers: Sequence[int] | None = None) -> list[SavedResult]:
        """A visitor's results, oldest first; only those of `numbers` where given."""
        with self._lock:
            mine = list(self._visitors.get(session, ()))
        return mine if numbers is None else [result for result in mine if result.number in numbers]

    def clear(self, session: str | None) -> None:
        """Drop the results of a visitor who has left or starts again."""
        with self._lock:
            self._visitors.pop(session, None)
            self._count.pop(session, None)

    def __len__(self) -> int:
        return len(self._visitors)
