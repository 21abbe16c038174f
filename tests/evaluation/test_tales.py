"""Samples are split, read and counted as the report says."""

from __future__ import annotations

import json
import random

import pytest
import torch
from torch import Tensor

from diffuapriel.evaluation.fidelity import chi_square, plots_and_names
from diffuapriel.evaluation.samples import split_at_eos
from diffuapriel.evaluation.tales import evaluate_tales, read_stories
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
EOS = TOKENIZER.eos_id


def test_rates_count_grammatical_and_consistent_stories():
    rng = random.Random(0)
    good = [tales.generate(1, rng) for _ in range(8)]
    assert all(tales.check(story, 1).consistent for story in good)
    texts = [*good, good[0], "the of of", ""]
    report = read_stories([TOKENIZER.encode(t) for t in texts], TOKENIZER, 1, SamplerConfig(steps=4), 32)
    assert report.stories == 11 and report.grammatical == report.consistent == pytest.approx(9 / 11)
    assert report.grammatical_ci95[0] < 9 / 11 < report.grammatical_ci95[1]
    assert report.distinct == pytest.approx(len(set(texts)) / 11)
    expected = [-tales.log_prob(text, 1) for text in texts[:9]]
    assert report.surprisal == pytest.approx(sum(expected) / 9)
    assert report.story_entropy == tales.entropy(1)
    assert any("the of of" in fault for fault in report.faults)
    assert "grammatical" in report.table() and json.loads(json.dumps(report.to_dict()))["stories"] == 11


def test_a_report_without_one_consistent_story_says_so():
    report = read_stories([TOKENIZER.encode("nonsense")], TOKENIZER, 1, SamplerConfig(steps=4), 32)
    assert report.consistent == 0 and report.surprisal is None and "unknown" in report.table()


def remembers(windows: list[list[int]]):
    """A denoiser that knows a few windows by heart: the posterior over those that fit what is unmasked."""
    known = torch.tensor(windows)

    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        fits = ((ids[:, None] == known) | (ids[:, None] == TOKENIZER.mask_id)).all(2).double()  # (batch, windows)
        weight = fits / fits.sum(1, keepdim=True)
        chances = torch.zeros(*ids.shape, TOKENIZER.vocab_size, dtype=torch.float64)
        for w, window in enumerate(known):
            chances[:, torch.arange(len(window)), window] += weight[:, w, None]
        return chances.clamp_min(1e-30).log()[positions]

    return denoise


def test_windows_are_drawn_until_there_are_stories_enough():
    """first_hitting reveals one token at a time, so a model that knows the windows writes one of them whole."""
    rng = random.Random(1)
    windows = []
    for _ in range(3):
        ids = [token for _ in range(2) for token in [*TOKENIZER.encode(tales.generate(1, rng)), EOS]]
        windows.append(ids + [EOS] * (40 - len(ids)))
    seen = []
    report = evaluate_tales(
        remembers(windows),
        TOKENIZER,
        level=1,
        stories=7,
        length=40,
        batch_size=3,
        sampler=SamplerConfig(strategy="first_hitting"),
        on_batch=seen.append,
    )
    assert seen == [6, 12] and report.stories == 12
    assert report.grammatical == report.consistent == 1.0
    assert report.strategy == "first_hitting" and report.distinct <= 0.5
    stories = sum(len(TOKENIZER.encode(TOKENIZER.decode(ids))) for w in windows for ids in split_at_eos(w, EOS))
    assert report.tokens_per_pass == pytest.approx(stories / (3 * 40), rel=0.1)  # a call for each token, and padding
    low, high = report.tokens_per_pass_ci95
    assert low < report.tokens_per_pass < high and "tokens/pass" in report.table()


def test_a_model_that_writes_only_padding_is_told_so():
    with pytest.raises(ValueError, match="hold no story at all"):
        evaluate_tales(remembers([[EOS] * 8]), TOKENIZER, level=1, stories=5, length=8, batch_size=2)


@pytest.mark.parametrize("name", ["stories", "length", "batch_size"])
def test_counts_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be 1 or more"):
        evaluate_tales(remembers([[EOS] * 8]), TOKENIZER, **{name: 0})


@pytest.mark.parametrize("level", tales.LEVELS)
def test_true_stories_pass_and_one_story_told_again_and_again_does_not(level):
    rng = random.Random(1)
    stories = [tales.generate(level, rng) for _ in range(400)]
    for found in plots_and_names([*stories, "No story."], level):
        assert found is not None and found.p > 0.01
    for found in plots_and_names(stories[:1] * 400, level):
        assert found is not None and found.p < 1e-9


def test_the_statistic_is_pearsons_and_few_stories_give_none():
    found = chi_square({"a": 30, "b": 10}, {"a": 0.5, "b": 0.25, "c": 0.25})
    assert found is not None and found.degrees == 2
    assert found.statistic == pytest.approx(100 / 20 + 0 + 10)
    assert found.p == pytest.approx(0.000553, rel=1e-3)  # exp(-7.5)
    assert plots_and_names(["Mia."] * 3, 3) == (None, None)
    with pytest.raises(ValueError, match="no probability"):
        chi_square({"d": 1}, {"a": 1.0})
