"""The state of a run on disk: all that is needed to go on exactly where it stood.

    state/state.safetensors    model/NAME, ema/NAME, exp_avg/NAME, exp_avg_sq/NAME, step/NAME, all float32
    state/state.json           updates done and planned, seconds used, the options of the run

There is no random generator to save: batches, noise levels and masks are functions of (seed, step). The folder
is replaced atomically (storage.py), so a run killed at any moment, during a save too, finds a whole state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel.storage import (
    find_folder,
    read_json,
    read_tensors,
    replace_folder,
    write_json,
    write_tensors,
)
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.ema import EMA

FORMAT_VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # AdamW's memory of each parameter


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
) -> None:
    """Replace the state in `folder`, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model/{name}"] = parameter
        tensors[f"ema/{name}"] = ema.averages[name]
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}/{name}"] = value
    document = {
        "format_version": FORMAT_VERSION,
        "step": progress.step,
        "total_steps": progress.total_steps,
        "seconds": progress.seconds,
        "config": config.to_dict(),
    }

    def write(path: Path) -> None:
        write_tensors(path / "state.safetensors", tensors)
        write_json(path / "state.json", document)

    replace_folder(folder, write)


def load_state(
    folder: Path, config: TrainConfig, model: nn.Module, ema: EMA, optimizer: torch.optim.AdamW
) -> Progress | None:
    """Bring model, average and optimizer to the last whole state; None where there is none.

    Raises ValueError when the state belongs to a run with other options, or is damaged.
    """
    found = find_folder(folder)
    if found is None:
        return None
    document = read_json(found / "state.json")
    _refuse_other_options(found, document, config)
    tensors = read_tensors(found / "state.safetensors")
    names = {parameter: name for name, parameter in model.named_parameters()}
    moments = MOMENTS if document["step"] else ()  # before its first update AdamW remembers nothing
    wanted = {f"{part}/{name}" for part in ("model", "ema", *moments) for name in names.values()}
    if wanted != set(tensors):
        odd = sorted(wanted ^ set(tensors))
        raise ValueError(
            f"{found / 'state.safetensors'} is not this model's: {odd[0]} and {len(odd) - 1} others"
        )
    with torch.no_grad():
        for parameter, name in names.items():
            parameter.copy_(tensors[f"model/{name}"])
            ema.averages[name].copy_(tensors[f"ema/{name}"])
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = optimizer.state_dict()
    state["state"] = {
        index: {moment: tensors[f"{moment}/{names[parameter]}"] for moment in moments}
        for index, parameter in enumerate(ordered)
        if moments
    }
    optimizer.load_state_dict(state)
    return Progress(document["step"], document["total_steps"], document["seconds"])


def _refuse_other_options(found: Path, document: dict[str, Any], config: TrainConfig) -> None:
    file = found / "state.json"
    if document.get("format_version") != FORMAT_VERSION or not isinstance(document.get("config"), dict):
        version = document.get("format_version")
        raise ValueError(f"{file} has format_version {version!r}; this package reads {FORMAT_VERSION}")
    for key, value in config.fixed_part().items():
        if document["config"].get(key) != value:
            raise ValueError(
                f"{file} is of a run with {key} = {document['config'].get(key)!r}, not {value!r}; "
                "go on with the same options, or choose another folder"
            )
