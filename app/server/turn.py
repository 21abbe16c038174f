"""The machine's one turn: a lock that is given in the order in which it was asked for."""

from __future__ import annotations

import threading
import time
from collections import deque

POLL_SECONDS = 0.1  # how soon somebody who waits sees that they are stopped


class Turn:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # who waits, in order; the first one may hold it
        self.taken = False

    def take(self, seconds: float, stopped: threading.Event | None = None) -> bool:
        """Wait for the turn; False where it has not come within `seconds`, or `stopped` was set before."""
        me, until = object(), time.monotonic() + seconds
        with self._changed:
            self._line.append(me)
            try:
                while self.taken or self._line[0] is not me:
                    left = until - time.monotonic()
                    if left <= 0 or (stopped and stopped.is_set()):
                        return False
                    self._changed.wait(min(left, POLL_SECONDS) if stopped else left)
                self.taken = True
                return True
            finally:
                self._line.remove(me)
                self._changed.notify_all()

    def give_back(self) -> None:
        """End the turn; whoever waits longest is next."""
        with self._changed:
            self.taken = False
            self._changed.notify_all()
