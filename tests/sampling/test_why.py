"""Why this token, now: what each strategy compared, and which place the drawn token had."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling import tokens as draw
from diffuapriel.sampling.blocks import SpeculativeDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.models import block_model

MASK = 6
# The best token of position p has the probability 0.4 + 0.05 p; the others share the rest unequally.
BEST = [0.4 + 0.05 * p for p in range(8)]


def denoiser(ids, sigma, positions):
    rows = []
    for p in np.flatnonzero(positions.numpy()[0]):
        rest = (1 - BEST[p]) * np.array([0.5, 0.3, 0.1, 0.06, 0.04])
        rows.append(np.log([BEST[p], *rest, 1e-9]))
    return torch.tensor(np.array(rows), dtype=torch.float32)


def first_step(strategy: str, **options):
    sampler = Sampler(SamplerConfig(strategy, steps=8, **options), get_schedule("log-linear"), MASK)
    canvas = Canvas(torch.full((8,), MASK), torch.zeros(8, dtype=torch.bool), MASK)
    return list(sampler.stream(denoiser, canvas))[1]


def test_confidence_says_the_probability_that_won_and_the_next_one():
    frame = first_step("low_confidence", temperature=0)
    assert frame.why == {7: (1, pytest.approx(0.75, abs=1e-5))}
    assert frame.runner_up == pytest.approx(0.7, abs=1e-5)
    assert frame.threshold is None and frame.edits == {}


def test_margin_and_entropy_are_said_as_they_are_read():
    margin = first_step("margin")
    assert margin.why[7][1] == pytest.approx(0.75 - 0.125, abs=1e-5)
    assert margin.runner_up == pytest.approx(0.7 - 0.15, abs=1e-5)
    entropy = first_step("entropy")
    assert 0 < entropy.why[7][1] < entropy.runner_up


def test_a_threshold_names_its_bar():
    frame = first_step("threshold", threshold=0.62)
    assert sorted(frame.why) == [5, 6, 7] and frame.threshold == 0.62
    assert all(score >= 0.62 for _, score in frame.why.values())
    assert frame.runner_up == pytest.approx(0.6, abs=1e-5)


@pytest.mark.parametrize("strategy", ["ancestral", "remdm"])
def test_a_chance_is_for_each_position_alone(strategy):
    frames = [first_step(strategy, seed=seed) for seed in range(12)]
    assert any(frame.why for frame in frames)
    for frame in frames:
        assert frame.runner_up is None and 0 < frame.threshold < 1
        assert all(score < frame.threshold for _, score in frame.why.values())


@pytest.mark.parametrize("strategy", ["random", "first_hitting"])
def test_the_largest_random_number_goes_first(strategy):
    frame = first_step(strategy)
    ((_, score),) = frame.why.values()
    assert 0 <= frame.runner_up < score < 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_revealed_token_has_its_reason_and_the_last_one_no_rival(strategy):
    sampler = Sampler(SamplerConfig(strategy, steps=4), get_schedule("log-linear"), MASK)
    canvas = Canvas(torch.full((8,), MASK), torch.zeros(8, dtype=torch.bool), MASK)
    start, *frames = list(sampler.stream(denoiser, canvas))
    assert start.why == {} and start.runner_up is None
    for frame in frames:
        assert tuple(frame.why) == frame.revealed
        for p, (rank, _) in frame.why.items():
            places = [i for i, _ in frame.top_k[p]]
            assert frame.ids[p] == (places[rank - 1] if rank <= 5 else frame.ids[p])
    assert frames[-1].runner_up is None


def test_a_verified_token_has_its_probability_and_nothing_that_it_was_compared_with():
    model = block_model("diffuapriel")
    config = SamplerConfig("speculative", block_length=4, block_start="zero")
    sampler, ids = Sampler(config, get_schedule("log-linear"), 11), torch.full((12,), 11)
    _, *frames = sampler.stream(SpeculativeDenoiser(model, 4), Canvas(ids, ids != 11, 11))
    for frame in frames:
        assert tuple(frame.why) == frame.revealed and frame.runner_up is None and frame.threshold is None
        assert all(score == frame.confidence[p] for p, (_, score) in frame.why.items())


def test_the_last_mask_of_a_block_has_no_rival_outside_of_it():
    sampler = Sampler(SamplerConfig("first_hitting", steps=8, block_length=4), get_schedule("log-linear"), MASK)
    canvas = Canvas(torch.full((8,), MASK), torch.zeros(8, dtype=torch.bool), MASK)
    _, *frames = sampler.stream(denoiser, canvas)
    assert [frame.runner_up is None for frame in frames] == 2 * [False, False, False, True]


def test_the_rank_is_one_for_the_best_and_equals_share_a_place():
    logits = torch.tensor([[0.0, 2.0, 1.0, 1.0, 9.0]])  # the last column is [MASK]
    ranks = [draw.token_rank(logits, 4, torch.tensor([token])).item() for token in range(4)]
    assert ranks == [4, 1, 2, 2]
