"""The likelihood of an answer is right where it is known: enumerated over all orders, and for a uniform model."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffuapriel.config import ARCHITECTURES
from diffuapriel.evaluation.interval import Z
from diffuapriel.evaluation.likelihood import rolling_windows, score_answers
from tests.evaluation.known_models import MASK, Lookup, V, even
from tests.sampling.models import block_model

PROMPT = (2, 0)


def scores(model, pairs, **options):
    found = dict(score_answers(model, pairs, MASK, **options))
    return [found[number] for number in range(len(pairs))]


ANSWERS = list(itertools.product(range(V), repeat=3))


def test_a_short_answer_costs_exactly_its_mean_over_all_orders():
    model = Lookup(5)
    for answer, score in zip(ANSWERS[::7], scores(model, [(PROMPT, a) for a in ANSWERS[::7]])):
        assert score.nats == pytest.approx(model.cost_over_all_orders(PROMPT, answer), rel=1e-5)
        assert score.standard_error == 0


def test_drawn_sets_cost_the_same_within_the_interval_as_often_as_it_says():
    """14 num_mc_samples of 15 sets, for every fourth of 625 answers. The number of hits has an interval of its own."""
    model = Lookup(6, seed=1)
    pairs = [(PROMPT, a) for a in itertools.product(range(V), repeat=4)][::4]
    exact, drawn = (scores(model, pairs, num_mc_samples=num_mc_samples, greedy=False) for num_mc_samples in (15, 14))
    assert all(e.standard_error == 0 < d.standard_error for e, d in zip(exact, drawn))
    hits = sum(abs(d.nats - e.nats) < Z * d.standard_error for e, d in zip(exact, drawn))
    expected = 0.95 * len(pairs)
    assert hits > expected - 4 * math.sqrt(expected * 0.05)
    bias = sum(d.nats - e.nats for e, d in zip(exact, drawn))
    assert abs(bias) < 3 * math.sqrt(sum(d.standard_error**2 for d in drawn))


def test_a_long_answer_costs_its_mean_over_all_orders_within_the_interval():
    """Six tokens, 720 orders, 63 sets, of which 48 are drawn."""
    model = Lookup(6, seed=2)
    answer = (4, 1, 3, 0, 2, 1)
    truth = model.cost_over_all_orders((), answer)
    for seed in range(5):
        (score,) = scores(model, [((), answer)], num_mc_samples=48, seed=seed)
        assert 0 < score.standard_error < 0.2 * truth
        assert abs(score.nats - truth) < 3.5 * score.standard_error


def test_a_uniform_model_pays_log_V_a_token_whatever_is_drawn():
    pairs = [(PROMPT, (1,) * n) for n in (1, 3, 9, 40)]
    for (_, answer), score in zip(pairs, scores(even(V + 1), pairs, num_mc_samples=16)):
        assert score.nats == pytest.approx(len(answer) * math.log(V), rel=1e-6)
        assert score.standard_error == pytest.approx(0, abs=1e-5)


def test_greedy_is_the_answer_that_the_surest_token_first_would_write():
    model = Lookup(5, seed=3)
    flags = [score.greedy for score in scores(model, [(PROMPT, a) for a in ANSWERS])]
    assert [a for a, flag in zip(ANSWERS, flags) if flag] == [model.greedy_answer(PROMPT, 3)]
    assert scores(model, [(PROMPT, (1, 2, 3))], greedy=False)[0].greedy is None


def test_a_score_depends_on_its_pair_and_the_seed_alone():
    """Not on the batch size, the order, nor the company."""
    model = Lookup(5, seed=4)
    pairs = [(PROMPT, (1, 4, 0)), ((), (3, 3, 1, 0, 2)), ((1,), (0, 2, 2, 4)), (PROMPT, (2, 2, 2))]

    def nats(which, **options):
        return [s.nats for s in scores(model, which, num_mc_samples=5, **options)]

    whole = nats(pairs, batch_size=32)
    assert nats(pairs, batch_size=3) == pytest.approx(whole, rel=1e-6)
    assert nats(pairs, batch_size=32) == whole
    assert nats(pairs[::-1], batch_size=7)[::-1] == pytest.approx(whole, rel=1e-6)
    assert nats(pairs[1:2], batch_size=1) == pytest.approx(whole[1:2], rel=1e-6)
    assert nats(pairs, seed=1) != whole


def test_batches_are_full_across_draws_and_pairs():
    model = Lookup(5)
    scores(model, [(PROMPT, a) for a in ANSWERS[:10]], batch_size=16, greedy=False)  # 7 sets each
    assert model.batches == [16, 16, 16, 16, 6]
    model.batches.clear()
    scores(model, [((), (1, 2, 3, 4, 0))], num_mc_samples=12, batch_size=5, greedy=False)
    assert model.batches == [5, 5, 2]


def test_an_empty_answer_is_certain():
    (score,) = scores(even(V + 1), [(PROMPT, ())])
    assert (score.nats, score.standard_error, score.greedy) == (0.0, 0.0, True)


def test_windows_score_every_token_once_and_keep_what_context_fits():
    assert list(rolling_windows([1, 2, 3], [4, 5], 8)) == [([1, 2, 3], [4, 5])]
    assert list(rolling_windows([1, 2, 3], [4, 5], 4)) == [([2, 3], [4, 5])]
    assert list(rolling_windows([0], [1, 2, 3, 4, 5, 6, 7, 8, 9], 5)) == [
        ([0], [1, 2, 3, 4]),
        ([4], [5, 6, 7, 8]),
        ([5, 6, 7, 8], [9]),
    ]
    assert list(rolling_windows([1], [], 4)) == []
    assert list(rolling_windows([], [1, 2, 3], 3)) == [([], [1, 2, 3])]
    assert list(rolling_windows([], [1, 2, 3, 4, 5, 6], 3)) == [([], [1, 2, 3]), ([3], [4, 5]), ([4, 5], [6])]
    for length in range(2, 12):
        cut = list(rolling_windows([0], range(1, 30), length))
        assert [token for _, answer in cut for token in answer] == list(range(1, 30))
        assert all(prompt and len(prompt) + len(answer) <= length for prompt, answer in cut)
        assert all(prompt[-1] + 1 == answer[0] for prompt, answer in cut)


@pytest.mark.parametrize(
    "options, message",
    [({"num_mc_samples": 0}, "num_mc_samples is 0"), ({"batch_size": 0}, "batch_size is 0")],
)
def test_counts_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        scores(even(V + 1), [(PROMPT, (1,))], **options)


def test_a_mask_in_a_text_and_a_window_of_one_token_are_refused():
    with pytest.raises(ValueError, match=r"pair 0 holds a \[MASK\]"):
        scores(even(V + 1), [(PROMPT, (1, MASK))])
    with pytest.raises(ValueError, match="length is 1; windows need 2 tokens or more"):
        list(rolling_windows([1], [1, 2], 1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_blocks_of_one_token_a_likelihood_is_exact(architecture):
    """The chain rule, token by token with the cache; the probabilities of all answers of one length sum to 1."""
    model = block_model(architecture, V + 1)
    start = model.commit(torch.tensor([PROMPT]), model.empty_cache(1), 1), 0.0, True
    behind = {(): start}  # cache, nats so far, whether greedy so far
    for length in range(3):
        for text in itertools.product(range(V), repeat=length):
            cache, total, greedy = behind[text]
            logits = model(torch.tensor([[MASK]]), torch.zeros(1), cache=cache)[0, 0, :V]
            for token, nats in enumerate((-torch.log_softmax(logits, -1)).tolist()):
                after = model.commit(torch.tensor([[token]]), cache) if length < 2 else cache
                behind[*text, token] = after, total + nats, greedy and token == int(logits.argmax())
    cost = {answer: behind[answer][1:] for answer in ANSWERS}
    found = scores(model, [(PROMPT, answer) for answer in ANSWERS], batch_size=7)
    assert [s.nats for s in found] == pytest.approx([nats for nats, _ in cost.values()], rel=1e-6, abs=1e-6)
    assert [s.greedy for s in found] == [greedy for _, greedy in cost.values()]
    assert all(s.standard_error == 0 for s in found)
    assert sum(math.exp(-s.nats) for s in found) == pytest.approx(1, abs=1e-5)
    assert scores(model, [((), (1,)), (PROMPT, ())], greedy=False)[0].greedy is None
