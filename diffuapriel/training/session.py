"""What surrounds a run: the clock that plans it, the signals that end it, the lock that keeps it alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from diffuapriel.training.checkpoint import Progress
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import OneProcess

REPORT_SECONDS = 2.0  # between two looks at the losses: each waits for the device
CALIBRATION_SECONDS = 10.0  # at most, and at most a twentieth of `minutes`
RESERVE = 0.03  # of `minutes`, kept for validations and saves


class Clock:
    """Decides when to report, to save and to stop; turns `minutes` into a number of updates, once.

    The first update is left out of the measured speed (it allocates, and may compile). The number is fixed
    within the warm-up, where the learning rate does not depend on it: a run of `minutes` is therefore, update
    for update, the run of that many `steps`.

    A single process looks at the clock after every update. Several ranks have as many clocks, and must do the same at
    the same update: they meet at reports, whose number they agree on at the report before.
    """

    def __init__(
        self, config: TrainConfig, at: Progress, ranks: OneProcess, stop: threading.Event | None = None
    ) -> None:
        self.config, self.ranks, self.stop = config, ranks, stop
        self.session = time.monotonic()
        self.before = at.seconds
        self.first = at.step
        self.mark: tuple[int, float] | None = None  # (updates, seconds) at the first report
        self.reported = self.saved = self.session
        self.reported_step = at.step
        self.next_report = at.step + 1  # several ranks: the update after which they meet
        self.save_now = False  # whether the last report said so
        self.leaving = ranks.any(self._wants_to_leave)  # whether the session ends before the run does

    @property
    def seconds(self) -> float:
        """Seconds of training over all sessions."""
        return self.before + time.monotonic() - self.session

    @property
    def out_of_time(self) -> bool:
        """Whether this session has reached its hard stop."""
        limit = self.config.stop_after_minutes
        return limit is not None and time.monotonic() - self.session >= 60 * limit

    @property
    def _wants_to_leave(self) -> bool:
        return self.out_of_time or (self.stop is not None and self.stop.is_set())

    def report_due(self, at: Progress) -> bool:
        """After the first update, about every REPORT_SECONDS, and when the plan can wait no longer."""
        unplanned_end = at.total_steps is None and at.step == self.config.warmup_steps
        if unplanned_end or at.step == self.first + 1:
            return True
        if self.ranks.ranks > 1:
            return at.step >= self.next_report
        return self._wants_to_leave or time.monotonic() - self.reported >= REPORT_SECONDS

    def report(self, at: Progress) -> float:
        """Plan, and decide whether to save and to leave, for all ranks alike; returns tokens per second over all.

        Call it when the device has finished. All ranks must call it.
        """
        speed = self.speed(at)
        self.plan(at)
        ahead = max(
            1, int(REPORT_SECONDS * speed / self.config.tokens_per_step)
        )  # updates till the next report
        mine = (at.total_steps, self.seconds, ahead, self.save_due())
        at.total_steps, at.seconds, ahead, self.save_now = self.ranks.same(mine)
        self.next_report = at.step + ahead
        self.leaving = self.ranks.any(self._wants_to_leave)
        return speed

    def save_due(self) -> bool:
        """Whether the state on disk is older than it may be; asking sets the clock back when it is."""
        now = time.monotonic()
        due = now - self.saved >= self.config.save_seconds
        if due:
            self.saved = now
        return due

    def speed(self, at: Progress) -> float:
        """Tokens a second since the last report. Call it when the device has finished."""
        now = time.monotonic()
        updates, seconds = at.step - self.reported_step, now - self.reported
        self.reported, self.reported_step = now, at.step
        return updates * self.config.tokens_per_step / max(seconds, 1e-9)

    def plan(self, at: Progress) -> None:
        """Fix `at.total_steps` as soon as the speed is known. Call it when the device has finished."""
        if at.total_steps is not None or self.config.minutes is None:
            return
        if self.mark is None:
            self.mark = (at.step, self.seconds)
        budget = 60 * self.config.minutes
        updates, measured = at.step - self.mark[0], self.seconds - self.mark[1]
        enough = measured >= min(CALIBRATION_SECONDS, budget / 20) or at.step >= self.config.warmup_steps
        if updates > 0 and enough:
            left = budget * (1 - RESERVE) - self.seconds
            at.total_steps = at.step + max(0, int(left * updates / max(measured, 1e-9)))
        elif at.step >= self.config.warmup_steps:  # a warm-up of one update: nothing to measure by
            at.total_steps = at.step + max(
                0, int((budget - self.seconds) * at.step / max(self.seconds, 1e-9))
            )


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Within the block Ctrl-C and SIGTERM set the event instead of ending the process; a second one ends it."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    earlier = {kind: signal.getsignal(kind) for kind in kinds}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, earlier[signal.Signals(number)])

    for kind in kinds:
        signal.signal(kind, ask)
    try:
        yield asked
    finally:
        for kind, handler in earlier.items():
            signal.signal(kind, handler)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process. Raises RuntimeError when another run writes there.

    The lock is the operating system's and ends with the process, so a killed run leaves none behind. Rank 0 holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # no fcntl there
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by data workers
        except OSError:
            raise RuntimeError(
                f"another run is writing to {folder}; wait for it, or choose another folder"
            ) from None
        yield
