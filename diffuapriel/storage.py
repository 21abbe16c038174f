"""Folders that are whole or not there, and tensor files that say what is wrong with them.

Everything this package keeps (checkpoints, the state of a training run) is a folder of safetensors, JSON and
Markdown. Nothing is ever pickled: a pickle runs code when it is opened.

`replace_folder` never leaves a moment at which no whole version can be read:

    1. write everything into `.NAME.writing`, and fsync every file
    2. rename `NAME` to `.NAME.previous`          (a kill here: `find_folder` reads `.NAME.previous`)
    3. rename `.NAME.writing` to `NAME`
    4. remove `.NAME.previous`                    (a kill here: `NAME` is whole, the rest is litter)

A rename is atomic, so each of the four is all or nothing; `.NAME.previous` is only ever removed while `NAME`
is there, so when `NAME` is missing `.NAME.previous` is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip or a bare pickle
PICKLED = "is a pickled file; only safetensors is read, since a pickle can run any code"
LONGEST_HEADER = 100_000_000  # bytes; the safetensors format's own bound


def replace_folder(folder: str | Path, write: Callable[[Path], None]) -> None:
    """Put what `write(path)` writes in place of `folder`, whole or not at all.

    `write` gets an empty folder beside `folder`. If it raises, `folder` is as it was.
    """
    folder = Path(folder).resolve()
    writing, previous = _beside(folder)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        write(writing)
        for path in (*writing.iterdir(), writing):
            _fsync(path)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
    os.rename(writing, folder)
    _fsync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def find_folder(folder: str | Path) -> Path | None:
    """Where the last whole version of `folder` lies: itself, the copy set aside by a save, or nowhere."""
    folder = Path(folder).resolve()
    return next((path for path in (folder, _beside(folder)[1]) if path.is_dir()), None)


def writing_folder(folder: str | Path) -> Path:
    """Where `replace_folder` writes: for other processes that have a part in it."""
    return _beside(Path(folder).resolve())[0]


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.previous")


def _fsync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and needs none of this for a rename
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write one safetensors file. Raises RuntimeError for tensors that share memory."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes files that nobody else may read


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read one safetensors file, on the CPU.

    Raises FileNotFoundError, or ValueError that names the file and what is wrong with it: pickled, truncated,
    longer than it says, or not safetensors at all.
    """
    check_tensors(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def check_tensors(file: Path) -> None:
    """Raise what `read_tensors` would raise for a safetensors file, from its header and size, without reading it."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    promised = _promised_size(file)
    size = file.stat().st_size
    if size != promised:
        what = "truncated" if size < promised else "damaged"
        raise ValueError(f"{file} is {what}: its header promises {promised:,} bytes, it has {size:,}")


def _promised_size(file: Path) -> int:
    """Bytes that a safetensors file should have: 8, the header's length, and the end of its last tensor."""
    with file.open("rb") as stream:
        start, opens = stream.read(8), stream.read(1)
        if start.startswith(PICKLE_STARTS) and opens != b"{":  # a header of 640 bytes starts as a pickle does
            raise ValueError(f"{file} {PICKLED}")
        length, size = int.from_bytes(start, "little"), file.stat().st_size
        if size < 8 or size - 8 < length <= LONGEST_HEADER:
            raise ValueError(f"{file} is truncated: it ends inside its header, after {size:,} bytes")
        try:
            stream.seek(8)
            header = json.loads(stream.read(length) if length <= LONGEST_HEADER else b"")
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise ValueError(f"{file} is not a safetensors file: its header cannot be read") from None


def write_json(file: Path, value: Any) -> None:
    """Write JSON for people: indented, one trailing newline."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises FileNotFoundError, or ValueError that names the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds {type(value).__name__}; a JSON object was expected")
    return value


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
