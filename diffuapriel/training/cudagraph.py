"""The forward and backward pass of a part of an update, recorded once as a CUDA graph and replayed.

A small model's kernels are done before Python has launched the next: at `tiny` a GPU waits three quarters of the time.
A recording is one launch for all of them. It asks for shapes and addresses that stay:

    ids, t, noise     are copied into tensors of the recording's own
    masked positions  a number fixed beforehand of which some may be unmasked and count nothing (`most_masked`)
    gradients         are kept, set to zero between updates and added to; all of them are parts of one tensor, so
                      that several ranks average them in one message, after the last part of an update
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffuapriel.diffusion.objective import T_MIN, spread
from diffuapriel.diffusion.schedule import Schedule
from diffuapriel.ops.cudagraph import record
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import OneProcess

AddGradient = Callable[..., Tensor]  # (ids, t, noise) to the loss; the gradient is added to the parameters
DEVIATIONS = 8  # of the number of masked positions above its mean
ALIGNED = 64  # numbers


def can_record(config: TrainConfig, ranks: OneProcess) -> bool:
    """Whether a run's updates can be recorded: compiled, on CUDA, weights whole on every rank, texts that see each
    other, and parts of one size."""
    whole = ranks.device.type == "cuda" and config.strategy != "fsdp"
    even = len(ranks.share(config.rows)) % part_rows(config, ranks) == 0
    return whole and even and config.compile and not config.document_boundaries


def part_rows(config: TrainConfig, ranks: OneProcess) -> int:
    """Rows of a part: as many of the rank's as go through the model at once."""
    return min(config.batch_size, len(ranks.share(config.rows)))


def most_masked(schedule: Schedule, config: TrainConfig, rows: int) -> int:
    """So many positions of a part of `rows` rows are masked at most, but for once in 10^15 parts, when the loss is NaN.

    Times are stratified over the update, and spread over its parts: the number of masked tokens hardly varies.
    """
    ends = (torch.arange(config.rows) + 1) / config.rows  # of each row's stretch of times
    masked = (1 - schedule.alpha(T_MIN + (1 - T_MIN) * ends))[spread(config.rows)].split(rows)
    tokens, mean = rows * config.length, max(part.sum().item() for part in masked) * config.length
    return min(tokens, math.ceil(mean + DEVIATIONS * math.sqrt(tokens) / 2))


def gradients_in_one(model: nn.Module) -> Tensor:
    """Give every parameter a gradient of zeros, each a part of the tensor returned, on boundaries of 256 bytes."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in parameters]
    together = parameters[0].new_zeros(sum(sizes))
    for parameter, part in zip(parameters, together.split(sizes), strict=True):
        parameter.grad = part[: parameter.numel()].view_as(parameter)
    return together


class Recorded:
    """`add(ids, t, noise)`, replayed: adds the gradient of a part to the parameters, which must keep theirs.

    `gradients` is the tensor that holds them all.
    """

    def __init__(
        self,
        add: AddGradient,
        model: nn.Module,
        schedule: Schedule,
        config: TrainConfig,
        ranks: OneProcess,
    ) -> None:
        rows, length, device = part_rows(config, ranks), config.length, ranks.device
        most = most_masked(schedule, config, rows)
        self.gradients = gradients_in_one(model)
        ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
        t = (torch.arange(rows, device=device) + 0.5) / rows
        self.inputs = (ids, t, torch.rand(rows, length, device=device))
        self.replay, self.loss = record(lambda: add(*self.inputs, most_masked=most), device)
        self.gradients.zero_()

    def __call__(self, ids: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The part's share of the loss, in a tensor of its own."""
        for own, given in zip(self.inputs, (ids, t, noise), strict=True):
            own.copy_(given)
        self.replay()
        return self.loss.clone()


def recorded_or_plain(
    plain: AddGradient,
    add: AddGradient,
    model: nn.Module,
    schedule: Schedule,
    config: TrainConfig,
    ranks: OneProcess,
    say: Callable[[str], object],
) -> AddGradient:
    """`add`, recorded; `plain` where a device or a kernel of any rank cannot be recorded, and `say` hears why.

    Of several ranks `add` must leave its gradients on its own rank.
    """
    recorded, reason = None, ""
    try:
        recorded = Recorded(add, model, schedule, config, ranks)
    except RuntimeError as error:
        reason = (str(error) or repr(error)).splitlines()[0]
    failed = ranks.any(recorded is None)
    if recorded and not failed:
        return recorded
    say(f"the update could not be recorded, going on without: {reason or 'not on every rank'}")
    model.zero_grad()
    return plain
