"""With an exact denoiser the samples have the exact distribution: chi-square tests with fixed seeds.

A sampler that reveals one token at a time is exact, whatever chooses the position, as long as it does not look at the
token drawn there. `ancestral` and ReMDM may reveal several at once, each from its own marginal, and take tokens back;
`confidence` "drawn" looks at the token. For these the law of the whole chain is computed and tested.
"""

import itertools
import math

import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.models import Exact, random_joint

TOKENS, LENGTH, SAMPLES = 3, 4, 6000
ONE_AT_A_TIME = [
    ("first_hitting", {}),
    ("random", {}),
    ("low_confidence", {}),
    ("threshold", {"threshold": 1.0}),
    ("factor", {"factor": 0.0}),
    ("entropy_bound", {"entropy_bound": 0.0}),
    ("entropy", {"alg_temp": 0.2}),
    ("low_confidence", {"alg_temp": 0.2, "block_length": 2}),
]
CHI2_999 = {80: 124.84, 26: 54.05}  # 99.9 % quantiles by degrees of freedom


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> float:
    expected = p * counts.sum()
    assert expected.min() > 3
    return float(((counts - expected) ** 2 / expected).sum())


def sample(exact: Exact, config: SamplerConfig, canvas: list[int], schedule: str = "log-linear") -> torch.Tensor:
    sampler = Sampler(config, get_schedule(schedule), exact.mask_id)
    return generate(sampler, exact, torch.tensor([canvas] * SAMPLES))


@pytest.mark.parametrize(("strategy", "options"), ONE_AT_A_TIME, ids=str)
def test_one_token_at_a_time_gives_the_exact_joint(strategy, options):
    exact = Exact(random_joint(TOKENS, LENGTH, seed=1))
    ids = sample(exact, SamplerConfig(strategy, steps=LENGTH, seed=3, **options), [exact.mask_id] * LENGTH)
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


@pytest.mark.parametrize("strategy", ["ancestral", "remdm", "remdm_rescale", "remdm_loop"])
def test_independent_tokens_come_out_exactly_in_any_number_of_steps(strategy):
    p = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3], [0.25, 0.5, 0.25]])
    exact = Exact(torch.einsum("a,b,c,d->abcd", *p))
    config = SamplerConfig(strategy, steps=5, remask_cap=0.3, remask_rescale=0.5, seed=6)
    assert chi_square(exact.counts(sample(exact, config, [exact.mask_id] * LENGTH)), exact.joint) < CHI2_999[80]


STEPS = 4


def cap(confidence, sigma_max):
    return [min(0.3, sigma_max)] * len(confidence)


def rescale(confidence, sigma_max):
    return [0.5 * sigma_max] * len(confidence)


def conf(confidence, sigma_max):
    weights = [0.0 if p is None else math.exp(-p) for p in confidence]
    return [sigma_max * w / max(sum(weights), 1e-9) for w in weights]


@pytest.mark.parametrize("schedule", ["log-linear", "cosine"])
@pytest.mark.parametrize(
    ("strategy", "sigma"),
    [("ancestral", None), ("remdm", cap), ("remdm_rescale", rescale), ("remdm_conf", conf), ("remdm_loop", cap)],
)
def test_samples_on_the_schedule_follow_the_law_of_their_chain(strategy, sigma, schedule):
    exact = Exact(random_joint(TOKENS, 3, seed=7))
    options = {"remask_cap": 0.3, "remask_rescale": 0.5, "t_on": 0.75, "t_off": 0.25, "alpha_on": 0.6}
    alphas = get_schedule(schedule).alpha(torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)).tolist()
    if strategy == "remdm_loop":
        alphas = [alphas[0], 0.6, 0.6, 0.6, 1.0]
    law = chain_law(exact, alphas, sigma, loop=strategy == "remdm_loop")
    config = SamplerConfig(strategy, steps=STEPS, seed=8, **options)
    counts = exact.counts(sample(exact, config, [exact.mask_id] * 3, schedule))
    assert chi_square(counts, law) < CHI2_999[26]
    # The test can tell the difference: with four steps the law is not yet the joint.
    assert chi_square(counts, exact.joint) > CHI2_999[26]


def chain_law(exact: Exact, alphas: list[float], sigma, loop: bool) -> torch.Tensor:
    """Distribution over sequences of ReMDM's reverse chain, by enumeration; MDLM's if sigma is None.

    A state is the canvas, and the probability at which each of its tokens was drawn.
    """
    chain: dict[tuple, float] = {((exact.mask_id, None),) * exact.positions: 1.0}
    for a_t, a_s in itertools.pairwise(alphas):
        after: dict[tuple, float] = {}
        for state, chance in chain.items():
            marginals = exact.marginals(torch.tensor([[token for token, _ in state]]))[0].tolist()
            rates = [0.0] * len(state)
            if sigma is not None and (a_s == a_t or not loop):
                rates = sigma([p for _, p in state], min(1.0, (1 - a_s) / a_t))
            outcomes = []
            for i, (token, p) in enumerate(state):
                if token != exact.mask_id:
                    outcomes.append([((exact.mask_id, None), rates[i]), ((token, p), 1 - rates[i])])
                    continue
                reveal = (a_s - (1 - rates[i]) * a_t) / (1 - a_t)
                # Only `conf` reads the probability; without it, more states are the same.
                drawn = [((v, q if sigma is conf else 0.0), reveal * q) for v, q in enumerate(marginals[i])]
                outcomes.append([((exact.mask_id, None), 1 - reveal), *drawn])
            for combination in itertools.product(*outcomes):
                weight = chance * math.prod(q for _, q in combination)
                if weight:
                    key = tuple(position for position, _ in combination)
                    after[key] = after.get(key, 0.0) + weight
        chain = after
    law = dict.fromkeys(map(tuple, exact.sequences.tolist()), 0.0)
    for state, chance in chain.items():
        law[tuple(token for token, _ in state)] += chance
    return torch.tensor(list(law.values()), dtype=torch.float64)


def test_to_compare_drawn_tokens_favors_probable_ones_by_a_known_law():
    exact = Exact(random_joint(TOKENS, 3, seed=9) + 1)
    config = SamplerConfig("low_confidence", steps=3, confidence="drawn", seed=10)
    counts = exact.counts(sample(exact, config, [exact.mask_id] * 3))
    law = drawn_law(exact)
    assert chi_square(counts, law) < CHI2_999[26] < chi_square(counts, exact.joint)
    assert (law * law.log()).sum() > (exact.joint * exact.joint.log()).sum()  # less entropy than the joint


def drawn_law(exact: Exact) -> torch.Tensor:
    """One token per step: draw at every masked position, and keep the token of the highest probability."""
    chain: dict[tuple, float] = {(exact.mask_id,) * exact.positions: 1.0}
    for _ in range(exact.positions):
        after: dict[tuple, float] = {}
        for canvas, chance in chain.items():
            p = exact.marginals(torch.tensor([canvas]))[0].tolist()
            masked = [i for i, token in enumerate(canvas) if token == exact.mask_id]
            for drawn in itertools.product(range(exact.tokens), repeat=len(masked)):
                best = max(range(len(masked)), key=lambda k: p[masked[k]][drawn[k]])
                key = (*canvas[: masked[best]], drawn[best], *canvas[masked[best] + 1 :])
                weight = math.prod(p[i][v] for i, v in zip(masked, drawn))
                after[key] = after.get(key, 0.0) + chance * weight
        chain = after
    return torch.tensor([chain[tuple(s)] for s in exact.sequences.tolist()], dtype=torch.float64)
