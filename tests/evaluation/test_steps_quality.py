"""Points arrive one by one, count what they say, and have honest intervals."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from diffuapriel.evaluation.interval import mean_interval, student_quantile, wilson_interval
from diffuapriel.evaluation.samples import unigram_entropy
from diffuapriel.evaluation.steps_quality import plan, quality_events, read_sequences, true_entropy
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
EOS, LENGTH = TOKENIZER.eos_id, 24


def story(seed: int) -> list[int]:
    return TOKENIZER.encode(tales.generate(1, random.Random(seed)))


def writes(windows: list[list[int]]):
    """A denoiser that knows a few windows by heart: the posterior over those that fit what is unmasked."""
    known = torch.tensor([window + [EOS] * (LENGTH - len(window)) for window in windows])

    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        fits = ((ids[:, None] == known) | (ids[:, None] == TOKENIZER.mask_id)).all(2).double()
        weight = fits / fits.sum(1, keepdim=True).clamp_min(1)
        chances = torch.zeros(*ids.shape, TOKENIZER.vocab_size, dtype=torch.float64)
        for w, window in enumerate(known):
            chances[:, torch.arange(LENGTH), window] += weight[:, w, None]
        return chances.clamp_min(1e-30).log()[positions]

    return denoise


def measured(denoiser, configs, **options):
    *_, event = quality_events(denoiser, TOKENIZER, configs, level=1, length=LENGTH, num_sequences=4, **options)
    return event.points


def test_a_model_that_knows_one_story_writes_it_at_any_number_of_steps():
    points = measured(writes([story(0)]), plan(["low_confidence", "ancestral"], [6, 2], LENGTH))
    assert [(p.strategy, p.steps) for p in points] == [
        ("low_confidence", 2),
        ("ancestral", 2),
        ("low_confidence", 6),
        ("ancestral", 6),
    ]
    for point in points:
        assert point.grammatical == point.consistent == 1.0
        assert point.stories == point.num_sequences == 4
        assert point.calls <= point.steps
        assert point.entropy == pytest.approx(unigram_entropy(story(0)))
        assert point.consistent_ci95 == wilson_interval(4, 4)


def test_fewer_steps_reveal_more_at_once_and_mix_what_does_not_belong_together():
    windows = [story(seed) for seed in range(6)]
    one_by_one, at_once = (measured(writes(windows), plan(["random"], [steps], LENGTH))[0] for steps in (LENGTH, 1))
    assert one_by_one.consistent == 1.0
    assert at_once.consistent < 0.5


def test_strategies_that_take_what_they_need_are_one_point():
    configs = plan(["threshold", "low_confidence", "first_hitting"], [2, 4], LENGTH, top_p=0.9, seed=3)
    assert [(c.strategy, c.steps) for c in configs] == [
        ("low_confidence", 2),
        ("low_confidence", 4),
        ("threshold", LENGTH),
        ("first_hitting", LENGTH),
    ]
    assert {c.top_p for c in configs} == {0.9} and {c.seed for c in configs} == {3}


def test_progress_runs_from_0_to_1_and_every_call_is_an_event():
    events = list(
        quality_events(
            writes([story(0)]),
            TOKENIZER,
            plan(["confidence"], [2, 6], LENGTH),
            level=1,
            length=LENGTH,
            num_sequences=4,
        )
    )
    fractions = [event.fraction for event in events]
    assert fractions[0] == 0 and fractions[-1] == 1 and fractions == sorted(fractions)
    assert [len(event.points) for event in events] == [0] * 2 + [1] * 7 + [2]
    assert [event.steps for event in events] == [2] * 3 + [6] * 7


def test_the_stories_of_one_window_count_as_one_draw():
    window = [*story(0), EOS, *story(1), EOS]
    config = SamplerConfig(steps=4)
    point = read_sequences([window, window, [*story(2), EOS], [5, 6, EOS]], TOKENIZER, config, 1, calls=4.0)
    assert point.stories == 6 and point.num_sequences == 4
    assert point.consistent == pytest.approx(5 / 6)
    assert point.consistent_ci95 == wilson_interval(4 * 5 / 6, 4)
    low, high = point.consistent_ci95
    assert low < wilson_interval(5, 6)[0] and wilson_interval(5, 6)[1] <= high


def test_padding_alone_is_no_story_and_has_no_rate():
    point = read_sequences([[EOS] * 4] * 4, TOKENIZER, SamplerConfig(steps=4), 1, calls=4.0)
    assert point.stories == 0 and point.grammatical is None and point.consistent_ci95 is None
    assert point.entropy == 0 and point.entropy_ci95 == (0, 0)


def test_true_tales_have_a_known_entropy_and_a_model_s_lies_near_it():
    truth = true_entropy(TOKENIZER, 1, LENGTH)
    assert 1.5 < truth < 3.2
    points = measured(writes([story(seed) for seed in range(6)]), plan(["first_hitting"], [], LENGTH))
    assert points[0].entropy == pytest.approx(truth, abs=0.6)


def test_the_interval_of_a_mean_is_student_s():
    table = {2: 4.303, 3: 3.182, 5: 2.571, 7: 2.365, 10: 2.228, 30: 2.042, 120: 1.980}
    assert [student_quantile(n) for n in table] == pytest.approx(list(table.values()), rel=0.01)
    mean, (low, high) = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert [mean - low, high - mean] == pytest.approx([3.182 * 1.29099 / 2] * 2, rel=2e-3)
    with pytest.raises(ValueError, match="needs 3 values or more, not 2"):
        mean_interval([1.0, 2.0])


def test_too_few_windows_and_nothing_to_measure_are_refused():
    with pytest.raises(ValueError, match="num_sequences is 3; it must be 4 or more"):
        next(
            quality_events(writes([story(0)]), TOKENIZER, plan(["random"], [1], 8), level=1, length=8, num_sequences=3)
        )
    with pytest.raises(ValueError, match="choose a strategy"):
        next(quality_events(writes([story(0)]), TOKENIZER, [], level=1, length=8))
