"""How a lesson begins."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install ipywidgets")
from diffuapriel.lessons import prepare


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_everybody_has_the_same_random_numbers() -> None:
    drawn = []
    for _ in range(2):
        prepare(seed=3)
        drawn.append((random.random(), torch.rand(3).tolist()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 2), (4, 3), (16, 4)])
def test_a_core_is_left_to_the_browser_where_there_are_enough(monkeypatch, cores: int, threads: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    prepare()
    assert torch.get_num_threads() == threads


def test_who_sets_the_threads_has_the_last_word(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    prepare()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_is_a_whole_number(seed) -> None:
    with pytest.raises(ValueError, match="seed is"):
        prepare(seed=seed)
