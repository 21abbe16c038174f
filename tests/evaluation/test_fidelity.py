"""Chi-square tests of sampled tales against the grammar's own probabilities."""

import random

import pytest

from diffuapriel.evaluation.fidelity import chi_square, plots_and_names
from diffuapriel.tales import language


@pytest.mark.parametrize("level", language.LEVELS)
def test_true_stories_pass_and_one_story_told_again_and_again_does_not(level):
    rng = random.Random(1)
    stories = [language.generate(level, rng) for _ in range(400)]
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
