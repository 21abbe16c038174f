"""The state of a run on disk: everything needed to continue it exactly.

    state/shard-R-model-1-of-1.safetensors   rank R's part of model/NAME, ema/NAME, exp_avg/NAME and exp_avg_sq/NAME,
                                             float32; the header holds the offset of each part
    state/state.json                         steps done and planned, seconds used, options, a fingerprint of the corpus,
                                             the SHA-256 of every file, and that of this document itself

torch.distributed.checkpoint writes and reads the tensors in its safetensors format. Each rank writes its own slices
(sharded parameters by their owners, whole ones divided among the ranks), so a run may continue with another number of
ranks or another strategy. No random generator is saved: batches, noise levels and masks are functions of (seed, step).

Every rank writes to a temporary folder, then rank 0 adds state.json and renames it (storage.py). A run killed at any
moment, on any rank, even during a save, therefore finds a complete state or, before its first save, none. A file that
is not what was written is refused by name, and so is a corpus that is not what the run has read.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel.options import shown
from diffuapriel.storage import (
    check_tensors,
    find_folder,
    fsync,
    read_json,
    replace_folder,
    sha256,
    write_json,
    writing_folder,
)
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.optimizer import EMA

FORMAT_VERSION = 3
WITHOUT_CHECKSUMS = 2  # still read: `files` is a list of names, and there is no digest
CORPUS = {"fingerprint", "description"}
MAX_STEPS = 10**12
WAY_OUT = "restore the folder from a copy, or remove it to begin again"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, per parameter; its `step` is the run's


@dataclass
class TrainState:
    """The progress of a run. `total_steps` is None until the clock has fixed it (see `TrainConfig.minutes`)."""

    step: int = 0  # steps done
    total_steps: int | None = None
    seconds: float = 0.0  # of training, over all sessions
    corpus: dict[str, str] = field(default_factory=dict)  # its fingerprint and description

    @property
    def finished(self) -> bool:
        return self.total_steps is not None and self.step >= self.total_steps


def save_state(
    folder: Path, state: TrainState, config: TrainConfig, tensors: dict[str, Tensor], processes: SingleProcess
) -> None:
    """Replace the state in `folder` atomically. tensors: `state_tensors`. All ranks must call it."""

    def write_first(path: Path) -> None:
        processes.barrier()  # the empty folder exists
        own = _write_own(path, tensors, processes)
        document = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "total_steps": state.total_steps,
            "seconds": state.seconds,
            "world_size": processes.world_size,
            "config": config.to_dict(),
            "corpus": state.corpus,
            "files": dict(sorted(pair for files in processes.gather(own) for pair in files.items())),
        }
        write_json(path / "state.json", document | {"sha256": _digest(document)})

    if processes.is_main:
        replace_folder(folder, write_first)
    else:
        processes.barrier()
        processes.gather(_write_own(writing_folder(folder), tensors, processes))
    processes.barrier()  # renamed: no rank runs ahead of the disk


def read_train_state(
    folder: Path, config: TrainConfig, corpus: dict[str, str], processes: SingleProcess
) -> TrainState | None:
    """The progress of the run in `folder`; None where there is none. All ranks must call it, each checks some files.

    corpus: its fingerprint and description. Raises ValueError when the state belongs to a run with other options or on
    other text, and when it is damaged or was edited.
    """
    found = find_folder(folder)
    if found is None:
        return None
    file = found / "state.json"
    document = read_json(file)
    version, digest = document.get("format_version"), document.pop("sha256", None)
    if version not in (FORMAT_VERSION, WITHOUT_CHECKSUMS) or not isinstance(document.get("config"), dict):
        raise ValueError(
            f"{file} has format_version {shown(version)}; this package reads {FORMAT_VERSION}: "
            "finish the run with the version that started it, or choose another folder"
        )
    if version == FORMAT_VERSION and digest != _digest(document):
        raise ValueError(f"{file} is damaged or was edited: it does not fit its own SHA-256; {WAY_OUT}")
    try:
        differences = config.differences(document["config"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}. {WAY_OUT}") from None
    for name, (saved, value) in differences.items():
        raise ValueError(
            f"{file} belongs to a run with {name} = {shown(saved)}, not {shown(value)}; "
            "continue with the same options, or choose another folder"
        )
    state = _progress(file, document, config)
    was = shown(state.corpus.get("description"), 200)
    if state.corpus and state.corpus["fingerprint"] != corpus["fingerprint"] and not config.accept_changed_data:
        raise ValueError(
            f"{file} belongs to a run on other text: the corpus {config.corpus!r} was {was}, "
            f"and what it is now ({corpus['description']}) is not the same. Restore it, choose another folder "
            "(--out), or continue on the new text with --accept-changed-data"
        )
    files = document["files"]
    for name in sorted(files)[processes.rank :: processes.world_size]:
        check_tensors(found / name)
        if isinstance(files, dict) and sha256(found / name) != files[name]:
            raise ValueError(f"{found / name} is damaged: its SHA-256 is not the one in state.json; {WAY_OUT}")
    state.corpus = corpus
    return state


def _progress(file: Path, document: dict[str, Any], config: TrainConfig) -> TrainState:
    """The state that a document describes. Raises ValueError for values that no run has written."""
    values: list[Any] = [document.get(name) for name in ("step", "total_steps", "seconds", "files")]
    step, total, seconds, files = values
    corpus, planned = document.get("corpus", {}), config.planned_steps
    whole = type(total) is int and 0 <= total <= MAX_STEPS
    most = total if whole else MAX_STEPS
    names = isinstance(files, (list, dict)) and all(isinstance(name, str) and Path(name).name == name for name in files)
    rules = {
        "total_steps": (
            total == planned if planned else whole or total is None,
            planned or "a number of steps or null",
        ),
        "step": (type(step) is int and 0 <= step <= most, f"a whole number from 0 to {most}"),
        "seconds": (type(seconds) in (int, float) and 0 <= seconds <= MAX_STEPS, "a number of seconds"),
        "corpus": (isinstance(corpus, dict) and set(corpus) in (set(), CORPUS), f"an object with {sorted(CORPUS)}"),
        "files": (bool(files) and names, "the files of the state"),
    }
    for name, (valid, permitted) in rules.items():
        if not valid:
            value = shown(document.get(name))
            raise ValueError(f"{file} is damaged: {name} is {value}; it must be {permitted}. {WAY_OUT}")
    return TrainState(step, total, seconds, corpus)


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


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
        cause = _cause(error) if isinstance(error, CheckpointException) else error
        raise ValueError(f"{found} does not hold this model's tensors: {cause}") from None
    for moments in optimizer.state.values():
        moments["step"].fill_(step)


def _write_own(path: Path, tensors: dict[str, Tensor], processes: SingleProcess) -> dict[str, str]:
    """Write this rank's part; returns the SHA-256 of its files by name."""
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save

    writer = HuggingFaceStorageWriter(str(path), save_distributed=True)
    writer.sync_files = False  # they are flushed below, while their checksums are computed
    try:
        with _quiet():
            save(tensors, storage_writer=writer, no_dist=processes.world_size == 1)
    except CheckpointException as error:  # a BaseException, with the traceback of a full disk or Ctrl-C as its text
        raise _cause(error) from None
    own = sorted(path.glob(f"shard-{processes.rank + 1:05}-*"))
    with ThreadPoolExecutor() as pool:
        flushed = pool.map(fsync, own)
        digests = {file.name: sha256(file) for file in own}
        list(flushed)
    return digests


def _cause(error: Any) -> BaseException:
    """What a CheckpointException of torch is about."""
    return next(cause for cause, _ in error.failures.values())


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
