"""A step recorded once and replayed: one launch from the host instead of hundreds, and the host free to go ahead."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UPS = 2  # calls before the recording: compilation, kernel choice and workspaces belong before it


def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What replays `step` on the device's current stream.

    `step` works on tensors that stay where they are, and waits for nothing. It is called WARM_UPS times first, so
    what it changes must be set again before the first replay. Memory that it takes stays taken until the returned
    function is dropped.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU in the meantime: an app runs one for each visitor.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
    return graph.replay
