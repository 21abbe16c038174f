"""Where the files that ship with the project are: the rank table, checkpoints, pictures and measured results.

A clone holds them in `assets/`, beside the package. An installed wheel carries the rank table and one checkpoint in
`diffuapriel/_assets/` (setup.py). The environment variable DIFFUAPRIEL_ASSETS names a copy elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The assets folder: DIFFUAPRIEL_ASSETS if set, else the wheel's, else that of the clone."""
    if named := os.environ.get("DIFFUAPRIEL_ASSETS"):
        return Path(named)
    shipped = PACKAGE / "_assets"
    return shipped if shipped.is_dir() else PACKAGE.parent / "assets"


def path(*parts: str) -> Path:
    """Path of one shipped file or folder. Raises FileNotFoundError that says where it was sought."""
    found = root().joinpath(*parts)
    if not found.exists():
        raise FileNotFoundError(
            f"{'/'.join(parts)} is not in {root()}; run from a clone of the repository, "
            "or set DIFFUAPRIEL_ASSETS to its assets folder"
        )
    return found
