"""Later cells run the reader's function where it is right, and ours where it is not yet.

read = use(check.read_block, read_block)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffuapriel.lessons.check.verdict import Verdict
from diffuapriel.lessons.ours import OURS


def use(check: Callable[..., Verdict], yours: Callable[..., Any]) -> Callable[..., Any]:
    """`yours` if `check` finds it right, else our function; prints whose code runs.

    Raises KeyError for a checker without a function of ours.
    """
    name = getattr(yours, "__name__", "")
    name = name if name.isidentifier() else check.__name__  # a lambda has no name of its own
    if check(yours):
        print(f"From here on your {name} runs.")
        return yours
    print(f"From here on ours runs in place of {name}. When yours is right, run this cell again.")
    return OURS[check.__name__]
