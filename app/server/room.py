"""The room: the runs of all visitors who watch a model write, in one pass per step.

A run that has a seat takes part in the passes of its model (diffuapriel/sampling/shared.py) until it ends, pauses or
is stopped. Runs of a model of blocks share passes, and a cache, with those of the same block length,
or length of drafts. A pass takes the machine's one turn, so a race has the machine alone: the runs stand still
meanwhile.
Visitors beyond `Limits.batch` wait in the queue, which tells them for how long (`Room.seconds_left`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event
from typing import TYPE_CHECKING

from app.server.models import KEPT, ModelEntry, Models
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.config import SPECULATIVE, SamplerConfig
from diffuapriel.sampling.shared import Seat, SharedDenoiser, Stopped

if TYPE_CHECKING:
    from torch import Tensor

NEWEST = 0.3  # weight of the newest step in the mean of a run's step time


class RoomSeat:
    """A run's denoiser, which measures its steps. Calls raise Stopped once the visitor has stopped the run.

    Attributes: `steps_left`, what the run has still to do, as it says; `step_seconds`, a mean over its last steps;
    `cache_bytes`, of the text before the block that is being written, 0 without a cache.
    """

    def __init__(self) -> None:
        self.steps_left = 0
        self.step_seconds = 0.0
        self.denoiser: Seat | None = None  # None where the run was stopped before its model was there
        self.cache_bytes = 0
        self._last = 0.0

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        if self.denoiser is None:
            raise Stopped
        logits, now = self.denoiser(ids, sigma, positions), time.monotonic()
        self.cache_bytes = getattr(self.denoiser.shared.denoiser, "cache_bytes", 0)
        if self._last:
            took = now - self._last
            self.step_seconds += (took - self.step_seconds) * (NEWEST if self.step_seconds else 1.0)
        self._last = now
        return logits


class Room:
    """`seats`: the runs in progress. `most`: those that share a pass; with 1 every run has passes of its own."""

    def __init__(self, models: Models, most: int) -> None:
        self.models, self.most = models, most
        self._lock = threading.Lock()
        self.seats: list[RoomSeat] = []
        self._shared: OrderedDict[tuple[str, int | None, bool], SharedDenoiser] = OrderedDict()  # see `_open`

    @contextmanager
    def seat(self, model_entry: ModelEntry, stopped: Event, config: SamplerConfig | None = None) -> Iterator[RoomSeat]:
        """A place for a run, for as long as the block lasts; loads the model. config: of the run's sampler."""
        seat = RoomSeat()
        with ExitStack() as left:
            with suppress(Stopped):
                seat.denoiser = left.enter_context(
                    self._open(model_entry, stopped, config or SamplerConfig()).seat(stopped)
                )
            with self._lock:
                self.seats.append(seat)
            try:
                yield seat
            finally:
                with self._lock:
                    self.seats.remove(seat)

    def _open(self, model_entry: ModelEntry, stopped: Event, config: SamplerConfig) -> SharedDenoiser:
        with self.models.turn(stopped):
            model = self.models.load(model_entry).denoiser
        size = config.block_length if model_entry.block_lengths else None
        key = (model_entry.label, size, config.strategy == SPECULATIVE)
        with self._lock:
            shared = self._shared.get(key)
            if shared is None or getattr(shared.denoiser, "model", shared.denoiser) is not model:
                denoiser = denoiser_for(model, config)
                shared = self._shared[key] = SharedDenoiser(denoiser, self.most, self.models.turn)
            self._shared.move_to_end(key)
            for old in list(self._shared)[:-KEPT]:
                if not self._shared[old].seats:
                    del self._shared[old]
            return shared

    def seconds_left(self) -> list[float]:
        """Of every run, the seconds until it ends, as far as they can be told."""
        with self._lock:
            return [seat.steps_left * seat.step_seconds for seat in self.seats if seat.step_seconds]
