"""What is known before the first call, held against what the plain path does."""

import numpy as np
import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import FIXED_ORDER, SCORED, HostBuffer, plan_generation, rounded
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.head.exact import ExactHead, holes

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
    plan = plan_generation(s, states[0])
    assert plan.steps == list(range(len(states) - 1))
    np.testing.assert_array_equal(plan.tables["num_transfer_tokens"], [after.revealed.sum(1) for after in states[1:]])
    told = [s.model_inputs(before)[1].numpy() for before in states[:-1]]
    np.testing.assert_array_equal(plan.tables["sigma"], told)
    assert plan.max_masked >= states[0].masked.sum() and plan.max_revealed >= plan.tables["num_transfer_tokens"].max()


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("strategy", FIXED_ORDER)
def test_which_are_revealed_is_known(strategy, steps):
    s, states = run(strategy, holes(4, 15, M), steps=steps, remask_cap=0.4)
    plan = plan_generation(s, states[0])
    asked = [i for i, after in enumerate(states[1:]) if after.revealed.any()]
    assert plan.steps == asked
    for i, sigma, indices, uniform in zip(asked, *(plan.tables[name] for name in ("sigma", "indices", "uniform"))):
        before, after = states[i], states[i + 1]
        real = indices[indices != NONE]
        np.testing.assert_array_equal(real, np.flatnonzero(after.revealed))
        np.testing.assert_array_equal(uniform[: len(real)], s.noise(before).for_tokens[after.revealed])
        np.testing.assert_array_equal(sigma, s.model_inputs(before)[1].numpy())


def test_what_goes_back_to_mask_waits_for_the_next_call():
    s, states = run("remdm", holes(4, 15, M), steps=50, remask_cap=0.4)
    plan = plan_generation(s, states[0])
    waiting, expected = set(), []
    for after in states[1:]:
        if after.revealed.any():
            expected.append(waiting)
            waiting = set()
        waiting = waiting | set(np.flatnonzero(after.remasked).tolist())
    assert [set(row.tolist()) - {NONE} for row in plan.tables["remasked"]] == expected
    assert any(expected) and not waiting


def test_a_call_whose_answer_nobody_would_read_is_not_made():
    s, states = run("ancestral", torch.full((1, 5), M), steps=200)
    assert len(plan_generation(s, states[0]).steps) <= 5 < states[-1].nfe[0]


def test_sizes_are_rounded_up_by_an_eighth_at_most():
    sizes = [rounded(n) for n in range(5000)]
    assert all(n <= size <= n + n // 8 for n, size in enumerate(sizes))
    assert len(set(sizes[1024:2048])) <= 9


def test_a_host_buffer_hands_on_the_numbers_of_each_step():
    target = torch.zeros(2, 3, dtype=torch.float64)
    buffer = HostBuffer(target)
    for step in range(5):
        buffer.send(np.full((2, 3), step / 8))
        assert (target == step / 8).all()
