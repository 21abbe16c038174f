"""Where a run computes: in one process, or in several that share every update.

    rank         number of a process, from 0: rank 0 writes the files and speaks; `ranks` is how many there are
    "ddp"        every rank holds the whole model, gradients are averaged
    "fsdp"       weights, gradients and AdamW's memory are sharded over the ranks, block by block (FSDP2)

Several ranks are started by torchrun, on one node or many, and stand on Lightning Fabric: it sets up processes,
devices and collectives, DDP and FSDP2, on CUDA over NCCL and on a CPU over gloo, and leaves the loop to us, visible,
and the sharding to the model, which says itself where its blocks end (blocks.py). Trainers that own the loop would
hide what this project is there to show. One process needs none of it, and runs without Fabric installed.

What is exact: batches, noise levels and masks are functions of (seed, update, row), never of the rank, so any number
of ranks trains on the same rows under the same noise, bit for bit (on the same kind of device: CUDA draws other
numbers than a CPU). Rank r of w takes the r-th w-th of an update's rows. Losses and gradients are then the same sums
in another order: equal up to float rounding, also when a run goes on with another number of ranks.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffuapriel.training.config import TrainConfig
from diffuapriel.training.parallelize import shard_blocks

T = TypeVar("T")
HOW_TO_START = "torchrun --nproc-per-node N -m diffuapriel train ..."


class OneProcess:
    """A run in a single process, and the whole interface that the loop sees."""

    rank, ranks, local_ranks = 0, 1, 1  # local_ranks: on this node

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and speaks."""
        return self.rank == 0

    def share(self, rows: int) -> range:
        """This rank's rows of an update of `rows`. Raises ValueError when the ranks cannot share them evenly."""
        own, left = divmod(rows, self.ranks)
        if left:
            raise ValueError(
                f"an update has batch_size x accumulate = {rows} rows, which {self.ranks} ranks cannot share "
                f"evenly; make it a multiple of {self.ranks}"
            )
        return range(self.rank * own, (self.rank + 1) * own)

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call in place of `model` (whose parameters stay its own) so that gradients are averaged."""
        return model

    def synchronized(self, network: nn.Module, when: bool) -> AbstractContextManager[None]:
        """Within the block a backward pass averages gradients over the ranks only `when` so."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters."""
        loss.backward()

    def average(self, gradients: Tensor) -> None:
        """Put the mean over the ranks in place of each number: for backward passes that were not `synchronized`."""

    def sum(self, values: Tensor) -> Tensor:
        """Added up over the ranks."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. All must ask."""
        return flag

    def same(self, value: T) -> T:
        """Rank 0's value, on every rank. All must ask."""
        return value

    def barrier(self) -> None:
        """Wait for all ranks."""


class ManyProcesses(OneProcess):
    """One rank of several, on Lightning Fabric. Raises ImportError without it, ValueError for an odd device."""

    def __init__(self, config: TrainConfig) -> None:
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
        except ImportError:
            raise ImportError(
                "training in several processes needs Lightning Fabric: pip install lightning-fabric"
            ) from None
        kind = config.torch_device.type
        if config.device not in ("auto", kind) or kind not in ("cpu", "cuda"):
            raise ValueError(
                f"device is {config.device!r}; several ranks run on 'cpu' or 'cuda', a device each"
            )
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # A view is what the logits of the padded vocabulary are cut to; nothing here works in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.ranks, self.local_ranks = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        sharded = config.strategy == "fsdp"
        self.fabric = Fabric(
            accelerator=kind,
            devices=self.local_ranks,
            num_nodes=self.ranks // self.local_ranks,
            precision="32-true",  # autocast is the loop's: A_log, dt and the states stay in float32
            strategy=ModelParallelStrategy(
                shard_blocks, data_parallel_size=self.ranks, tensor_parallel_size=1
            )
            if sharded
            else DDPStrategy(gradient_as_bucket_view=True),
        )
        self.fabric.launch()
        self.rank = self.fabric.global_rank
        super().__init__(self.fabric.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """DDP around the model, or its parameters sharded in place."""
        return self.fabric.setup_module(model)

    def synchronized(self, network: nn.Module, when: bool) -> AbstractContextManager[None]:
        """Within the block a backward pass averages gradients over the ranks only `when` so."""
        return self.fabric.no_backward_sync(network, enabled=not when)  # pyright: ignore[reportArgumentType]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters."""
        self.fabric.backward(loss)

    def average(self, gradients: Tensor) -> None:
        """Put the mean over the ranks in place of each number: for backward passes that were not `synchronized`."""
        torch.distributed.all_reduce(gradients)  # Fabric's own waits for the device before it starts
        gradients /= self.ranks

    def sum(self, values: Tensor) -> Tensor:
        """Added up over the ranks."""
        return self.fabric.all_reduce(values.clone(), reduce_op="sum")  # pyright: ignore[reportReturnType]

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. All must ask."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def same(self, value: T) -> T:
        """Rank 0's value, on every rank. All must ask."""
        return self.fabric.broadcast(value)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.fabric.barrier()


def open_ranks(config: TrainConfig) -> OneProcess:
    """This process's place in the run: what torchrun says, or alone.

    Raises ValueError for a strategy of several processes where there is one, and for rows that do not divide.
    """
    started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not started_by_torchrun and config.strategy != "auto":
        raise ValueError(
            f"strategy is {config.strategy!r}, which is for several processes; start them with {HOW_TO_START}"
        )
    alone = not started_by_torchrun or (config.strategy == "auto" and os.environ["WORLD_SIZE"] == "1")
    ranks = OneProcess(config.torch_device) if alone else ManyProcesses(config)
    ranks.share(config.rows)  # refuses rows that do not divide
    return ranks


def is_first() -> bool:
    """Whether this process is the only one, or rank 0 of those that torchrun has started: the one that speaks."""
    return os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks, who must all ask; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore
