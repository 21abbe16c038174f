"""A bar on a terminal or in a notebook; a line now and then in a file."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(what: str, total: int | None, *, unit: str, initial: int = 0, enabled: bool = True) -> Any:
    """A tqdm bar with rate and time left, on standard error. Raises ImportError with the way out without tqdm."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("training shows its progress with tqdm: pip install tqdm") from None
    return tqdm(
        desc=what,
        total=total,
        initial=initial,
        unit=unit,
        disable=not enabled,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
