"""Where the files that ship with the project are: the rank table, checkpoints and pictures.

They live in `assets/` at the top of the repository; the project is run from a clone. A copy elsewhere
is named by the environment variable DIFFUAPRIEL_ASSETS.
"""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """The assets folder: DIFFUAPRIEL_ASSETS if set, otherwise `assets/` beside the package."""
    return Path(os.environ.get("DIFFUAPRIEL_ASSETS") or Path(__file__).resolve().parent.parent / "assets")


def path(*parts: str) -> Path:
    """Path of one shipped file or folder. Raises FileNotFoundError that says where it was sought."""
    found = root().joinpath(*parts)
    if not found.exists():
        raise FileNotFoundError(
            f"{'/'.join(parts)} is not in {root()}; run from a clone of the repository, "
            "or set DIFFUAPRIEL_ASSETS to its assets folder"
        )
    return found
