"""What a command writes: paths are checked before work begins, and no result is lost to a path that fails at the end.

`output_file` and `output_folder` are types of argparse. Folders that do not exist are made when the output is written.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def output_file(text: str) -> Path:
    """The path of a file that can be written. Raises ArgumentTypeError with the reason."""
    path = Path(text)
    _check(path, "folder", path.is_dir)
    return path


def output_folder(text: str) -> str:
    """The path of a folder that can be written or made, as typed. Raises ArgumentTypeError with the reason."""
    path = Path(text)
    _check(path, "file", path.is_file)
    return text


@contextmanager
def printed_unless_written(figures: Mapping[str, Any]) -> Iterator[None]:
    """Print the figures as JSON if the block, which writes them, fails: what was measured is not lost."""
    try:
        yield
    except BaseException:
        print(json.dumps(figures))
        raise


def write_figures(file: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON. If that fails, they are printed."""
    with printed_unless_written(figures):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _check(path: Path, wrong: str, is_wrong) -> None:
    try:
        if is_wrong():
            raise argparse.ArgumentTypeError(f"{path} is a {wrong}")
        nearest = next(there for there in (path, *path.absolute().parents) if there.exists())
        if nearest != path and not nearest.is_dir():
            raise argparse.ArgumentTypeError(f"{path}: {nearest} is not a folder")
        if not os.access(nearest, os.W_OK):
            raise argparse.ArgumentTypeError(f"{path}: {nearest} cannot be written")
    except OSError as error:  # e.g. a name of thousands of characters
        raise argparse.ArgumentTypeError(f"{str(path)[:200]}: {error.strerror}") from None
