"""Atomic writes of folders, and tensor files whose errors say what is wrong.

Everything the package keeps (checkpoints, the state of a training run) is a folder of safetensors, JSON and Markdown.
Nothing is pickled: opening a pickle can run any code.

`replace_folder` leaves a complete version readable at every moment:

    1. write everything to `.NAME.writing`, and fsync every file
    2. rename `NAME` to `.NAME.previous`          (killed here: `find_folder` finds `.NAME.previous`)
    3. rename `.NAME.writing` to `NAME`
    4. delete `.NAME.previous`                    (killed here: `NAME` is complete; the rest is litter)

Renames are atomic, and `.NAME.previous` is only deleted while `NAME` exists, so if `NAME` is missing then
`.NAME.previous` is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# a zip archive, or a bare pickle of protocols 2 to 5
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLED = "is a pickled file; only safetensors is read, since a pickle can run any code"
MAX_JSON = 4_000_000  # bytes of a JSON file or of a safetensors header
MAX_NESTING = 64  # levels of lists and objects in JSON


def replace_folder(folder: str | Path, write: Callable[[Path], None]) -> None:
    """Replace `folder` atomically by what `write(path)` writes to an empty folder beside it.

    If `write` raises, `folder` is unchanged.
    """
    folder = Path(folder).resolve()
    writing, previous = _beside(folder)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        write(writing)
        for path in (*writing.iterdir(), writing):
            fsync(path)
    except BaseException as error:
        shutil.rmtree(writing, ignore_errors=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk names no file
            error.filename = str(folder)
        raise
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
    os.rename(writing, folder)
    fsync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def find_folder(folder: str | Path) -> Path | None:
    """The last complete version of `folder`: itself, or the copy that an interrupted save left, or None."""
    folder = Path(folder).resolve()
    return next((path for path in (folder, _beside(folder)[1]) if path.is_dir()), None)


def writing_folder(folder: str | Path) -> Path:
    """Where `replace_folder` writes, for other processes that take part in the save."""
    return _beside(Path(folder).resolve())[0]


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.previous")


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and renames need no flush there
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
    file.chmod(0o644)  # safetensors creates files that only their owner may read


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read one safetensors file to the CPU.

    Raises FileNotFoundError, or ValueError that names the file and what is wrong with it: pickled, truncated, longer
    than its header says, or not safetensors.
    """
    check_tensors(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {str(error)[:200]}") from None


def check_tensors(file: Path) -> None:
    """Raise what `read_tensors` would raise, from the header and size of the file, without reading its tensors."""
    check_file(file)
    promised = _promised_size(file)
    size = file.stat().st_size
    if size != promised:
        what = "truncated" if size < promised else "damaged"
        raise ValueError(f"{file} is {what}: its header promises {promised:,} bytes, it has {size:,}")


def check_file(file: Path) -> None:
    """Raise FileNotFoundError or ValueError, which name it, unless `file` is a regular file."""
    try:
        kind = file.stat().st_mode
    except (OSError, ValueError) as error:  # a name with a NUL, or of thousands of characters
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{file} is missing") from None
        raise ValueError(f"{str(file)[:200]} cannot be opened: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(kind):  # reading a pipe or a device may never end
        raise ValueError(f"{file} is not a regular file")


def _promised_size(file: Path) -> int:
    """The size that a safetensors file should have: 8 bytes, its header, and the end of its last tensor."""
    with file.open("rb") as stream:
        start, opens = stream.read(8), stream.read(1)
        if start.startswith(PICKLE_STARTS) and opens != b"{":  # a header of 640 bytes starts like a pickle
            raise ValueError(f"{file} {PICKLED}")
        length, size = int.from_bytes(start, "little"), file.stat().st_size
        if size < 8 or size - 8 < length <= MAX_JSON:
            raise ValueError(f"{file} is truncated: it ends inside its header, after {size:,} bytes")
        if opens == b"{" and length > MAX_JSON:
            raise ValueError(f"{file} has a header of {length:,} bytes; permitted: up to {MAX_JSON:,}")
        try:
            stream.seek(8)
            header = parse_json(stream.read(length) if length <= MAX_JSON else b"")
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + int(min(max(ends, default=0), 2**63))  # a longer number would fill the message
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise ValueError(f"{file} is not a safetensors file: its header cannot be read") from None


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads` for text that may be a stranger's: ValueError also for more than MAX_NESTING levels."""
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError(f"lists and objects are nested deeper than {MAX_NESTING} levels") from None
    level: list[Any] = [[value]]
    for _ in range(MAX_NESTING + 1):
        inside = (outer.values() if type(outer) is dict else outer for outer in level)
        level = [item for items in inside for item in items if type(item) in (dict, list)]
    if level:
        raise ValueError(f"lists and objects are nested deeper than {MAX_NESTING} levels")
    return value


def write_json(file: Path, value: Any) -> None:
    """Write readable JSON: indented, with a trailing newline."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of at most MAX_JSON bytes. Raises FileNotFoundError, or ValueError that names the file."""
    check_file(file)
    if (size := file.stat().st_size) > MAX_JSON:
        raise ValueError(f"{file} has {size:,} bytes; permitted: up to {MAX_JSON:,}")
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds {type(value).__name__}; a JSON object was expected")
    return value


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
