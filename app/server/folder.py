"""The app's own folder for uploads and downloads: one per user and process, readable by its owner alone.

Gradio's default, `gradio` in the folder for temporary files, belongs to whoever started an app first. Set the folder
before Gradio is imported: it reads GRADIO_TEMP_DIR then.
"""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import tempfile
import time
from pathlib import Path

VARIABLE = "GRADIO_TEMP_DIR"
PREFIX = "app-"  # then the process id


def use_own_folder() -> Path:
    """Make the folder and name it to Gradio; a folder that the variable already names is used as it is."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    base = Path(tempfile.gettempdir()).resolve() / f"diffuapriel-{user()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        if not is_private(base):
            raise PermissionError(f"{base} belongs to another user")
        remove_abandoned(base)
        folder = base / f"{PREFIX}{os.getpid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="diffuapriel-"))
    os.environ[VARIABLE] = str(folder)
    atexit.register(remove_own, folder, os.getpid())
    return folder


def user() -> str:
    """The number of the user, on Windows the name."""
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, no link, and closed to others."""
    if not hasattr(os, "getuid"):
        return True
    found = folder.lstat()
    return not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o077


def remove_own(folder: Path, process: int) -> None:
    """Remove the folder at the end of the process that made it; a forked child leaves it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(base: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in base.glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX)
        if process.isdecimal() and not is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(process: int) -> bool:
    if os.name == "nt":  # here a signal of 0 would end it
        import psutil

        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def files_by_age(folder: Path) -> list[tuple[float, int, Path]]:
    """(time of change, bytes, file) of all files below a folder, oldest first."""
    found = []
    for file in folder.rglob("*"):
        try:
            status = file.lstat()
        except OSError:  # gone meanwhile
            continue
        if not file.is_dir():
            found.append((status.st_mtime, status.st_size, file))
    return sorted(found)


def tidy(folder: Path, most_bytes: int, part_seconds: float) -> int:
    """Delete parts of uploads that were broken off, then the oldest files above `most_bytes`. Returns the bytes left.

    Gradio writes an upload into the folder itself and moves what is complete into a folder of its own.
    """
    files = files_by_age(folder)
    total, now = sum(size for _, size, _ in files), time.time()
    for changed, size, file in files:
        is_old_part = file.parent == folder and now - changed > part_seconds
        if is_old_part or total > most_bytes:
            file.unlink(missing_ok=True)
            total -= size
    return total
