"""The state of a run on disk: all that is needed to go on exactly where it stood.

    state/shard-R-model-1-of-1.safetensors   of each rank R its part of model/NAME, ema/NAME, exp_avg/NAME and
                                             exp_avg_sq/NAME, float32, with the place of each part in its header
    state/state.json                         updates done and planned, seconds used, options, the files' names

The tensors are written and read by torch.distributed.checkpoint in its safetensors format, each rank its own slices:
sharded parameters by their owners, whole ones shared out; a run may go on with another number of ranks or another
strategy. There is no random generator to save: batches, noise levels and masks are functions of (seed, step).

Every rank writes aside, then rank 0 adds state.json and renames the folder (storage.py), so a run killed at any
moment, on any rank, during a save too, finds a whole state or, before its first save, none.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel.config import RENAMED_SCHEDULES
from diffuapriel.storage import (
    check_tensors,
    find_folder,
    read_json,
    replace_folder,
    write_json,
    writing_folder,
)
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import OneProcess
from diffuapriel.training.optimizer import EMA

FORMAT_VERSION = 2
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's memory of each parameter; its `step` is the run's


@dataclass
class Progress:
    """How far a run is. `total_steps` is None until the clock has fixed it (see `TrainConfig.minutes`)."""

    step: int = 0  # updates done
    total_steps: int | None = None
    seconds: float = 0.0  # of training, over all sessions

    @property
    def finished(self) -> bool:
        """Whether every planned update is done."""
        return self.total_steps is not None and self.step >= self.total_steps


def save_state(
    folder: Path,
    progress: Progress,
    config: TrainConfig,
    model: nn.Module,
    ema: EMA,
    optimizer: torch.optim.AdamW,
    ranks: OneProcess,
) -> None:
    """Replace the state in `folder`, whole or not at all. All ranks must call it."""
    tensors = _tensors(model, ema, optimizer)

    def write_first(path: Path) -> None:
        ranks.barrier()  # the empty folder is there
        _write_own(path, tensors, ranks)
        document = {
            "format_version": FORMAT_VERSION,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "seconds": progress.seconds,
            "ranks": ranks.ranks,
            "config": config.to_dict(),
            "files": sorted(file.name for file in path.iterdir()),
        }
        write_json(path / "state.json", document)

    if ranks.first:
        replace_folder(folder, write_first)
    else:
        ranks.barrier()
        _write_own(writing_folder(folder), tensors, ranks)
    ranks.barrier()  # renamed: no rank is ahead of what is on disk


def find_progress(folder: Path, config: TrainConfig) -> Progress | None:
    """How far the run in `folder` is; None where there is none.

    Raises ValueError when the state belongs to a run with other options, or is damaged.
    """
    found = find_folder(folder)
    if found is None:
        return None
    document = read_json(found / "state.json")
    _refuse_other_options(found, document, config)
    for name in document["files"]:
        check_tensors(found / name)
    return Progress(document["step"], document["total_steps"], document["seconds"])


def load_state(
    folder: Path, step: int, model: nn.Module, ema: EMA, optimizer: torch.optim.AdamW, ranks: OneProcess
) -> None:
    """Bring model, average and optimizer to the state in `folder`, of `step` updates. All ranks must call it.

    Raises ValueError when the tensors are not this model's.
    """
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

    found = find_folder(folder)
    assert found is not None, "find_progress has found it"
    tensors = _tensors(model, ema, optimizer)
    try:
        with _quiet():
            load(tensors, storage_reader=HuggingFaceStorageReader(str(found)), no_dist=ranks.ranks == 1)
    except (CheckpointException, RuntimeError, ValueError) as error:
        raise ValueError(f"{found} does not hold this model's tensors: {error}") from None
    for memory in optimizer.state.values():
        memory["step"].fill_(step)


def _write_own(path: Path, tensors: dict[str, Tensor], ranks: OneProcess) -> None:
    """This rank's slices of `tensors`; the ranks agree on who writes what."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    writer = HuggingFaceStorageWriter(str(path), save_distributed=True)
    with _quiet():
        save(tensors, storage_writer=writer, no_dist=ranks.ranks == 1)


def _quiet() -> warnings.catch_warnings:
    """Within the block the library does not remark that one process is one process."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _tensors(model: nn.Module, ema: EMA, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The tensors of a state by name, to be read or overwritten in place; AdamW's are made where it has none yet."""
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


def _refuse_other_options(found: Path, document: dict[str, Any], config: TrainConfig) -> None:
    file = found / "state.json"
    version = document.get("format_version")
    if version != FORMAT_VERSION or not isinstance(document.get("config"), dict):
        raise ValueError(
            f"{file} has format_version {version!r}; this package reads {FORMAT_VERSION}: "
            "finish the run with the version that began it, or choose another folder"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    began = defaults | document["config"]  # options that did not exist then stood at their default
    began["schedule"] = RENAMED_SCHEDULES.get(began["schedule"], began["schedule"])
    for key, value in config.fixed_part().items():
        if began[key] != value:
            raise ValueError(
                f"{file} is of a run with {key} = {began[key]!r}, not {value!r}; "
                "go on with the same options, or choose another folder"
            )
