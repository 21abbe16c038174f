"""One process, or several that share every step.

    rank           number of a process, from 0; rank 0 is the main process: it writes the files and prints
    world_size     number of processes
    "ddp"          every rank holds the whole model; gradients are averaged
    "fsdp"         weights, gradients and AdamW's moments are sharded over the ranks, block by block (FSDP2)

torchrun starts several processes, on one node or many. Lightning Fabric sets up devices, process groups, DDP and FSDP2,
on CUDA over NCCL and on a CPU over gloo; the training loop stays in loop.py, where it can be read, and the sharding
boundaries in parallelize.py. A single process runs without Fabric installed.

Batches, noise levels and masks are functions of (seed, step, row), never of the rank, so any number of ranks trains on
the same rows under the same noise, bit for bit (on the same kind of device: CUDA generates other random numbers than a
CPU). Rank r of w takes the r-th of w equal slices of a step's rows. Losses and gradients are then the same sums in
another order: equal up to float rounding, also when a run continues with another number of ranks.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diffuapriel.training.config import TrainConfig
from diffuapriel.training.parallelize import shard_blocks

T = TypeVar("T")
LAUNCH = "torchrun --nproc-per-node N -m diffuapriel train ..."


class SingleProcess:
    """A run in one process, and the interface that the loop uses for any number of them."""

    rank, world_size, local_world_size = 0, 1, 1  # local: on this node

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def local_slice(self, rows: int) -> range:
        """This rank's rows out of the `rows` of a step. Raises ValueError when they do not divide evenly."""
        own, left = divmod(rows, self.world_size)
        if left:
            raise ValueError(
                f"a step has batch_size x gradient_accumulation_steps = {rows} rows, which {self.world_size} ranks "
                f"cannot share evenly; make it a multiple of {self.world_size}"
            )
        return range(self.rank * own, (self.rank + 1) * own)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in place of `model`; it averages gradients and shares the model's parameters."""
        return model

    def gradient_sync(self, network: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        """Within the block, backward passes average gradients over the ranks only if `enabled`."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def all_reduce_mean(self, gradients: Tensor) -> None:
        """Average `gradients` over the ranks in place, after backward passes without `gradient_sync`."""

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks."""
        return values

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank. All ranks must call it."""
        return flag

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank. All ranks must call it."""
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank. All ranks must call it."""
        return [value]

    def barrier(self) -> None:
        """Wait for all ranks."""


class FabricProcesses(SingleProcess):
    """One rank of several, on Lightning Fabric. Raises ImportError without it, ValueError for an unsuitable device."""

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
                f"device is {config.device!r}; several processes need 'cpu' or 'cuda' and choose one device each"
            )
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # The logits are a view of those of the padded vocabulary; nothing here modifies them in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
        if config.strategy == "fsdp":
            strategy = ModelParallelStrategy(shard_blocks, data_parallel_size=self.world_size, tensor_parallel_size=1)
        else:
            strategy = DDPStrategy(gradient_as_bucket_view=True)
        self.fabric = Fabric(
            accelerator=kind,
            devices=self.local_world_size,
            num_nodes=self.world_size // self.local_world_size,
            precision="32-true",  # the loop applies autocast: A_log, dt and the states stay in float32
            strategy=strategy,
        )
        self.fabric.launch()
        self.rank = self.fabric.global_rank
        super().__init__(self.fabric.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        return self.fabric.setup_module(model)  # DDP around it, or its parameters sharded in place

    def gradient_sync(self, network: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        return self.fabric.no_backward_sync(network, enabled=not enabled)  # pyright: ignore[reportArgumentType]

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def all_reduce_mean(self, gradients: Tensor) -> None:
        torch.distributed.all_reduce(gradients)  # Fabric's own waits for the device before it starts
        gradients /= self.world_size

    def all_reduce(self, values: Tensor) -> Tensor:
        return self.fabric.all_reduce(values.clone(), reduce_op="sum")  # pyright: ignore[reportReturnType]

    def any_rank(self, flag: bool) -> bool:
        return bool(self.all_reduce(torch.tensor(float(flag), device=self.device)).item())

    def broadcast(self, value: T) -> T:
        return self.fabric.broadcast(value)

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        self.fabric.barrier()


def init_distributed(config: TrainConfig) -> SingleProcess:
    """This process's place in the run, from torchrun's environment variables.

    Raises ValueError for "ddp" or "fsdp" without torchrun, and for rows that do not divide evenly.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if not launched and config.strategy != "auto":
        raise ValueError(f"strategy is {config.strategy!r}, which is for several processes; start them with {LAUNCH}")
    single = not launched or (config.strategy == "auto" and os.environ["WORLD_SIZE"] == "1")
    processes = SingleProcess(config.torch_device) if single else FabricProcesses(config)
    processes.local_slice(config.global_batch_size)  # refuses rows that do not divide
    return processes


def is_main_process() -> bool:
    """Whether this process is the only one, or rank 0 of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks, which must all call it; any other tensor unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore
