"""How a lesson begins: the same random numbers for everybody, and a core left for the browser."""

from __future__ import annotations

import os
import random

import torch

# The tests of this project set DIFFUAPRIEL_QUICK: then every cell runs and nothing is learnt.
QUICK = os.environ.get("DIFFUAPRIEL_QUICK") == "1"
MOST_THREADS = 4


def prepare(seed: int = 0) -> None:
    """Seed the random numbers of Python and PyTorch, and choose the threads: every core but one, from two to four.

    OMP_NUM_THREADS, where it is set, has the last word on threads.

    Raises ValueError for a seed that is not a whole number, 0 or more.
    """
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number, 0 or more")
    random.seed(seed)
    torch.manual_seed(seed)
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores = 1 if QUICK else os.cpu_count() or 1  # the tests run several lessons at once
    torch.set_num_threads(max(min(2, cores), min(MOST_THREADS, cores - 1)))
