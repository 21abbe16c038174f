"""Time limits, stop signals and the lock on a run's folder."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from diffuapriel.options import check_utf8
from diffuapriel.training.checkpoint import TrainState
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess

REPORT_SECONDS = 2.0  # between reports: each waits for the device
CALIBRATION_SECONDS = 10.0  # at most, and at most a twentieth of `minutes`
RESERVE = 0.03  # fraction of `minutes` kept for validations and saves


class TrainingClock:
    """Decides when to report, to save and to stop, and turns `minutes` into a number of steps, once.

    The first step is left out of the measured speed, since it allocates and may compile. The number is fixed within
    the warm-up, where the learning rate does not depend on it: a run of `minutes` is therefore, step for step, the run
    of that many `steps`.

    A single process reads the clock after every step. Several ranks have several clocks but must act at the same step:
    they synchronise at reports, and agree at each report on the step of the next.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: TrainState,
        processes: SingleProcess,
        stop: threading.Event | None = None,
    ) -> None:
        self.config, self.processes, self.stop = config, processes, stop
        self.session = time.monotonic()
        self.before = state.seconds
        self.first = state.step
        self.mark: tuple[int, float] | None = None  # (steps, seconds) at the first report
        self.reported = self.saved = self.session
        self.reported_step = state.step
        self.next_report = state.step + 1  # with several ranks
        self.save_now = False  # decided by the last report
        self.leaving = processes.any_rank(self._wants_to_leave)  # before the end of the run

    @property
    def seconds(self) -> float:
        """Seconds of training over all sessions."""
        return self.before + time.monotonic() - self.session

    @property
    def out_of_time(self) -> bool:
        """Whether this session has reached its hard time limit."""
        limit = self.config.stop_after_minutes
        return limit is not None and time.monotonic() - self.session >= 60 * limit

    @property
    def _wants_to_leave(self) -> bool:
        return self.out_of_time or (self.stop is not None and self.stop.is_set())

    def report_due(self, state: TrainState) -> bool:
        """True after the first step, about every REPORT_SECONDS, and when `plan` must decide."""
        plan_must_decide = state.total_steps is None and state.step == self.config.warmup_steps
        if plan_must_decide or state.step == self.first + 1:
            return True
        if self.processes.world_size > 1:
            return state.step >= self.next_report
        return self._wants_to_leave or time.monotonic() - self.reported >= REPORT_SECONDS

    def report(self, state: TrainState) -> float:
        """Plan, and decide whether to save and to leave, for all ranks; returns tokens per second over all of them.

        Call it when the device is idle. All ranks must call it.
        """
        now = time.monotonic()
        tokens = (state.step - self.reported_step) * self.config.tokens_per_step
        speed = tokens / max(now - self.reported, 1e-9)
        self.reported, self.reported_step = now, state.step
        self.plan(state)
        ahead = max(1, int(REPORT_SECONDS * speed / self.config.tokens_per_step))  # steps to the next report
        mine = (state.total_steps, self.seconds, ahead, now - self.saved >= self.config.save_seconds)
        state.total_steps, state.seconds, ahead, self.save_now = self.processes.broadcast(mine)
        if self.save_now:
            self.saved = now
        self.next_report = state.step + ahead
        self.leaving = self.processes.any_rank(self._wants_to_leave)
        return speed

    def plan(self, state: TrainState) -> None:
        """Fix `state.total_steps` as soon as the speed is known. Call it when the device is idle."""
        if state.total_steps is not None or self.config.minutes is None:
            return
        if self.mark is None:
            self.mark = (state.step, self.seconds)
        budget = 60 * self.config.minutes
        steps, measured = state.step - self.mark[0], self.seconds - self.mark[1]
        warm = state.step >= self.config.warmup_steps
        if steps > 0 and (measured >= min(CALIBRATION_SECONDS, budget / 20) or warm):
            left = budget * (1 - RESERVE) - self.seconds
            state.total_steps = state.step + max(0, int(left * steps / max(measured, 1e-9)))
        elif warm:  # a warm-up of one step: only the first step is there to measure
            left = budget - self.seconds
            state.total_steps = state.step + max(0, int(left * state.step / max(self.seconds, 1e-9)))


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Within the block Ctrl-C and SIGTERM set the event instead of ending the process; a second one ends it."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    earlier = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, handler in earlier.items():
            signal.signal(kind, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        restore()  # first: a second signal that came here would wait for ever for the lock of the event
        asked.set()

    for kind in kinds:
        signal.signal(kind, ask)
    try:
        yield asked
    finally:
        restore()


@contextmanager
def folder_lock(folder: Path) -> Iterator[Callable[[], None]]:
    """Reserve `folder` for this process. Raises RuntimeError when another run writes there, ValueError for its name.

    The lock belongs to the operating system and ends with the process, so a killed run leaves none behind. Gives a
    function to be called before something is written: if the file `lock` was deleted, it reserves the folder again, or
    raises RuntimeError when another run was faster. Raises FileExistsError for a file in the place of the state.
    """
    check_utf8("the folder of the run", str(folder.resolve()))  # no safetensors file in it could be opened
    folder.mkdir(parents=True, exist_ok=True)
    if (state := folder / "state").exists() and not state.is_dir():
        raise FileExistsError(f"{state} is a file, where a run keeps a folder; move it, or choose another folder")
    if os.name == "nt":  # fcntl is not available
        yield lambda: None
        return
    import fcntl

    file = folder / "lock"
    with ExitStack() as stack:

        def reserve() -> os.stat_result:
            stream = stack.enter_context(file.open("w"))
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers do not inherit it
            except OSError:
                raise RuntimeError(
                    f"another run is writing to {folder}; wait for it, or choose another folder"
                ) from None
            return os.fstat(stream.fileno())

        held = [reserve()]

        def keep() -> None:
            if not file.exists() or not os.path.samestat(file.stat(), held[-1]):
                held.append(reserve())

        yield keep
