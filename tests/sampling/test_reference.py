"""Each rule against the reference code of its paper, transcribed: LLaDA, Fast-dLLM, EB-Sampler, Dream and ReMDM."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import REMDM, SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.strategies import SELECTORS, gumbel
from diffuapriel.sampling.tokens import Noise
from tests.sampling.models import Recorded, fixed_logits

LOG_LINEAR = get_schedule("log-linear")
CHI2_999 = {2: 13.82, 5: 20.52, 9: 27.88}  # 99.9 % quantiles by degrees of freedom


def llada(logits, prompt, gen_length, block_length, steps, mask_id, temperature=0.0, seed=0):
    """`generate` of LLaDA's generate.py with low_confidence remasking; the ids after each step.

    The Gumbel noise of `add_gumbel_noise` is one way to draw from softmax(logits / temperature). Here the draw takes
    the sampler's numbers: the first token at which the cumulative sum exceeds the uniform number.
    """
    x = torch.full((1, len(prompt) + gen_length), mask_id)
    x[0, : len(prompt)] = torch.tensor(prompt)
    num_blocks = gen_length // block_length
    assert gen_length % block_length == 0 and steps % num_blocks == 0
    steps //= num_blocks
    for num_block in range(num_blocks):
        start, end = (len(prompt) + (num_block + i) * block_length for i in (0, 1))
        mask_num = int((x[:, start:end] == mask_id).sum())
        num_transfer_tokens = [mask_num // steps + (i < mask_num % steps) for i in range(steps)]
        for i in range(steps):
            mask_index = x == mask_id
            kept = logits(x)[..., :mask_id].double()
            x0 = kept.argmax(-1)
            if temperature:
                u = torch.from_numpy(Noise.draw(seed, 0, 1, num_block * steps + i, x.shape[1]).for_tokens)
                x0 = ((kept / temperature).softmax(-1).cumsum(-1) <= u[..., None]).sum(-1)
            x0_p = kept.softmax(-1).gather(-1, x0[..., None]).squeeze(-1)
            x0_p[:, end:] = -torch.inf
            x0 = torch.where(mask_index, x0, x)
            confidence = torch.where(mask_index, x0_p, -torch.inf)
            _, select_index = torch.topk(confidence[0], k=num_transfer_tokens[i])
            x[0, select_index] = x0[0, select_index]
            yield tuple(x[0].tolist())


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("prompt", [0, 1, 5])
@pytest.mark.parametrize(
    ("gen_length", "block_length", "steps"),
    [(12, 4, 12), (12, 4, 6), (12, 4, 3), (12, 3, 8), (14, 7, 10), (16, 16, 11), (22, 11, 14), (30, 10, 21)],
)
def test_with_the_confidence_of_the_drawn_token_texts_are_filled_step_by_step_as_llada_fills_them(
    prompt, gen_length, block_length, steps, temperature
):
    mask_id, length = 7, prompt + gen_length
    weight = torch.randn(length, 8, length, 8, generator=torch.Generator().manual_seed(steps), dtype=torch.float64)

    def logits(ids: torch.Tensor) -> torch.Tensor:  # every answer depends on every token
        return torch.einsum("blk,lkme->bme", torch.nn.functional.one_hot(ids, 8).double(), weight) / 3

    given_ids = [i % 7 for i in range(prompt)]
    ids = torch.tensor([*given_ids, *[mask_id] * gen_length])
    config = SamplerConfig(
        "low_confidence",
        steps=steps,
        block_length=block_length,
        temperature=temperature,
        confidence="drawn",
        seed=3,
    )
    canvas = Canvas(ids, ids != mask_id, mask_id)
    frames = list(Sampler(config, LOG_LINEAR, mask_id).stream(Recorded(logits), canvas))
    expected = list(llada(logits, given_ids, gen_length, block_length, steps, mask_id, temperature, seed=3))
    assert [frame.ids for frame in frames[1:]] == expected
    top = replace(config, confidence="top")
    same = [frame.ids for frame in Sampler(top, LOG_LINEAR, mask_id).stream(Recorded(logits), canvas)][1:]
    if temperature == 0:
        assert same == expected
    elif steps == gen_length:
        assert same != expected


def get_transfer_index_dynamic(confidence: list[float], factor: float) -> list[int]:
    """Fast-dLLM's generate.py, for one row: the masked positions to fill, and whether its rule broke at the last."""
    ns = list(range(1, len(confidence) + 1))
    threshs = [1 - factor / (n + 1) for n in ns]
    threshs[0] = -1  # at least one token is transferred
    ranked = sorted(confidence, reverse=True)
    for top_i in range(len(threshs)):
        if ranked[top_i] < threshs[top_i]:
            break
    if top_i == 0 or top_i == len(threshs) - 1:
        top_i += 1
    return sorted(sorted(range(len(confidence)), key=lambda i: -confidence[i])[:top_i])


@given(st.lists(st.integers(500, 1000), min_size=1, max_size=9, unique=True), st.floats(0.001, 12))
@settings(max_examples=200, deadline=None)
def test_factor_fills_what_fast_dllm_fills_but_for_a_last_one_that_fails(thousandths, factor):
    confidence = [c / 1000 for c in thousandths]  # further apart than rounding, which decides ties
    rows = torch.tensor([[[math.log(c), math.log(1 - c) if c < 1 else -math.inf, 0.0] for c in confidence]]).double()
    canvas = Canvas(torch.full((len(confidence),), 2), torch.zeros(len(confidence), dtype=torch.bool), 2)
    sampler = Sampler(SamplerConfig("factor", factor=factor), LOG_LINEAR, 2)
    frames = list(sampler.stream(Recorded(lambda ids: rows), canvas))
    n = len(confidence)
    expected = get_transfer_index_dynamic(confidence, factor)
    edges = [(i + 2) * (1 - c) - factor for i, c in enumerate(sorted(confidence, reverse=True))]
    if min(map(abs, edges)) < 1e-6:
        return  # on the edge, rounding decides
    if n > 1 and len(expected) == n and edges[-1] > 0:  # only the last one fails: the code fills it all the same
        expected.remove(confidence.index(min(confidence)))
    assert list(frames[1].revealed) == expected


def get_transfer_index(confidence: torch.Tensor, threshold: float) -> list[int]:
    """Fast-dLLM's generate.py, for one row of the confidences of the masked positions."""
    _, select_index = torch.topk(confidence, k=len(confidence))
    chosen = [True] * len(confidence)
    for k in range(1, len(confidence)):
        if confidence[select_index[k]] < threshold:
            chosen[select_index[k]] = False
    return [position for position, taken in enumerate(chosen) if taken]


def eb_sampler_step(log_p: torch.Tensor, gamma: float) -> list[int]:
    """The EB-Sampler (arXiv:2505.24857) with its error proxy "entropy": the rows of log_p (n, V) to unmask."""
    entropy = torch.distributions.Categorical(logits=log_p).entropy()
    ids_sorted = entropy.argsort()
    entropy_sorted = entropy[ids_sorted]
    acc_entropy = entropy_sorted.cumsum(0)
    cummax_entropy = entropy_sorted.cummax(0).values
    k = int((acc_entropy - cummax_entropy <= gamma).sum())
    return sorted(ids_sorted[: max(1, k)].tolist())


@pytest.mark.parametrize("block_length", [None, 1, 3, 5, 8])
@pytest.mark.parametrize("value", [0.02, 0.3, 0.6, 1.5])
@pytest.mark.parametrize("rule", ["threshold", "entropy_bound"])
def test_step_by_step_each_rule_fills_the_open_block_as_its_reference_does(rule, value, block_length):
    mask_id, length = 7, 8
    weight = torch.randn(length, 8, length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def logits(ids: torch.Tensor) -> torch.Tensor:  # every answer depends on every token
        return torch.einsum("blk,lkme->bme", torch.nn.functional.one_hot(ids, 8).double(), weight)

    value = min(value, 1.0) if rule == "threshold" else value
    config = SamplerConfig(rule, block_length=block_length, **{rule: value})
    ids = torch.full((length,), mask_id)
    canvas = Canvas(ids, ids != mask_id, mask_id)
    frames = list(Sampler(config, LOG_LINEAR, mask_id).stream(Recorded(logits), canvas))
    for before, now in itertools.pairwise(frames):
        masked = [p for p, token in enumerate(before.ids) if token == mask_id]
        masked = [p for p in masked if p // (block_length or length) == masked[0] // (block_length or length)]
        log_p = logits(torch.tensor(before.ids)[None])[0, masked, :mask_id].log_softmax(-1)
        if rule == "threshold":
            chosen = get_transfer_index(log_p.exp().amax(-1), value)
        else:
            chosen = eb_sampler_step(log_p, value)
        assert list(now.revealed) == [masked[i] for i in chosen]


def dream(full_confidence: torch.Tensor, alg_temp: float, number: int) -> dict[tuple[int, ...], float]:
    """The law of `torch.multinomial(softmax(full_confidence / alg_temp), number)` of Dream's generation_utils.py."""
    probs = torch.softmax(full_confidence / alg_temp, dim=-1).tolist()
    law: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations([i for i, p in enumerate(probs) if p > 0], number):
        left, chance = 1.0, 1.0
        for i in order:
            chance, left = chance * probs[i] / left, left - probs[i]
        law[tuple(sorted(order))] = law.get(tuple(sorted(order)), 0.0) + chance
    return law


@pytest.mark.parametrize("block_length", [None, 3])
@pytest.mark.parametrize("alg_temp", [0.1, 0.5])
@pytest.mark.parametrize("strategy", ["low_confidence", "entropy", "margin"])
def test_positions_are_drawn_as_dream_draws_them(strategy, alg_temp, block_length):
    rows, length = 8000, 6
    logits = fixed_logits(length, 4, scale=1.5)
    config = SamplerConfig(
        strategy, steps=3 if block_length is None else 4, alg_temp=alg_temp, block_length=block_length
    )
    ids = torch.tensor([3, 3, 1, 3, 3, 3])
    sampler = Sampler(config, LOG_LINEAR, 3)
    after = sampler.advance(logits, sampler.start([Canvas(ids, torch.zeros(length, dtype=torch.bool), 3)] * rows))
    p = logits.logits_of(ids[None])[0, :, :3].double().softmax(-1)
    best = p.sort(descending=True).values
    confidence = {"low_confidence": best[:, 0], "entropy": (p * p.log()).sum(-1), "margin": best[:, 0] - best[:, 1]}
    full_confidence = torch.where(ids == 3, confidence[strategy], -torch.inf)
    if block_length:
        full_confidence[block_length:] = -torch.inf  # as in Fast-dLLM's Dream
    number = int(after.revealed[0].sum())
    law = dream(full_confidence, alg_temp, number)
    counts = dict.fromkeys(law, 0)
    for row in after.revealed:
        counts[tuple(np.flatnonzero(row).tolist())] += 1
    terms = [(counts[key] - rows * q) ** 2 / (rows * q) for key, q in law.items() if rows * q > 3]
    assert len(law) > 1 and sum(terms) < CHI2_999[5 if len(law) <= 6 else 9]


def test_the_noise_of_positions_is_finite_at_both_ends():
    """At minus infinity a masked position would rank with those that cannot be selected."""
    assert np.isfinite(gumbel(np.array([0.0, np.nextafter(1, 0)]))).all()


@dataclass(frozen=True)
class Straight:
    """alpha(t) = 1 - t, as in ReMDM's code, but for a remainder that keeps sigma finite."""

    name: str = "straight"

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - (1 - 1e-12) * t


def ddpm_caching_update(sampler: str, masked, conf, t: float, dt: float, eta: float, t_on, t_off, alpha_on):
    """`_ddpm_caching_update` of ReMDM's diffusion.py: (length,) probability of [MASK] at each position after a step."""
    move_chance_t, move_chance_s = t, t - dt
    if sampler == "remdm_loop":
        if t > t_on:
            move_chance_t = 1 - (1 - t) * alpha_on / (1 - t_on)
            move_chance_s = 1 - (1 - t + dt) * alpha_on / (1 - t_on)
        elif t <= t_off:
            move_chance_t = t * (1 - alpha_on) / t_off
            move_chance_s = (t - dt) * (1 - alpha_on) / t_off
        if t > t_on or t <= t_off:  # MDLM: q_xs is not normalized
            stays = move_chance_s / (move_chance_t - move_chance_s + move_chance_s)
            return np.where(masked, stays, 0.0)
        sigma = eta
        return np.where(masked, (1 - alpha_on - alpha_on * sigma) / (1 - alpha_on), sigma)
    alpha_t, alpha_s = 1 - move_chance_t, 1 - move_chance_s
    sigma_max = min(1, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1
    if sampler == "remdm":  # remdm-cap
        sigma = min(eta, (1 - alpha_s) / alpha_t) if alpha_t > 0 else eta
    elif sampler == "remdm_rescale":
        sigma = eta * sigma_max
    else:  # remdm-conf; conf is minus the probability at which a token was drawn, and minus infinity at [MASK]
        weights = np.exp(conf - conf[~masked].max(initial=-1))
        sigma = np.where(masked, 0, weights / max(weights.sum(), 1e-300)) * sigma_max
    return np.where(masked, (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t), sigma)


@pytest.mark.parametrize("eta", [0.02, 0.1])
@pytest.mark.parametrize("strategy", REMDM)
def test_tokens_return_to_mask_and_masks_are_filled_as_in_the_code_of_remdm(strategy, eta):
    """A position changes if its uniform number is below the probability: just below it all do, just above it none."""
    steps, length, numbers = 20, 12, np.random.default_rng(1)
    loop = {"t_on": 0.55, "t_off": 0.05, "alpha_on": 0.9}
    config = SamplerConfig(strategy, steps=steps, remask_cap=eta, remask_rescale=eta, **loop)
    sampler = Sampler(config, Straight(), 7)
    start = sampler.start(Canvas(torch.full((length,), 7), torch.zeros(length, dtype=torch.bool), 7))
    for step in range(steps):
        masked = numbers.random(length) < 1 - step / steps
        drawn_at = np.where(masked, np.nan, numbers.random(length).round(6))
        unrounded = drawn_at + numbers.uniform(-4e-7, 4e-7, length)  # a frame has six digits
        state = start.replace(ids=np.where(masked, 7, 1)[None], confidence=unrounded[None], step=step)
        conf = np.where(masked, -np.inf, -drawn_at)
        becomes_mask = ddpm_caching_update(strategy, masked, conf, (steps - step) / steps, 1 / steps, eta, **loop)
        changes = np.where(masked, 1 - becomes_mask, becomes_mask)
        for shift, expected in ((-1e-9, changes > 1e-9), (1e-9, np.zeros(length, dtype=bool))):
            u = np.clip(changes + shift, 0, None)[None]
            selection = SELECTORS[strategy](sampler.strategy_input(state, torch.empty(0, 8), u))
            np.testing.assert_array_equal((selection.reveal | selection.remask)[0], expected)


def test_all_of_a_batch_is_filled_by_every_variant_of_remdm():
    ids = torch.full((50, 16), 7)
    for strategy in REMDM:
        filled = generate(Sampler(SamplerConfig(strategy, steps=8), LOG_LINEAR, 7), fixed_logits(16, 8), ids)
        assert (filled != 7).all()
