"""The one recorder of CUDA graphs: capture a step once, then replay it with a single launch instead of hundreds.

A graph holds addresses, so the step must work on tensors that stay where they are, and it must not wait for the
device (no .item(), no boolean index). Users: the engine (model/engine.py), generation (sampling/generate.py), the
training step (training/cudagraph.py) and the mixer benchmark (benchmark/gpu/mixer.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

WARM_UPS = 3  # calls before the capture, which must not compile, choose kernels or allocate workspaces

Result = TypeVar("Result")


def record(step: Callable[[], Result], device: torch.device, pool: Any = None) -> tuple[Callable[[], None], Result]:
    """Capture `step`. Returns (replay, result): replay() runs its kernels again on the device's current stream, and
    every replay overwrites the tensors of `result`, which the captured call returned.

    `step` is called WARM_UPS times before the capture, so whatever it changes must be reset before the first replay.
    The graph's memory is freed when `replay` and `result` are dropped.
    pool: from torch.cuda.graph_pool_handle(), for graphs that are never replayed at the same time: they share memory,
    all but their results.
    Raises RuntimeError when the step cannot be captured.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU during the capture: the app runs one thread per visitor.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = step()
    return graph.replay, result
