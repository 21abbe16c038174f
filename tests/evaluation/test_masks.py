"""Masks drawn by count, against the enumeration of every set; and one number from all who score with them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.evaluation import nelbo
from diffuapriel.evaluation.interval import Z
from diffuapriel.evaluation.likelihood import score_answers
from diffuapriel.evaluation.masks import draw_masks, noise_level, stratified
from diffuapriel.evaluation.surprisal import score_text
from tests.evaluation.known_models import MASK, Context, Letters, Lookup, V

LENGTH = 10
TEXT = (3, 0, 2, 2, 1, 4, 0, 1, 3, 2)
SETS = torch.tensor(list(itertools.product((False, True), repeat=LENGTH)))[1:]  # all 1,023


class OneText:
    """A corpus that consists of one sequence."""

    name = "one"

    def __init__(self, ids: Any, tokenizer: Any) -> None:
        self.ids, self.tokenizer = torch.tensor(ids), tokenizer

    def batch(self, step: int, *, split: str, batch_size: int, length: int, seed: int) -> Tensor:
        return self.ids.expand(batch_size, -1)


class LettersInBytes(Letters):
    def token_bytes(self, id: int) -> bytes:
        return b"abcd"[id : id + 1]


def probability(sets: Tensor) -> Tensor:
    """Of each set (sets, length): l is uniform, and so is the set of that size."""
    length = sets.shape[1]
    counts = sets.sum(1).tolist()
    return torch.tensor([1 / (length * math.comb(length, l)) for l in counts], dtype=torch.float64)


def scores(model: Any, seed: int, rows: int, samples: int) -> Tensor:
    """(rows,) nats of the same text."""
    corpus: Any = OneText(TEXT, LettersInBytes())
    found = nelbo.score_sequences(
        model,
        corpus,
        length=LENGTH,
        num_sequences=rows,
        num_mc_samples=samples,
        batch_size=rows,
        seed=seed,
    )
    return found.nats


def test_the_cost_set_by_set_is_the_mean_over_all_permutations():
    """The reference of these tests against a literal one."""
    model, text = Context(5, seed=1), [1, 4, 0, 2, 2]
    total = 0.0
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        ids = torch.full((1, 5), MASK)
        for i in order:
            masked = ids == MASK
            logits = model(ids, noise_level(masked), masked)[:, :V].double()
            total -= logits.log_softmax(-1)[int(masked[0, :i].sum()), text[i]].item()
            ids[0, i] = text[i]
    assert model.cost_over_all_orders(text) == pytest.approx(total / len(orders), rel=1e-6)


def test_the_estimate_of_every_set_weighted_by_its_probability_is_the_bound_exactly(monkeypatch):
    model = Context(LENGTH)
    assert probability(SETS).sum().item() == pytest.approx(1, rel=1e-12)
    monkeypatch.setattr(nelbo, "draw_masks", lambda length, samples, generator, rows: SETS[:, None])
    every = scores(model, 0, len(SETS), 1)  # the estimate from each set alone
    assert (every * probability(SETS)).sum().item() == pytest.approx(model.cost_over_all_orders(TEXT), rel=1e-6)


@pytest.mark.parametrize("rows, samples", [(1, 16), (7, 1), (5, 3)])
def test_each_set_is_drawn_as_often_as_its_probability_says(rows, samples):
    """Also within each row, whatever rows it is drawn beside; 6 tokens have 63 sets."""
    generator = torch.Generator().manual_seed(1)
    repeats = 6000
    drawn = torch.stack([draw_masks(6, samples, generator, rows=rows) for _ in range(repeats)])
    number = (drawn * 2 ** torch.arange(6)).sum(-1)  # (repeats, rows, samples)
    sets = torch.tensor(list(itertools.product((False, True), repeat=6))).flip(1)[1:]  # set k is in row k - 1
    expected = probability(sets)
    for row in (0, rows - 1):
        counts = torch.bincount(number[:, row].flatten(), minlength=64)[1:].double()
        n = repeats * samples
        z = (counts - n * expected) / (n * expected * (1 - expected)).sqrt()
        assert z.abs().max() < 4.5
    assert drawn.any(-1).all(), "no set is empty"


def test_draws_agree_with_the_enumeration_within_their_error():
    model = Context(LENGTH)
    truth = model.cost_over_all_orders(TEXT)
    drawn = torch.stack([scores(model, seed, 8, 2) for seed in range(200)])  # seeds are independent
    for values in (drawn.mean(1), drawn[:, 0], drawn[:, -1]):
        error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - truth) < 4 * error and error < 0.05 * truth
    assert drawn.mean(1).std() < drawn.std() / math.sqrt(8), "stratified over the rows"


def test_numbers_are_stratified_within_each_row_and_over_the_rows():
    u = stratified(8, 4, torch.Generator().manual_seed(0))
    assert u.shape == (8, 4) and u.min() >= 0 and u.max() < 1
    assert all(sorted((row * 4).long().tolist()) == [0, 1, 2, 3] for row in u)
    assert sorted((u.flatten() * 32).long().tolist()) == list(range(32))


def test_the_size_of_the_sets_is_uniform_and_one_comes_from_every_stratum():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.stack([draw_masks(32, 16, generator)[0].sum(1) for _ in range(200)])
    assert ((sizes - 1) // 2 == torch.arange(16)).all()  # two sizes per stratum
    shares = torch.stack([draw_masks(6, 16, generator)[0].double().mean(0) for _ in range(200)]).mean(0)
    assert shares.tolist() == pytest.approx([3.5 / 6] * 6, abs=0.03)
    assert draw_masks(1, 16, generator).all()


def test_the_noise_level_is_that_of_the_masked_share_up_to_the_last_of_training():
    masked = torch.arange(2000) < torch.tensor([[0], [1], [500], [1998], [1999], [2000]])
    clean = [1, 1999 / 2000, 0.75, 1e-3, 1e-3, 1e-3]
    torch.testing.assert_close(noise_level(masked), -torch.tensor(clean).log())


def one_number(model: Any, ids: list[int], tokenizer: Any, budget: int) -> list[tuple[float, float]]:
    """(nats, standard error) of one text from `evaluate_nelbo`, `score_text` and `score_answers`."""
    corpus: Any = OneText(ids, tokenizer)
    evaluated = nelbo.evaluate_nelbo(
        model, corpus, length=len(ids), num_sequences=budget // 4, num_mc_samples=4, batch_size=8, seed=1
    )
    *_, text = score_text(model, ids, tokenizer.mask_id, rounds=budget // 16, seed=2)
    ((_, answer),) = score_answers(
        model, [((), ids)], tokenizer.mask_id, num_mc_samples=budget, batch_size=8, greedy=False, seed=3
    )
    return [
        (evaluated.nats_per_token * len(ids), (evaluated.ci95[1] - evaluated.ci95[0]) * len(ids) / (2 * Z)),
        (text.nats, (text.ci95[1] - text.ci95[0]) * len(ids) / (2 * Z)),
        (answer.nats, answer.standard_error),
    ]


def test_all_who_score_a_text_estimate_the_same_number():
    model = Context(LENGTH, seed=5)
    truth = model.cost_over_all_orders(TEXT)
    for nats, error in one_number(model, list(TEXT), LettersInBytes(), 640):
        assert abs(nats - truth) < 4 * error and 0 < error < 0.05 * truth


def test_all_who_score_a_story_by_a_bundled_model_estimate_the_same_number():
    model, tokenizer = load_checkpoint("tales-diffuapriel")
    ids = tokenizer.encode("Mark has a red hat. Mark is happy.<|endoftext|>")
    found = one_number(model, ids, tokenizer, 96)
    for (a, error_a), (b, error_b) in itertools.combinations(found, 2):
        assert abs(a - b) < 4 * math.hypot(error_a, error_b)
        assert math.hypot(error_a, error_b) < 0.2 * a


def test_the_harness_reports_the_same_number_for_a_rolling_likelihood():
    """A model that does not look at the <|endoftext|> put before the text."""
    pytest.importorskip("lm_eval", reason="pip install 'lm-eval>=0.4.13,<0.5'", exc_type=ImportError)
    from lm_eval.api.instance import Instance

    from diffuapriel.evaluation.harness import DiffuAprielLM

    inner = Lookup(6)
    text = "badcab"

    def after_prefix(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        return inner(ids[:, 1:], noise_level(positions[:, 1:]), positions[:, 1:])

    harness = DiffuAprielLM((after_prefix, Letters()), device="cpu", max_length=7)
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    (log_likelihood,) = harness.loglikelihood_rolling([request], disable_tqdm=True)  # 63 sets: exact
    ids = Letters().encode(text)
    assert -log_likelihood == pytest.approx(inner.cost_over_all_orders([], ids), rel=1e-5)
    for nats, error in one_number(inner, ids, LettersInBytes(), 320):
        assert abs(nats + log_likelihood) < 4 * max(error, 1e-4)
