"""The start of a lesson: the same random numbers for everybody, and one core left for the browser."""

from __future__ import annotations

import os
import random

import torch

# The project's tests set DIFFUAPRIEL_QUICK: then every cell runs and nothing is learned.
QUICK = os.environ.get("DIFFUAPRIEL_QUICK") == "1"
MAX_THREADS = 4


def prepare(seed: int = 0) -> None:
    """Seed Python and PyTorch, and use all cores but one, at least two and at most four.

    If OMP_NUM_THREADS is set, it decides the number of threads.

    Raises ValueError if the seed is not a whole number >= 0.
    """
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number, 0 or more")
    random.seed(seed)
    torch.manual_seed(seed)
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores = 1 if QUICK else os.cpu_count() or 1  # the tests run several lessons at once
    torch.set_num_threads(max(min(2, cores), min(MAX_THREADS, cores - 1)))
