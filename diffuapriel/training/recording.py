"""The forward and backward pass of a part of an update, recorded once as a CUDA graph and replayed.

A small model's kernels are done before Python has launched the next: at `tiny` a GPU waits three quarters of the time.
A recording is one launch for all of them. It asks for shapes and addresses that stay:

    ids, t, noise     are copied into tensors of the recording's own
    masked positions  a number fixed beforehand of which some may be unmasked and count nothing (`most_masked`)
    gradients         are kept, set to zero between updates and added to
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffuapriel.diffusion.schedule import Schedule
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.ranks import OneProcess

AddGradient = Callable[..., Tensor]  # (ids, t, noise) to the loss; the gradient is added to the parameters
WARM_UPS = 3
DEVIATIONS = 8  # of the number of masked positions above its mean


def can_record(config: TrainConfig, ranks: OneProcess) -> bool:
    """Whether a run's updates can be recorded: compiled, on CUDA, in one process, and of texts that see each other."""
    alone = ranks.ranks == 1 and ranks.device.type == "cuda"
    return alone and config.compile and not config.document_boundaries


def most_masked(schedule: Schedule, config: TrainConfig) -> int:
    """So many positions of a part are masked at most, but for once in 10^15 parts, when the loss is NaN.

    With one part an update, times are stratified over it, and the number of masked tokens hardly varies. With more,
    each has its own stretch of times.
    """
    tokens = config.batch_size * config.length
    if config.accumulate > 1:
        return tokens
    t = (torch.arange(4096) + 0.5) / 4096
    mean = (1 - schedule.alpha(t)).mean().item() + 1 / config.batch_size
    return min(tokens, math.ceil(mean * tokens + DEVIATIONS * math.sqrt(tokens) / 2))


class Recorded:
    """`add(ids, t, noise)`, replayed: adds the gradient of a part to the parameters, which must keep theirs."""

    def __init__(
        self,
        add: AddGradient,
        model: nn.Module,
        schedule: Schedule,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        rows, length = config.batch_size, config.length
        most = most_masked(schedule, config)
        ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
        t = (torch.arange(rows, device=device) + 0.5) / rows
        self.inputs = (ids, t, torch.rand(rows, length, device=device))
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                add(*self.inputs, most_masked=most)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = add(*self.inputs, most_masked=most)
        model.zero_grad(set_to_none=False)

    def __call__(self, ids: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The part's share of the loss, in a tensor of its own."""
        for own, given in zip(self.inputs, (ids, t, noise), strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.loss.clone()


def recorded_or_plain(
    add: AddGradient,
    model: nn.Module,
    schedule: Schedule,
    config: TrainConfig,
    device: torch.device,
    say: Callable[[str], object],
) -> AddGradient:
    """`add`, recorded; itself where the device or a kernel cannot be recorded, and `say` hears why."""
    try:
        return Recorded(add, model, schedule, config, device)
    except RuntimeError as error:
        say(
            f"the update could not be recorded, going on without: {(str(error) or repr(error)).splitlines()[0]}"
        )
        model.zero_grad()
        return add
