"""A trained denoiser on disk: safetensors, JSON and a model card; never a pickle.

    model.safetensors              the weights; above 16 MB, shards in Hugging Face's format instead:
    model-00001-of-00002.safetensors, ..., model.safetensors.index.json
    config.json                    model_type, format_version, model (ModelConfig), files {name: SHA-256}, extra
    README.md                      the model card (model_card.py)
    *.png                          pictures on the card

A checkpoint is written to a temporary folder and renamed (storage.py), so a kill at any moment loses nothing. Reading
refuses files that are missing, truncated, altered, pickled or foreign, and names the file and the reason.

A checkpoint is named by a bundled name, a folder, or the id `owner/name` of a model on the Hugging Face Hub, which is
downloaded (hub.py). A local folder of that name has priority. The folder of a training run stands for the checkpoint in
it. config.json is downloaded and checked before any weights, and the sizes of the weight files are compared with it
before a model is built.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel import assets, hub
from diffuapriel.config import DEFAULT_CHECKPOINT, WRITERS, ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.options import shown
from diffuapriel.sampling.config import ADAPTIVE, SPECULATIVE, SamplerConfig, resolve_options
from diffuapriel.sampling.frontier import Frontier
from diffuapriel.storage import (
    PICKLE_SUFFIXES,
    PICKLED,
    check_file,
    check_tensors,
    find_folder,
    read_json,
    read_tensors,
    replace_folder,
    sha256,
    write_json,
    write_tensors,
)
from diffuapriel.tokenizer import Tokenizer, get_tokenizer

MODEL_TYPE = "diffuapriel"
FORMAT_VERSION = 2
SHARD_BYTES = 16_000_000  # a single tensor larger than this gets its own file
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SUFFIXES = {".safetensors", ".json", ".md", ".png"}  # of all files of a checkpoint
CONFIG_KEYS = {"model_type", "format_version", "model", "files", "extra"}
FREE_AT_INIT = ("block_lengths", "time_conditioning", "document_boundaries", "context_length")  # no weight's shape
OF_A_RUN = "checkpoint"  # name of the checkpoint in the folder of a training run
DEFAULT_LENGTH = 128  # tokens of a text, where neither text nor length is given
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENS_PER_PASS, FRONTIER = "## Tokens per pass", "frontier.png"  # of the card
MAX_BESIDE = 16_000_000  # bytes of the card or of a picture
WEIGHT_FILE = r"[\w-][\w.-]{,100}\.safetensors"


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint without its weights. `extra`: recipe and measured figures."""

    name: str
    folder: Path
    config: ModelConfig
    extra: dict[str, Any]
    files: dict[str, str]  # weight file -> SHA-256
    repository: str | None = None  # id on the Hub, if `folder` is a downloaded copy

    @property
    def bytes(self) -> int:
        """Size of the weight files."""
        return sum((self.folder / file).stat().st_size for file in self.files)

    @property
    def corpus(self) -> str:
        """The spec of the training corpus; without a record, what the name suggests, or ""."""
        found = self.extra.get("corpus") or self._recipe.get("corpus")
        return found if isinstance(found, str) else ("tales" if self.name.startswith("tales-") else "")

    @property
    def mix(self) -> dict[str, Any] | None:
        """What the file of `mix:FILE` held in training; None for other corpora."""
        found = self.extra.get("mix")
        return found if isinstance(found, dict) else None

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the texts that the card credits; () without a record."""
        found = self.extra.get("sources")
        names = (one.get("name") for one in found if isinstance(one, dict)) if isinstance(found, list) else ()
        return tuple(name for name in names if isinstance(name, str))

    @property
    def generation(self) -> dict[str, Any]:
        """The rule that `diffuapriel tune` found: strategy, its value and block_length (0: the whole canvas), or {}.

        `speculative` has no value. `stop_at_eos` is True where the texts that were measured ended so, else missing.

        Raises ValueError for a record that `SamplerConfig` or the model's blocks refuse.
        """
        found = self.extra.get("generation") or {}
        try:
            permitted = {"strategy", "block_length", *({found.get("strategy")} - {SPECULATIVE})}
            named = set(found) - ({"stop_at_eos"} if found.get("stop_at_eos") is True else set())
            if found and (found["strategy"] not in (*ADAPTIVE, SPECULATIVE) or named != permitted):
                raise ValueError(f"the keys are {sorted(found)} and the strategy is {shown(found['strategy'])}")
            SamplerConfig(**resolve_options(found, self.config.block_lengths))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.folder / 'config.json'}: extra.generation is {shown(found)}; it must hold strategy, one of "
                f"{', '.join(ADAPTIVE)}, a value of that name, and block_length; or {SPECULATIVE} and block_length: "
                f"{error}"
            ) from None
        return dict(found)

    @property
    def frontier(self) -> Frontier | None:
        """What `diffuapriel tune` measured: the points that are worth offering; None without a record.

        Raises ValueError for a record that is no frontier, or whose block lengths the model does not know.
        """
        if (found := self.extra.get("frontier")) is None:
            return None
        try:
            return Frontier.from_dict(found, self.config.block_lengths)
        except ValueError as error:
            raise ValueError(f"{self.folder / 'config.json'}: extra.frontier: {error}") from None

    @property
    def teacher(self) -> str:
        """The name of the checkpoint that this one was distilled from; "" for any other."""
        found = self._recipe.get("teacher")
        return found if isinstance(found, str) else ""

    @property
    def length(self) -> int:
        """Tokens per row in training; 0 where unknown."""
        length = self._recipe.get("length")
        return length if isinstance(length, int) and 0 < length <= self.config.context_length else 0

    @property
    def default_length(self) -> int:
        """Tokens of a text from [MASK]s alone: DEFAULT_LENGTH, or fewer if the rows in training were shorter."""
        return min(self.length or DEFAULT_LENGTH, DEFAULT_LENGTH)

    @property
    def _recipe(self) -> dict[str, Any]:
        recipe = self.extra.get("recipe")
        return recipe if isinstance(recipe, dict) else {}


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a parameter is a matrix: weight decay applies to it, and it may be stored in bfloat16.

    A_log, D, dt_bias, norms and biases are not, whatever their shape: the code of arXiv:2405.21060 leaves them
    undecayed and in float32.
    """
    *path, leaf = name.split(".")
    keeps = leaf in ("A_log", "D") or leaf.endswith("bias") or any("norm" in part for part in (*path, leaf))
    return tensor.ndim >= 2 and not keeps


def save_checkpoint(
    folder: str | Path,
    model: nn.Module,
    *,
    card: str,
    extra: Mapping[str, Any] | None = None,
    storage: str = "float32",
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Write `model` (its `.config` and its weights) to `folder` atomically, replacing an older checkpoint.

    storage: "float32", or "bfloat16" for matrices (`is_matrix`); everything else stays in float32.
    extra: plain JSON values for config.json. pictures: PNG bytes by file name, for the card.
    Raises ValueError when `folder` contains other files, which would be lost.
    """
    if storage not in STORAGE:
        raise ValueError(f"storage is {storage!r}; permitted: {', '.join(STORAGE)}")
    refuse_to_replace(Path(folder))
    weights = {
        name: tensor.to(STORAGE[storage]) if is_matrix(name, tensor) else tensor.float()
        for name, tensor in model.state_dict().items()
    }
    config: ModelConfig = model.config  # pyright: ignore[reportAssignmentType]

    def write(path: Path) -> None:
        files = _write_shards(path, weights)
        document = {
            "model_type": MODEL_TYPE,
            "format_version": FORMAT_VERSION,
            "model": config.to_dict(),
            "files": {file: sha256(path / file) for file in files},
            "extra": dict(extra or {}),
        }
        write_json(path / "config.json", document)
        (path / "README.md").write_text(card, encoding="utf-8")
        for name, data in (pictures or {}).items():
            (path / name).write_bytes(data)

    replace_folder(folder, write)


def record_frontier(info: CheckpointInfo, frontier: Frontier, picture: bytes) -> None:
    """Record in a checkpoint's config.json what was measured, and its choice as the rule to write with by default.

    The card gets the section "Tokens per pass", in place of an older one. picture: a PNG for it. Raises ValueError for
    a frontier without a choice.
    """
    if frontier.choice is None:
        raise ValueError("no point of the frontier has more tokens per pass without loss: there is no rule to record")
    file, readme = info.folder / "config.json", info.folder / "README.md"
    document = read_json(file)
    offered = frontier.worth_offering().to_dict()
    document["extra"] = {**info.extra, "generation": offered.pop("choice"), "frontier": offered}
    card = with_frontier(readme.read_text(encoding="utf-8") if readme.exists() else "", frontier)

    def write(folder: Path) -> None:
        for path in info.folder.iterdir():
            shutil.copyfile(path, folder / path.name)
        for path in (folder / "config.json", folder / "README.md", folder / FRONTIER):
            path.unlink(missing_ok=True)
        write_json(folder / "config.json", document)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / FRONTIER).write_bytes(picture)

    refuse_to_replace(info.folder)
    replace_folder(info.folder, write)


def with_frontier(card: str, frontier: Frontier) -> str:
    """A model card with the section "Tokens per pass" before "Limits", in place of an older one."""
    section = f"{TOKENS_PER_PASS}\n\n![Quality against tokens per pass]({FRONTIER})\n\n{frontier.card()}\n\n"
    card = re.sub(rf"^{TOKENS_PER_PASS}\n.*?(?=^## |\Z)", "", card, flags=re.M | re.S)
    before, limits, rest = card.partition("## Limits\n")
    return before + section + limits + rest


def load_checkpoint(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> tuple[Denoiser, Tokenizer]:
    """The denoiser (float32, in evaluation mode, on `device`) and the tokenizer of a checkpoint.

    name_or_path: a bundled name (see `bundled()`), a folder, or the id of a model on the Hugging Face Hub.
    Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one or a link out of the folder,
    and ConnectionError for a failed download; each names the file and the reason.
    """
    info = fetch_checkpoint(name_or_path)
    model = Denoiser(info.config)
    load_weights(model, info)
    return model.to(device).eval(), get_tokenizer(info.config.tokenizer)


def init_from(model: Denoiser, name_or_path: str | Path) -> None:
    """Give `model` the weights of a checkpoint (`Denoiser.init_from`), which may write in other blocks.

    Raises ValueError for another shape or tokenizer, and as `load_checkpoint` does.
    """
    own, found = model.config.to_dict(), fetch_checkpoint(name_or_path).config.to_dict()
    differ = [f"{name} {found[name]}, not {own[name]}" for name in own if own[name] != found[name]]
    if differ := [each for each in differ if each.partition(" ")[0] not in FREE_AT_INIT]:
        raise ValueError(
            f"the checkpoint {name_or_path} has {'; '.join(differ)}: begin with a model of its preset, architecture "
            "and tokenizer, which its card names"
        )
    model.init_from(load_checkpoint(name_or_path)[0])


def inspect_checkpoint(name_or_path: str | Path, **hub_options: Any) -> CheckpointInfo:
    """Read and check a checkpoint's config.json and, in a local folder, the sizes of its weight files.

    From the Hub only config.json is downloaded. hub_options: options of `hub.fetch`. Raises as `load_checkpoint` does.
    """
    folder, repository = _locate(name_or_path), None
    if folder is None:
        repository = str(name_or_path)
        folder = hub.fetch(repository, ["config.json"], **hub_options)
    if not (folder / "config.json").exists():
        _refuse_without_config(folder, repository)
    file = _own_file(folder, "config.json")
    document = read_json(file)
    if document.get("model_type") != MODEL_TYPE:
        kind = document.get("model_type") or document.get("architectures") or "nothing"
        whose = f"{repository}: " if repository else ""
        raise ValueError(
            f"{whose}{file} belongs to another architecture: model_type is {shown(kind)}, not {MODEL_TYPE!r}"
        )
    if document.get("format_version") != FORMAT_VERSION:
        version = document.get("format_version")
        raise ValueError(f"{file} has format_version {shown(version)}; this package reads {FORMAT_VERSION}")
    _refuse_keys(str(file), "keys", document, CONFIG_KEYS)
    try:
        config = ModelConfig.from_dict(document["model"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None
    files, extra = document["files"], document["extra"]
    if not isinstance(extra, dict):
        raise ValueError(f"{file}: extra is {type(extra).__name__}; it must be an object")
    options = extra.get("options")  # of the training: in older checkpoints the only record of the boundaries
    if isinstance(options, dict) and options.get("document_boundaries") is True:
        config = replace(config, document_boundaries=True)
    names = list(files) if isinstance(files, dict) else []
    if not names or not all(re.fullmatch(WEIGHT_FILE, name) for name in names):
        raise ValueError(f"{file}: files must map the safetensors files of this folder to their SHA-256")
    info = CheckpointInfo(Path(checkpoint_name(name_or_path)).name, folder, config, extra, files, repository)
    if repository is None:
        _check_sizes(info)
    return info


def checkpoint_name(name_or_path: str | Path) -> str:
    """What a checkpoint is called on screen and in files: its bundled name or Hub id, or the name of its folder.

    The checkpoint of a training run has the run's name.
    """
    if str(name_or_path) in bundled() or find_folder(name_or_path) is None:
        return str(name_or_path)
    folder = Path(name_or_path).resolve()
    return folder.parent.name if folder.name == OF_A_RUN else folder.name


def fetch_checkpoint(name_or_path: str | Path, **hub_options: Any) -> CheckpointInfo:
    """`inspect_checkpoint`, then download the rest of a model on the Hub, from the same commit."""
    info = inspect_checkpoint(name_or_path, **hub_options)
    if info.repository is None:
        return info
    wanted = [*info.files, "config.json", INDEX, "README.md", "*.png"]
    commit = info.folder.name  # snapshots are cached by commit
    info = replace(info, folder=hub.fetch(info.repository, wanted, **{**hub_options, "revision": commit}))
    _check_sizes(info)
    return info


def _own_file(folder: Path, name: str) -> Path:
    """The path of a checkpoint's file. Raises ValueError for a link out of the folder, except into the Hub's cache."""
    file, home = folder / name, folder.resolve()
    blobs = home.parent.parent / "blobs"  # huggingface_hub links from snapshots/COMMIT/ to these
    if file.resolve().parent not in (home, blobs):
        raise ValueError(f"{file} is a link out of the folder of the checkpoint; replace it by the file itself")
    check_file(file)
    return file


def read_beside(info: CheckpointInfo, name: str) -> bytes:
    """The card or a picture of a checkpoint. Raises ValueError for more than MAX_BESIDE bytes or a link elsewhere."""
    file = _own_file(info.folder, name)
    if (size := file.stat().st_size) > MAX_BESIDE:
        raise ValueError(f"{file} has {size:,} bytes; permitted: up to {MAX_BESIDE:,}")
    return file.read_bytes()


def _check_sizes(info: CheckpointInfo) -> None:
    """Refuse damaged files, and a model larger than the files could fill, without building it."""
    for name in info.files:
        check_tensors(_own_file(info.folder, name))
    least = min(STORAGE.values(), key=lambda dtype: dtype.itemsize).itemsize * info.config.parameters
    if info.bytes < least:
        raise ValueError(
            f"{info.folder / 'config.json'} describes a model of {info.config.parameters:,} parameters, at least "
            f"{least:,} bytes; its files have {info.bytes:,}"
        )


def load_weights(model: nn.Module, info: CheckpointInfo) -> dict[str, Tensor]:
    """Check a checkpoint's weights and load them into `model`; returns them as stored.

    Raises as `load_checkpoint` does.
    """
    tokenizer = get_tokenizer(info.config.tokenizer)
    if tokenizer.vocab_size != info.config.vocab_size:
        raise ValueError(
            f"{info.folder / 'config.json'}: vocab_size is {info.config.vocab_size}, but its tokenizer "
            f"{info.config.tokenizer!r} has {tokenizer.vocab_size} tokens; the two must match"
        )
    weights = _read_weights(info)
    expected = model.state_dict()
    _refuse_keys(f"{info.folder}: the weights do not fit config.json", "tensors", weights, expected)
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}; config.json asks for {tuple(expected[name].shape)}"
            raise ValueError(f"{info.folder}: {name} has shape {shapes}")
        if tensor.dtype not in STORAGE.values():
            raise ValueError(f"{info.folder}: {name} is {tensor.dtype}; permitted: {', '.join(STORAGE)}")
    model.load_state_dict(weights)
    return weights


def bundled() -> list[str]:
    """Names of the checkpoints that ship with the project."""
    folders = assets.root() / "checkpoints"
    return sorted(file.parent.name for file in folders.glob("[!.]*/config.json"))


def default_writer() -> str:
    """The bundled model that `diffuapriel sample` uses: the best in a clone, the one of the wheel elsewhere."""
    return next((name for name in WRITERS if name in bundled()), DEFAULT_CHECKPOINT)


def _locate(name_or_path: str | Path) -> Path | None:
    """The local folder; None for the id of a model on the Hub."""
    if str(name_or_path) in bundled():
        return assets.path("checkpoints", str(name_or_path))
    path = Path(name_or_path)
    try:
        folder, is_file = find_folder(path), path.is_file()
    except (OSError, ValueError) as error:  # a name of thousands of characters, or one with a NUL
        reason = getattr(error, "strerror", error)
        raise ValueError(f"the checkpoint {shown(str(path), 200)} cannot be opened: {reason}") from None
    if is_file:
        if path.suffix in PICKLE_SUFFIXES:
            raise ValueError(f"{path} {PICKLED}")
        raise ValueError(f"{path} is a file; name the folder that holds config.json and {WEIGHTS}")
    if folder is not None and not (folder / "config.json").is_file():
        folder = find_folder(folder / OF_A_RUN) or folder
    if folder is None and not hub.is_hub_id(name_or_path):
        known = ", ".join(bundled()) or "none"
        raise FileNotFoundError(
            f"no checkpoint {shown(str(name_or_path), 200)}: neither a folder, nor bundled ({known}), nor an id "
            "owner/name on the Hugging Face Hub"
        )
    return folder


def _refuse_without_config(folder: Path, repository: str | None) -> None:
    held = hub.file_names(repository) if repository else [file.name for file in folder.iterdir()]
    where = repository or folder
    for name in sorted(held):
        if Path(name).suffix in PICKLE_SUFFIXES:
            raise ValueError(f"{where}/{name} {PICKLED}")
    raise FileNotFoundError(f"{where}/config.json is missing: {where} is neither a checkpoint nor a run with one")


def refuse_to_replace(folder: Path) -> None:
    """A save replaces the whole folder: ValueError for one that contains other files."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a checkpoint is a folder")
    held = sorted(folder.iterdir()) if folder.exists() else []
    foreign = [path.name for path in held if path.is_dir() or path.suffix not in SUFFIXES]
    if foreign:
        raise ValueError(f"{folder} contains {foreign[0]!r}, which a save would delete; choose another folder")


def _refuse_keys(where: str, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Raise a ValueError that lists the first few unknown and missing names."""
    unknown, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    parts = [
        f"{kind} {what}: {', '.join(name[:80] for name in names[:5])}{' and others' if len(names) > 5 else ''}"
        for kind, names in (("unknown", unknown), ("missing", missing))
        if names
    ]
    if parts:
        raise ValueError(f"{where}: {'; '.join(parts)}")


def _write_shards(folder: Path, tensors: dict[str, Tensor]) -> list[str]:
    """Write the weights to one file or, above SHARD_BYTES, to several with an index. Returns their names."""
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_BYTES)
    for file, names in split.filename_to_tensors.items():
        write_tensors(folder / file, {name: tensors[name] for name in names})
    if split.is_sharded:
        write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    return list(split.filename_to_tensors)


def _read_weights(info: CheckpointInfo) -> dict[str, Tensor]:
    """All tensors of the files that config.json lists, after checking each file's SHA-256."""
    weights: dict[str, Tensor] = {}
    for name, digest in info.files.items():
        file = _own_file(info.folder, name)
        tensors = read_tensors(file)  # first, for a more precise error than the SHA-256 gives
        if sha256(file) != digest:
            raise ValueError(f"{file} is damaged: its SHA-256 is not the one that config.json records")
        weights.update(tensors)
    return weights
