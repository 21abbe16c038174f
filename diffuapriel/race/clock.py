"""One clock per device: the host's on a CPU, the device's own events on CUDA.

A mark costs next to nothing and nothing waits for the device while a run goes on; `seconds` resolves two
marks afterwards. Everything in this package that says milliseconds was measured by this clock.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Python's garbage collector waits meanwhile: its pauses would be taken for the model's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Clock:
    """Marks moments on `device` and gives the seconds between two of them."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.kind = {"cuda": "device events", "mps": "host clock after synchronizing"}.get(
            self.device.type, "time.perf_counter"
        )

    def mark(self) -> Any:
        """A moment: after everything queued on the device so far."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; on CUDA this waits until the second has been reached."""
        if self.device.type == "cuda":
            end.synchronize()
            return start.elapsed_time(end) / 1000.0
        return end - start
