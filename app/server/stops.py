"""Cancellation: one flag per visitor, checked between two steps of that visitor's run.

Pressing Run arms the flag at once, before the visitor's turn in the queue, so that Stop also ends a run that is
still waiting. A stopped run ends by itself and keeps its result so far, which Gradio's `cancels` would discard.
Closing the page closes the run's generator instead; that needs no flag.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_FLAGS = 1000  # of pages that pressed Run and never ran; the oldest goes first


class Stops:
    """The flags of one kind of run, by session."""

    def __init__(self) -> None:
        self._flags: dict[str | None, threading.Event] = {}

    def arm(self, session: str | None) -> None:
        """Run was pressed: a fresh flag."""
        self._flags[session] = threading.Event()
        while len(self._flags) > MOST_FLAGS:
            self._flags.pop(next(iter(self._flags)))

    @contextmanager
    def running(self, session: str | None) -> Iterator[threading.Event]:
        """The visitor's flag for as long as the run lasts; a new one for a caller of the API, who pressed nothing.

        If the visitor has pressed Run again meanwhile, the new run keeps its own flag.
        """
        flag = self._flags.setdefault(session, threading.Event())
        try:
            yield flag
        finally:
            if self._flags.get(session) is flag:
                self.clear(session)

    def stop(self, session: str | None) -> None:
        if flag := self._flags.get(session):
            flag.set()

    def clear(self, session: str | None) -> None:
        """The run is over, or the visitor has left."""
        self._flags.pop(session, None)

    def armed(self, session: str | None) -> bool:
        """Whether the visitor has a run that waits or is in progress."""
        return session in self._flags

    def __len__(self) -> int:
        return len(self._flags)
