"""With an exact denoiser the samples have the exact distribution: chi-square tests with fixed seeds.

A sampler that reveals one token at a time is exact (`first_hitting`, and `random` with a step a mask). `ancestral`
may reveal several at once, each from its own marginal: for it the law of the whole chain is computed and tested.
"""

import itertools

import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.models import Exact, random_joint

TOKENS, LENGTH, SAMPLES = 3, 4, 6000
CHI2_999 = {80: 124.84, 26: 54.05}  # 99.9 % quantiles by degrees of freedom


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> float:
    expected = p * counts.sum()
    assert expected.min() > 3
    return float(((counts - expected) ** 2 / expected).sum())


def sample(exact: Exact, config: SamplerConfig, canvas: list[int], schedule: str = "log-linear") -> torch.Tensor:
    sampler = Sampler(config, get_schedule(schedule), exact.mask_id)
    return generate(sampler, exact, torch.tensor([canvas] * SAMPLES))


@pytest.mark.parametrize("strategy", ["first_hitting", "random"])
def test_one_token_at_a_time_gives_the_exact_joint(strategy):
    exact = Exact(random_joint(TOKENS, LENGTH, seed=1))
    ids = sample(exact, SamplerConfig(strategy, steps=LENGTH, seed=3), [exact.mask_id] * LENGTH)
    assert chi_square(exact.counts(ids), exact.joint) < CHI2_999[80]


@pytest.mark.parametrize("strategy", ["first_hitting", "random"])
def test_with_a_token_given_the_samples_are_from_the_conditional(strategy):
    exact = Exact(random_joint(TOKENS, LENGTH, seed=2))
    ids = sample(exact, SamplerConfig(strategy, steps=LENGTH, seed=4), [exact.mask_id, 1, exact.mask_id, exact.mask_id])
    conditional = exact.joint * (exact.sequences[:, 1] == 1)
    possible = conditional > 0
    counts = exact.counts(ids)
    assert counts[~possible].sum() == 0
    assert chi_square(counts[possible], conditional[possible] / conditional.sum()) < CHI2_999[26]


@pytest.mark.parametrize("strategy", ["first_hitting", "random"])
def test_a_sequence_of_probability_zero_never_comes_out(strategy):
    joint = torch.zeros(TOKENS, TOKENS, TOKENS)
    joint[0, 1, 2] = joint[1, 2, 0] = joint[2, 0, 1] = 1.0
    exact = Exact(joint)
    sampler = Sampler(SamplerConfig(strategy, steps=3, seed=5), get_schedule("log-linear"), exact.mask_id)
    ids = generate(sampler, exact, torch.full((500, 3), exact.mask_id))
    assert exact.counts(ids)[exact.joint == 0].sum() == 0


@pytest.mark.parametrize("strategy", ["ancestral", "remdm"])
def test_independent_tokens_come_out_exactly_in_any_number_of_steps(strategy):
    p = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3], [0.25, 0.5, 0.25]])
    exact = Exact(torch.einsum("a,b,c,d->abcd", *p))
    config = SamplerConfig(strategy, steps=5, remask_cap=0.3, seed=6)
    assert chi_square(exact.counts(sample(exact, config, [exact.mask_id] * LENGTH)), exact.joint) < CHI2_999[80]


@pytest.mark.parametrize("schedule", ["log-linear", "cosine"])
def test_ancestral_samples_follow_the_law_of_its_chain(schedule):
    exact = Exact(random_joint(TOKENS, LENGTH, seed=7))
    steps = 3
    law = ancestral_law(exact, schedule, steps)
    counts = exact.counts(
        sample(exact, SamplerConfig("ancestral", steps=steps, seed=8), [exact.mask_id] * LENGTH, schedule)
    )
    assert chi_square(counts, law) < CHI2_999[80]
    # The test can tell the difference: with three steps the law is not yet the joint.
    assert chi_square(counts, exact.joint) > CHI2_999[80]


def ancestral_law(exact: Exact, schedule: str, steps: int) -> torch.Tensor:
    """Distribution over sequences of MDLM's reverse chain on a grid, by enumeration of all partial canvases."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alphas = get_schedule(schedule).alpha(times).tolist()
    chain = {(exact.mask_id,) * exact.positions: 1.0}
    for a_t, a_s in itertools.pairwise(alphas):
        reveal = (a_s - a_t) / (1 - a_t)
        after: dict[tuple[int, ...], float] = {}
        for canvas, probability in chain.items():
            marginals = exact.marginals(torch.tensor([canvas]))[0].tolist()
            options = [
                [(exact.mask_id, 1 - reveal), *((v, reveal * p) for v, p in enumerate(marginals[i]))]
                if token == exact.mask_id
                else [(token, 1.0)]
                for i, token in enumerate(canvas)
            ]
            for choice in itertools.product(*options):
                key = tuple(token for token, _ in choice)
                weight = probability
                for _, q in choice:
                    weight *= q
                after[key] = after.get(key, 0.0) + weight
        chain = after
    return torch.tensor([chain[tuple(s)] for s in exact.sequences.tolist()], dtype=torch.float64)
