"""Numbers from the host for the next step, sent while the device is busy with this one.

The copy runs on the device's own stream, behind the step that still reads the numbers before, so nothing has to be
awaited there. Only the buffer on the host must not be written while it is being read: there are two, and each is
filled again when its copy, two steps ago, is over. That also keeps the host from running far ahead.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Feed:
    """Fills `target`, a tensor that stays where it is, with new numbers for each step."""

    def __init__(self, target: Tensor) -> None:
        self.target = target
        self._sent = 0
        pinned = target.is_cuda  # an asynchronous copy needs memory that the system cannot move
        self._buffers = [torch.empty(target.shape, dtype=target.dtype, pin_memory=pinned) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)] if pinned else []

    def send(self, values: NDArray[np.float64]) -> None:
        """`values`, shaped as the target, will be there for all that is launched from now on."""
        turn = self._sent % 2
        if self._copied:
            self._copied[turn].synchronize()
        np.copyto(self._buffers[turn].numpy(), values)
        self.target.copy_(self._buffers[turn], non_blocking=True)
        if self._copied:
            self._copied[turn].record(torch.cuda.current_stream(self.target.device))
        self._sent += 1
