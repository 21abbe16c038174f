"""The surprise of a text is right where the answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffuapriel.evaluation.surprisal import MASKS, score_text, tightest_block_length
from tests.sampling.models import block_model

V, MASK = 4, 5  # letters; the tokens are the letters, <|endoftext|> and [MASK]
N = 5  # letters of a word


def uniform(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
    return torch.zeros(int(positions.sum()), MASK + 1)


def exact(table: Tensor):
    """Answers that agree with one another: the conditionals of one joint distribution over words."""
    words = torch.tensor(list(itertools.product(range(V), repeat=N)))

    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        fits = ((ids[:, None] == words) | (ids[:, None] == MASK)).all(2)  # (rows, words)
        weight = fits * table.flatten()
        chances = torch.stack([(weight[:, :, None] * (words == v)).sum(1) for v in range(V)], 2)
        chances = torch.cat([chances, torch.zeros(*chances.shape[:2], 2)], 2)  # (rows, N, MASK + 1)
        return chances.clamp_min(1e-30).log()[positions]

    return denoise


@pytest.fixture(scope="module")
def table() -> Tensor:
    table = torch.rand((V,) * N, generator=torch.Generator().manual_seed(3), dtype=torch.float64).pow(4)
    return table / table.sum()


def last(stream):
    *_, found = stream
    return found


def test_a_model_that_knows_nothing_is_surprised_by_log_V_at_every_token_exactly():
    found = last(score_text(uniform, [0, 1, 2, 3, 4, 4, 1], MASK))
    assert found.nats_per_token == pytest.approx(math.log(MASK), abs=1e-6)  # five tokens: [MASK] is none
    assert found.surprisal == pytest.approx([math.log(MASK)] * 7, abs=1e-6)
    assert found.entropy == pytest.approx([math.log(MASK)] * 7, abs=1e-6)
    assert found.standard_error == pytest.approx([0.0] * 7, abs=1e-3)
    low, high = found.ci95
    assert high - low < 1e-5
    assert found.nats == pytest.approx(7 * math.log(MASK), abs=1e-5)
    assert found.bits_per_byte(14) == pytest.approx(math.log2(MASK) / 2, abs=1e-6)


def test_a_model_whose_answers_agree_is_scored_at_the_text_s_own_probability(table):
    word = [1, 3, 0, 2, 2]
    truth = -math.log(table[tuple(word)].item())
    found = last(score_text(exact(table), word, MASK, rounds=60, seed=1))
    low, high = found.ci95
    assert low * N < truth < high * N
    assert (high - low) * N < 0.15 * truth
    assert sum(found.surprisal) == pytest.approx(found.nats, rel=0.03)


def test_the_interval_covers_the_truth_as_often_as_it_says(table):
    word = [0, 0, 1, 3, 2]
    truth = -math.log(table[tuple(word)].item()) / N
    found = [last(score_text(exact(table), word, MASK, rounds=2, seed=seed)) for seed in range(80)]
    hits = sum(score.ci95[0] < truth < score.ci95[1] for score in found)
    assert hits >= 69  # 95 % of 80 is 76


def test_a_token_s_surprise_is_the_mean_over_all_sets_that_hold_it(table):
    """Every set of every size, weighed as the definition says."""
    word, position = [1, 3, 0, 2, 2], 2
    denoise, nats = exact(table), 0.0
    for size in range(1, N + 1):
        sets = [held for held in itertools.combinations(range(N), size) if position in held]
        for held in sets:
            ids = torch.tensor([[MASK if i in held else x for i, x in enumerate(word)]])
            logits = denoise(ids, torch.zeros(1), torch.arange(N)[None] == position)
            nats -= torch.log_softmax(logits[0, :MASK], -1)[word[position]].item() / (N * len(sets))
    found = last(score_text(denoise, word, MASK, rounds=100, seed=2))
    assert found.surprisal[position] == pytest.approx(nats, abs=4 * found.standard_error[position])
    assert found.standard_error[position] < 0.1


def test_a_wrong_letter_stands_out():
    """The model believes that all letters of a word are the same."""
    table = torch.full((V,) * N, 1e-6)
    for v in range(V):
        table[(v,) * N] = 1.0
    found = last(score_text(exact(table / table.sum()), [2, 2, 0, 2, 2], MASK))
    assert max(range(N), key=lambda i: found.surprisal[i]) == 2
    assert found.alternatives[2][0][0] == 2, "the model's own first choice there"


def test_filling_is_scored_with_the_text_and_shared_out_among_its_tokens():
    found = last(score_text(uniform, [0, 1, 4, 4, 4, 4], MASK, filling=3))
    assert len(found.surprisal) == len(found.alternatives) == 3
    assert found.nats_per_token == pytest.approx(2 * math.log(MASK), abs=1e-6)


def test_the_score_so_far_arrives_after_every_round_and_the_same_seed_repeats_it(table):
    scores = list(score_text(exact(table), [0, 1, 2, 3, 0], MASK, rounds=3))
    assert [score.num_mc_samples for score in scores] == [MASKS, 2 * MASKS, 3 * MASKS]
    assert scores == list(score_text(exact(table), [0, 1, 2, 3, 0], MASK, rounds=3))
    assert scores != list(score_text(exact(table), [0, 1, 2, 3, 0], MASK, rounds=3, seed=1))
    widths = [score.ci95[1] - score.ci95[0] for score in scores]
    assert widths[2] < widths[0]


def test_the_denoiser_is_told_the_noise_level_of_what_is_masked():
    def watch(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        share = (ids == MASK).double().mean(1).clamp_max(0.999)
        assert torch.allclose(sigma.double(), -torch.log1p(-share), atol=1e-5)
        assert ((ids == MASK) == positions).all()
        return uniform(ids, sigma, positions)

    list(score_text(watch, [0, 1, 2, 3], MASK, rounds=1))


@pytest.mark.parametrize(
    ("ids", "options", "names"),
    [
        ([], {}, "one token or more"),
        ([0, MASK], {}, r"no \[MASK\] in it"),
        ([0], {"rounds": 0}, "rounds is 0; it must be 1 or more"),
        ([0], {"batch_size": 0}, "batch_size is 0"),
        ([0, 1], {"filling": 2}, "filling is 2; it must be 0 or more and fewer than the 2 ids"),
    ],
)
def test_what_cannot_be_scored_is_refused(ids, options, names):
    with pytest.raises(ValueError, match=names):
        next(score_text(uniform, ids, MASK, **options))


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h", "diffutran"])
def test_at_block_length_1_the_score_of_every_token_is_exact(architecture):
    """Each token's logits are those behind the cache of the tokens before it."""
    model, ids = block_model(architecture, depth=6), [3, 1, 4, 1, 5, 9, 2]
    (found,) = score_text(model, ids, 11, block_length=1, rounds=4)
    cache, expected = model.empty_cache(1), []
    for i in ids:
        logits = model(torch.tensor([[11]]), torch.full((1,), 9.0), cache=cache)[0, 0, :11]
        expected.append(-torch.log_softmax(logits, -1)[i].item())
        cache = model.commit(torch.tensor([[i]]), cache)
    assert found.surprisal == pytest.approx(expected, abs=1e-5)
    assert found.nats == pytest.approx(sum(expected), abs=1e-5)
    assert found.ci95 == (found.nats_per_token,) * 2 and found.standard_error == pytest.approx([0.0] * 7, abs=1e-3)
    assert (found.num_mc_samples, found.block_length) == (1, 1)


def enumerated(model, ids: list[int], size: int) -> list[float]:
    """Every set of every size in each block, weighed as the definition says: nats per token."""
    nats = []
    for start in range(0, len(ids), size):
        block = ids[start : start + size]
        past = torch.tensor([ids[:start]])
        cache = model.commit(past, model.empty_cache(1), size) if start else model.empty_cache(1)
        for position in range(len(block)):
            total = 0.0
            for count in range(1, len(block) + 1):
                sets = [held for held in itertools.combinations(range(len(block)), count) if position in held]
                for held in sets:
                    row = torch.tensor([[11 if i in held else x for i, x in enumerate(block)]])
                    logits = model(row, torch.zeros(1), cache=cache)[0, position, :11]
                    total -= torch.log_softmax(logits, -1)[block[position]].item() / (len(block) * len(sets))
            nats.append(total)
    return nats


@pytest.mark.parametrize("length", [3, 8, 10])
def test_in_blocks_a_score_is_the_mean_over_the_sets_of_each_block(length):
    """Whole blocks, a shorter one behind them, and a text shorter than a block."""
    model, ids = block_model("diffuapriel-h", depth=6), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3][:length]
    expected = enumerated(model, ids, 4)
    found = last(score_text(model, ids, 11, block_length=4, rounds=12, batch_size=32, seed=1))
    low, high = found.ci95
    assert found.nats_per_token == pytest.approx(sum(expected) / length, abs=high - low)  # twice the 95 % interval
    assert high - low < 0.1 * sum(expected)
    for surprisal, error, truth in zip(found.surprisal, found.standard_error, expected):
        assert surprisal == pytest.approx(truth, abs=4 * error + 1e-9)


def test_one_block_as_long_as_the_text_is_the_score_of_the_full_sequence():
    model, ids = block_model("diffuapriel"), [3, 1, 4, 1, 5]
    whole, block = (last(score_text(model, ids, 11, block_length=size, rounds=2)) for size in (None, 5))
    assert block.surprisal == pytest.approx(whole.surprisal, abs=1e-5)
    assert block.ci95 == pytest.approx(whole.ci95, abs=1e-6)


def test_the_shortest_block_length_is_the_tightest():
    assert [tightest_block_length(known) for known in ((4, 1, 0), (16, 4), (0,), ())] == [1, 4, None, None]
