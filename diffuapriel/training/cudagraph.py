"""Forward and backward pass of a micro-batch, recorded once as a CUDA graph and replayed.

A small model's kernels finish before Python has launched the next one: at `tiny` a GPU is idle three quarters of the
time. Replaying a graph is one launch for all of them. It needs fixed shapes and addresses:

    ids, t, noise     are copied into tensors of the recording's own
    block length      a model of blocks has one graph for each; they share ids, noise and memory
    masked positions  a fixed number, some of which may be unmasked and then count nothing (`max_masked`)
    gradients         are kept, zeroed between steps and added to; they are views of one tensor, so that several ranks
                      average them in one message, after the last micro-batch of a step
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diffuapriel.diffusion.objective import T_MIN, van_der_corput_order
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.ops.cudagraph import record
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess

AddGradient = Callable[..., Tensor]  # (ids, t, noise, block_length=None) -> loss; adds the gradient to the parameters
DEVIATIONS = 8  # standard deviations above the mean number of masked positions
ALIGNED = 64  # numbers


def can_record(config: TrainConfig, processes: SingleProcess) -> bool:
    """Whether steps can be recorded: compiled, on CUDA, with unsharded weights, without document boundaries, and in
    micro-batches of one size."""
    whole = processes.device.type == "cuda" and config.strategy != "fsdp"
    even = len(processes.local_slice(config.global_batch_size)) % micro_batch_size(config, processes) == 0
    return whole and even and config.compile and not config.model_config.document_boundaries


def micro_batch_size(config: TrainConfig, processes: SingleProcess) -> int:
    """Rows of this rank that pass through the model at once."""
    return min(config.batch_size, len(processes.local_slice(config.global_batch_size)))


def max_masked(config: TrainConfig, rows: int, block_length: int | None = None) -> int:
    """Upper bound on the masked positions in a micro-batch of `rows` rows. It is exceeded with probability 1e-14 or
    less, in which case the loss is NaN.

    Full sequences: times are stratified over the step and spread over its micro-batches, so the number of masked tokens
    hardly varies. Blocks: their counts are stratified over the step and dealt at random. A step of one micro-batch
    then has no variance, a smaller micro-batch that of draws without replacement.
    """
    tokens = rows * config.length
    if block_length is None:
        ends = (torch.arange(config.global_batch_size) + 1) / config.global_batch_size  # of each row's stratum
        order = van_der_corput_order(config.global_batch_size)
        masked = (1 - get_schedule(config.schedule).alpha(T_MIN + (1 - T_MIN) * ends))[order].split(rows)
        mean = max(micro.sum().item() for micro in masked) * config.length
        return min(tokens, math.ceil(mean + DEVIATIONS * math.sqrt(tokens) / 2))
    block_length = block_length or config.length
    own, of_step = (n * config.length // block_length for n in (rows, config.global_batch_size))
    low, high = config.mask_rate_range
    ends = low + (high - low) * (torch.arange(of_step, dtype=torch.float64) + 1) / of_step  # of each block's stratum
    counts = (ends * block_length).ceil()  # of its masked tokens; one more where rounding leaves a stratum for the next
    variance = counts.var(correction=0).item() * own * (of_step - own) / max(1, of_step - 1)
    return min(tokens, math.ceil(own * counts.mean().item() + block_length + DEVIATIONS * math.sqrt(variance)))


def flatten_gradients(model: nn.Module) -> Tensor:
    """Give every parameter a gradient of zeros, a view of the returned tensor, aligned to 256 bytes."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in parameters]
    together = parameters[0].new_zeros(sum(sizes))
    for parameter, part in zip(parameters, together.split(sizes), strict=True):
        parameter.grad = part[: parameter.numel()].view_as(parameter)
    return together


@dataclass(frozen=True)
class _Graph:
    """A micro-batch at one block length: its input, launch and result."""

    t: Tensor
    replay: Callable[[], None]
    loss: Tensor


class Recorded:
    """`add(ids, t, noise)`, replayed: adds the gradient of a micro-batch to the parameters' own gradient tensors.

    `gradients` is the tensor that holds them all.
    """

    def __init__(self, add: AddGradient, model: nn.Module, config: TrainConfig, processes: SingleProcess) -> None:
        rows, length, device = micro_batch_size(config, processes), config.length, processes.device
        self.gradients = flatten_gradients(model)
        self.ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
        self.noise = torch.rand(rows, length, device=device)
        self.graphs: dict[int | None, _Graph] = {}
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        for block_length in config.model_config.block_lengths or (None,):
            shape = (rows,) if block_length is None else (rows, length // (block_length or length))
            t = ((torch.arange(math.prod(shape), device=device) + 0.5) / math.prod(shape)).view(shape)
            options = {"max_masked": max_masked(config, rows, block_length), "block_length": block_length}
            step = partial(add, self.ids, t, self.noise, **options)
            self.graphs[block_length] = _Graph(t, *record(step, device, pool))
        self.gradients.zero_()

    def __call__(self, ids: Tensor, t: Tensor, noise: Tensor, block_length: int | None = None) -> Tensor:
        """The micro-batch's share of the loss, in a new tensor."""
        graph = self.graphs[block_length]
        for own, given in ((self.ids, ids), (graph.t, t), (self.noise, noise)):
            own.copy_(given)
        graph.replay()
        return graph.loss.clone()


def recorded_or_plain(
    plain: AddGradient,
    add: AddGradient,
    model: nn.Module,
    config: TrainConfig,
    processes: SingleProcess,
    say: Callable[[str], object],
) -> AddGradient:
    """`add`, recorded; `plain` if recording fails on any rank, and `say` gets the reason.

    With several ranks `add` must not average gradients.
    """
    recorded, reason = None, ""
    try:
        recorded = Recorded(add, model, config, processes)
    except RuntimeError as error:
        reason = (str(error) or repr(error)).splitlines()[0]
    failed = processes.any_rank(recorded is None)
    if recorded and not failed:
        return recorded
    say(f"the step could not be recorded, continuing without: {reason or 'not on every rank'}")
    model.zero_grad()
    return plain
