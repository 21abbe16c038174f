"""The state of a run on disk: everything needed to continue it exactly.

    state/shard-R-model-1-of-1.safetensors   rank R's part of model/NAME, ema/NAME, exp_avg/NAME and exp_avg_sq/NAME,
                                             float32; the header holds the offset of each part
    state/state.json                         steps done and planned, seconds used, options, names of the files

torch.distributed.checkpoint writes and reads the tensors in its safetensors format. Each rank writes its own slices
(sharded parameters by their owners, whole ones divided among the ranks), so a run may continue with another number of
ranks or another strategy. No random generator is saved: batches, noise levels and masks are functions of (seed, step).

Every rank writes to a temporary folder, then rank 0 adds state.json and renames it (storage.py). A run killed at any
moment, on any rank, even during a save, therefore finds a complete state or, before its first save, none.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffuapriel.storage import (
    check_tensors,
    find_folder,
    read_json,
    replace_folder,
    write_json,
    writing_folder,
)
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.optimizer import EMA

FORMAT_VERSION = 2
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, per parameter; its `step` is the run's


@dataclass
class TrainState:
    """The progress of a run. `total_steps` is None until the clock has fixed it (see `TrainConfig.minutes`)."""

    step: int = 0  # steps done
    total_steps: int | None = None
    seconds: float = 0.0  # of training, over all sessions

    @property
    def finished(self) -> bool:
        return self.total_steps is not None and self.step >= self.total_steps


def save_state(
    folder: Path, state: TrainState, config: TrainConfig, tensors: dict[str, Tensor], processes: SingleProcess
) -> None:
    """Replace the state in `folder` atomically. tensors: `state_tensors`. All ranks must call it."""

    def write_first(path: Path) -> None:
        processes.barrier()  # the empty folder exists
        _write_own(path, tensors, processes)
        document = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "total_steps": state.total_steps,
            "seconds": state.seconds,
            "world_size": processes.world_size,
            "config": config.to_dict(),
            "files": sorted(file.name for file in path.iterdir()),
        }
        write_json(path / "state.json", document)

    if processes.is_main:
        replace_folder(folder, write_first)
    else:
        processes.barrier()
        _write_own(writing_folder(folder), tensors, processes)
    processes.barrier()  # renamed: no rank runs ahead of the disk


def read_train_state(folder: Path, config: TrainConfig) -> TrainState | None:
    """The progress of the run in `folder`; None where there is none.

    Raises ValueError when the state belongs to a run with other options or is damaged.
    """
    found = find_folder(folder)
    if found is None:
        return None
    document = read_json(found / "state.json")
    file, version = found / "state.json", document.get("format_version")
    if version != FORMAT_VERSION or not isinstance(document.get("config"), dict):
        raise ValueError(
            f"{file} has format_version {version!r}; this package reads {FORMAT_VERSION}: "
            "finish the run with the version that started it, or choose another folder"
        )
    for name, (saved, value) in config.differences(document["config"]).items():
        raise ValueError(
            f"{file} belongs to a run with {name} = {saved!r}, not {value!r}; "
            "continue with the same options, or choose another folder"
        )
    for name in document["files"]:
        check_tensors(found / name)
    return TrainState(document["step"], document["total_steps"], document["seconds"])


def load_state(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    optimizer: torch.optim.AdamW,
    processes: SingleProcess,
) -> None:
    """Load the state in `folder`, taken after `step` steps, into `tensors` (`state_tensors`). All ranks must call it.

    Raises ValueError when the tensors do not fit this model.
    """
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

    found = find_folder(folder)
    assert found is not None, "read_train_state has found it"
    reader = HuggingFaceStorageReader(str(found))
    try:
        with _quiet():
            load(tensors, storage_reader=reader, no_dist=processes.world_size == 1)
    except (CheckpointException, RuntimeError, ValueError) as error:
        raise ValueError(f"{found} does not hold this model's tensors: {error}") from None
    for moments in optimizer.state.values():
        moments["step"].fill_(step)


def _write_own(path: Path, tensors: dict[str, Tensor], processes: SingleProcess) -> None:
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save

    writer = HuggingFaceStorageWriter(str(path), save_distributed=True)
    try:
        with _quiet():
            save(tensors, storage_writer=writer, no_dist=processes.world_size == 1)
    except CheckpointException as error:  # a BaseException around what happened: a full disk, or Ctrl-C
        raise next(iter(error.failures.values()))[0] from None


def _quiet() -> warnings.catch_warnings:
    """Within the block torch does not warn that a single process needs no process group."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def state_tensors(model: nn.Module, ema: EMA, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The tensors of a state by name, to be read or overwritten in place; AdamW's are created if missing."""
    tensors: dict[str, Tensor] = {}
    fused = {p: bool(group["fused"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter not in optimizer.state:
            device = parameter.device if fused[parameter] else "cpu"
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }
        tensors[f"model/{name}"] = parameter.detach()
        tensors[f"ema/{name}"] = ema.averages[name]
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    return tensors
