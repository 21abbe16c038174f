"""Later cells run the reader's function where it is right, and ours where it is not yet.

    read = use(read_block, check.read_block)

Our functions are those that the checkers compare with: `OURS` in the checker's module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from diffuapriel.lessons.check.verdict import Verdict


def use(mine: Callable[..., Any], check: Callable[..., Verdict]) -> Callable[..., Any]:
    """`mine` if `check` finds it right, else the package's function; prints whose code runs.

    Raises KeyError for a checker whose module has no function of its own.
    """
    ours: dict[str, Callable[..., Any]] = sys.modules[check.__module__].OURS
    name = check.__name__
    if check(mine):
        print(f"{name}: from here on your function runs.")
        return mine
    print(f"{name}: yours is not right yet, so the package's function runs.")
    return ours[name]
