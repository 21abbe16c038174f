"""The NELBO estimate is right where the answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffuapriel.checkpoint import bundled, inspect_checkpoint
from diffuapriel.config import SCHEDULES, ModelConfig
from diffuapriel.data.registry import open_corpus
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import Z, ratio_interval, wilson_interval
from diffuapriel.evaluation.nelbo import RENAMED, NelboEstimate, evaluate_nelbo
from diffuapriel.model import Denoiser
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer

V = 4  # letters of the toy language
MASK = V + 1  # after the letters and <|endoftext|>


class ToyTokenizer:
    """Letters of one byte each, then <|endoftext|> and [MASK]."""

    vocab_size, eos_id, mask_id = V + 2, V, MASK

    def token_bytes(self, id: int) -> bytes:
        return bytes([id])


class ToyCorpus:
    """Windows drawn from a joint distribution over words of three letters, table (V, V, V)."""

    name, tokenizer = "toy", ToyTokenizer()

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def batch(self, step: int, *, split: str, batch_size: int, length: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1000 + step)
        words = torch.multinomial(self.table.flatten(), batch_size, replacement=True, generator=generator)
        return torch.stack([words // V**2, words // V % V, words % V], 1)

    def document(self, index: int, *, split: str, seed: int) -> str:
        raise NotImplementedError


def exact_denoiser(table: Tensor):
    """The posterior of each letter given the unmasked ones, by enumeration."""

    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        words = torch.tensor(list(itertools.product(range(V), repeat=3)))  # (V^3, 3)
        fits = ((ids[:, None] == words) | (ids[:, None] == MASK)).all(2)  # (batch, V^3)
        weight = fits * table.flatten()
        posterior = torch.stack([(weight[:, :, None] * (words == v)).sum(1) for v in range(V)], 2)  # (batch, 3, V)
        padded = torch.cat([posterior, torch.zeros(*posterior.shape[:2], 2)], 2).clamp_min(1e-30).log()
        return padded if positions is None else padded[positions]

    return denoise


def uniform(vocab_size: int):
    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor | None = None, **_: object) -> Tensor:
        shape = (*ids.shape, vocab_size) if positions is None else (int(positions.sum()), vocab_size)
        return torch.zeros(shape)

    return denoise


@pytest.fixture(scope="module")
def dependent() -> Tensor:
    table = torch.rand(V, V, V, generator=torch.Generator().manual_seed(3)).pow(6)
    return table / table.sum()


def test_an_exact_model_of_dependent_letters_gets_its_entropy_within_the_interval(dependent):
    table = dependent
    entropy = -(table * table.log()).sum().item() / 3  # nats per letter
    independent = sum(-(m * m.log()).sum().item() for m in (table.sum((1, 2)), table.sum((0, 2)), table.sum((0, 1))))
    estimate = evaluate_nelbo(
        exact_denoiser(table),
        ToyCorpus(table),
        length=3,
        num_sequences=2000,
        num_mc_samples=8,
        batch_size=250,
    )
    low, high = estimate.ci95
    assert low < entropy < high and high - low < 0.1
    assert entropy < 0.9 * independent / 3  # the letters do depend on one another, or nothing would be tested
    assert estimate.bits_per_byte == pytest.approx(estimate.nats_per_token / math.log(2))
    assert estimate.bits_per_byte_ci95 == pytest.approx([end / math.log(2) for end in estimate.ci95])
    assert estimate.perplexity == pytest.approx(math.exp(estimate.nats_per_token))
    assert estimate.perplexity_ci95 == pytest.approx([math.exp(end) for end in estimate.ci95])
    assert estimate.entropy is None and estimate.excess_nelbo is None


def test_the_interval_covers_the_truth_as_often_as_it_says(dependent):
    table, hits = dependent, 0
    entropy = -(table * table.log()).sum().item() / 3
    for seed in range(60):
        estimate = evaluate_nelbo(
            exact_denoiser(table),
            ToyCorpus(table),
            length=3,
            num_sequences=64,
            num_mc_samples=2,
            batch_size=64,
            seed=seed,
        )
        hits += estimate.ci95[0] < entropy < estimate.ci95[1]
    assert hits >= 52  # 95 % of 60 is 57


def test_a_uniform_model_of_tales_costs_log_V_for_every_token_of_the_window():
    """Padding too: its nats are divided among the tokens of the stories."""
    tokenizer = get_tokenizer("gpt2-4k")
    estimate = evaluate_nelbo(
        uniform(tokenizer.vocab_size),
        open_corpus("tales:1", tokenizer),
        length=32,
        num_sequences=256,
        num_mc_samples=8,
        batch_size=64,
    )
    per_window_token = estimate.nats_per_token * estimate.tokens / (256 * 32)
    assert per_window_token == pytest.approx(math.log(tokenizer.vocab_size - 1), rel=1e-6)
    low, high = estimate.ci95
    assert low < math.log(tokenizer.vocab_size - 1) * 256 * 32 / estimate.tokens < high


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_uniform_model_costs_exactly_log_V_by_counts_and_the_truncated_share_by_times(schedule):
    """By times, m runs from 1 - alpha(T_MIN) to 1 - EPS only, divided by 1 - T_MIN."""
    corpus = ToyCorpus(torch.full((V, V, V), 1 / V**3))

    def measure(estimator: str, num_sequences: int, num_mc_samples: int):
        return evaluate_nelbo(
            uniform(V + 2),
            corpus,
            length=3,
            num_sequences=num_sequences,
            num_mc_samples=num_mc_samples,
            batch_size=num_sequences,
            estimator=estimator,
            schedule=schedule,
        )

    counted = measure("counts", 8, 3)
    assert counted.nats_per_token == pytest.approx(math.log(V + 1), rel=1e-6)
    assert counted.ci95 == pytest.approx([math.log(V + 1)] * 2, rel=1e-6)
    assert counted.estimator == "counts" and "noise levels" not in counted.table()

    timed = measure("mdlm", 16384, 64)
    alpha = get_schedule(schedule).alpha(torch.tensor([1e-3, 1.0], dtype=torch.float64))
    truncated = ((alpha[0] - alpha[1]) / (1 - 1e-3)).item() * math.log(V + 1)
    error = (timed.ci95[1] - timed.ci95[0]) / (2 * Z)
    assert abs(timed.nats_per_token - truncated) < 4 * error
    assert timed.estimator == "mdlm" and "noise levels" in timed.table()


def test_the_truncated_shares_are_those_that_the_documentation_gives():
    times = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    shares = [-get_schedule(name).alpha(times).diff().item() / (1 - 1e-3) for name in SCHEDULES]
    assert dict(zip(SCHEDULES, (round(share, 3) for share in shares))) == {
        "log-linear": 0.999,
        "cosine": 1.0,
        "maskgit": 0.998,
        "polynomial": 1.0,
        "quadratic": 0.998,
    }


def test_the_floor_is_the_exact_cost_of_the_very_stories_in_the_windows():
    tokenizer = get_tokenizer("gpt2-4k")
    corpus = open_corpus("tales:2", tokenizer)
    estimate = evaluate_nelbo(
        uniform(tokenizer.vocab_size),
        corpus,
        length=64,
        num_sequences=6,
        num_mc_samples=1,
        batch_size=4,
        seed=9,
    )
    nats = tokens = told = 0
    for step, rows in ((0, 4), (1, 2)):  # the second batch is cut to the windows asked for
        ids = corpus.batch(step, split="validation", batch_size=4, length=64, seed=9)
        for row in ids[:rows].tolist():
            stories = tokenizer.decode(row).split("<|endoftext|>")
            for story in filter(None, stories):
                nats -= tales.log_prob(story, 2)
                tokens += len(tokenizer.encode(story)) + 1
                told += 1
    assert estimate.tokens == tokens
    assert estimate.excess_per_story == pytest.approx(estimate.excess_nelbo * tokens / told)
    assert estimate.entropy == pytest.approx(nats / tokens, rel=1e-12)
    assert estimate.excess_nelbo == pytest.approx(estimate.nats_per_token - nats / tokens)
    assert "exact" in estimate.table() and "paired" in estimate.table()


def test_pairing_makes_the_gap_s_interval_the_tighter_one():
    """A model that costs the exact nats plus a constant: the spread of the text cancels in the gap."""
    torch.manual_seed(0)
    tokens = torch.randint(50, 100, (400,)).double()
    exact = tokens * 0.4 + torch.randn(400).double() * 5
    model = exact + 0.1 * tokens + torch.randn(400).double() * 0.5
    mean, (low, high) = ratio_interval(model, tokens)
    gap, (gap_low, gap_high) = ratio_interval(model - exact, tokens)
    assert gap == pytest.approx(0.1, abs=0.01) and mean == pytest.approx(0.5, abs=0.05)
    assert gap_high - gap_low < 0.2 * (high - low)


def test_windows_too_short_for_whole_stories_have_no_floor():
    tokenizer = get_tokenizer("gpt2-4k")
    estimate = evaluate_nelbo(
        uniform(tokenizer.vocab_size),
        open_corpus("tales:3", tokenizer),
        length=64,
        num_sequences=2,
        num_mc_samples=1,
    )
    assert estimate.entropy is None and estimate.tokens == 2 * 64


def test_the_same_seed_scores_the_same_windows_under_the_same_noise(dependent):
    table = dependent

    def measure(seed: int):
        return evaluate_nelbo(
            exact_denoiser(table),
            ToyCorpus(table),
            length=3,
            num_sequences=32,
            num_mc_samples=1,
            batch_size=8,
            seed=seed,
        )

    assert measure(1) == measure(1) != measure(2)


@pytest.mark.parametrize("name, least", [("num_sequences", 2), ("num_mc_samples", 1), ("batch_size", 1)])
def test_counts_out_of_range_are_refused(name, least):
    table = torch.full((V, V, V), 1 / V**3)
    with pytest.raises(ValueError, match=f"{name} is 0; it must be {least} or more"):
        evaluate_nelbo(exact_denoiser(table), ToyCorpus(table), **{"length": 3, name: 0})


def test_an_unknown_estimator_is_refused():
    table = torch.full((V, V, V), 1 / V**3)
    with pytest.raises(ValueError, match="estimator is 'times'; permitted: counts, mdlm"):
        evaluate_nelbo(exact_denoiser(table), ToyCorpus(table), length=3, estimator="times")


def test_wilson_intervals_are_the_published_ones():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0 and wilson_interval(0, 0) == (0.0, 1.0)


def test_an_estimate_is_read_back_also_under_its_older_keys():
    estimate = NelboEstimate(0.4, (0.3, 0.5), 1.5, (1.4, 1.6), 0.2, (0.1, 0.3), 0.3, 0.1, (0.0, 0.2), 8, 32, 4, 99)
    written = estimate.to_dict()
    assert NelboEstimate.from_dict(written) == estimate
    older = {name: key for key, name in RENAMED.items()}
    assert NelboEstimate.from_dict({older.get(name, name): value for name, value in written.items()}) == estimate

    del written["estimator"]
    assert NelboEstimate.from_dict(written).estimator == "mdlm", "written when there was no other"


@pytest.mark.parametrize("name", bundled())
def test_the_estimates_of_bundled_checkpoints_are_bounds_on_many_sequences(name):
    estimate = NelboEstimate.from_dict(inspect_checkpoint(name).extra["evaluation"])
    of_tales = name.startswith("tales")
    masks = 1 if estimate.block_length == 1 else 16 if of_tales else 8  # one token per block: nothing is drawn
    assert estimate.num_sequences == 1024 and estimate.num_mc_samples == masks
    assert estimate.estimator == "counts"
    if of_tales:
        assert estimate.excess_nelbo == pytest.approx(estimate.nats_per_token - estimate.entropy)
    else:
        assert estimate.entropy is None


def test_the_bound_over_blocks_is_exact_for_one_token_and_costs_a_uniform_model_log_v():
    torch.manual_seed(0)
    corpus = open_corpus("tales:1", get_tokenizer("tales-words"))
    shape = {"d_model": 16, "depth": 2, "d_state": 4, "headdim": 16, "cond_dim": 8, "tokenizer": "tales-words"}
    model = Denoiser(ModelConfig("diffuapriel", vocab_size=1018, block_lengths=(1, 4, 0), **shape)).eval()
    options = {"length": 32, "num_sequences": 4, "batch_size": 4}
    exact = evaluate_nelbo(model, corpus, block_length=1, **options)
    assert exact.num_mc_samples == 1 and exact.block_length == 1 and "in blocks of 1" in exact.table()
    ids, cache, nats = corpus.batch(0, split="validation", batch_size=4, length=32, seed=0), model.empty_cache(4), 0.0
    with torch.no_grad():
        for token in ids.split(1, 1):
            logits = model(torch.full_like(token, 1017), torch.zeros(4), cache=cache)[:, 0, :1017]
            nats -= logits.log_softmax(-1).gather(1, token).sum().item()
            cache = model.commit(token, cache)
    assert exact.nats_per_token * exact.tokens == pytest.approx(nats, rel=1e-3)  # at its start it ignores the level
    for block_length in (4, 16):
        found = evaluate_nelbo(uniform(1018), corpus, block_length=block_length, **options)
        assert found.nats_per_token * found.tokens == pytest.approx(4 * 32 * math.log(1017), rel=1e-6)
    with pytest.raises(ValueError, match="block_length is 5; it must divide the length, 32"):
        evaluate_nelbo(model, corpus, block_length=5, **options)
