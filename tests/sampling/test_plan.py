"""What is known before the first call, held against what the plain path does."""

import numpy as np
import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import BLIND, SCORED, Feed, plan, rounded
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.exact_head import ExactHead, holes

M = 20  # [MASK]
NONE = 4 * 15


def run(strategy: str, ids: torch.Tensor, **options):
    """The sampler, its start, and the plain path's states."""
    s = Sampler(SamplerConfig(strategy, seed=4, **options), get_schedule("log-linear"), M)
    states = [s.start([Canvas(row, row != M, M) for row in ids])]
    denoiser = ExactHead(M + 1, ids.shape[1])
    while not s.done(states[-1]):
        states.append(s.advance(denoiser, states[-1]))
    return s, states


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("strategy", SCORED)
def test_how_many_are_revealed_is_known(strategy, steps):
    s, states = run(strategy, holes(4, 15, M), steps=steps)
    ahead = plan(s, states[0])
    assert ahead.steps == list(range(len(states) - 1))
    np.testing.assert_array_equal(ahead.tables["quota"], [after.revealed.sum(1) for after in states[1:]])
    told = [s.question(before)[1].numpy() for before in states[:-1]]
    np.testing.assert_array_equal(ahead.tables["sigma"], told)
    assert ahead.holes >= states[0].masked.sum() and ahead.most >= ahead.tables["quota"].max()


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("strategy", BLIND)
def test_which_are_revealed_is_known(strategy, steps):
    s, states = run(strategy, holes(4, 15, M), steps=steps, remask_cap=0.4)
    ahead = plan(s, states[0])
    asked = [i for i, after in enumerate(states[1:]) if after.revealed.any()]
    assert ahead.steps == asked
    for i, sigma, places, uniform in zip(
        asked, *(ahead.tables[name] for name in ("sigma", "places", "uniform"))
    ):
        before, after = states[i], states[i + 1]
        real = places[places != NONE]
        np.testing.assert_array_equal(real, np.flatnonzero(after.revealed))
        np.testing.assert_array_equal(uniform[: len(real)], s.noise(before).token[after.revealed])
        np.testing.assert_array_equal(sigma, s.question(before)[1].numpy())


def test_what_goes_back_to_mask_waits_for_the_next_call():
    s, states = run("remask", holes(4, 15, M), steps=50, remask_cap=0.4)
    ahead = plan(s, states[0])
    waiting, expected = set(), []
    for after in states[1:]:
        if after.revealed.any():
            expected.append(waiting)
            waiting = set()
        waiting = waiting | set(np.flatnonzero(after.remasked).tolist())
    assert [set(row.tolist()) - {NONE} for row in ahead.tables["cleared"]] == expected
    assert any(expected) and not waiting


def test_a_call_whose_answer_nobody_would_read_is_not_made():
    s, states = run("ancestral", torch.full((1, 5), M), steps=200)
    assert len(plan(s, states[0]).steps) <= 5 < states[-1].nfe[0]


def test_sizes_are_rounded_up_by_an_eighth_at_most():
    sizes = [rounded(n) for n in range(5000)]
    assert all(n <= size <= n + n // 8 for n, size in enumerate(sizes))
    assert len(set(sizes[1024:2048])) <= 9


def test_a_feed_hands_on_the_numbers_of_each_step():
    target = torch.zeros(2, 3, dtype=torch.float64)
    feed = Feed(target)
    for step in range(5):
        feed.send(np.full((2, 3), step / 8))
        assert (target == step / 8).all()
