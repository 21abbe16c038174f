"""Every checker refuses plausible wrong answers, with a hint, and accepts right ones that differ."""

from __future__ import annotations

import importlib
from collections import Counter
from types import ModuleType

import pytest

pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install ipywidgets")
from diffuapriel.lessons import check, use
from diffuapriel.lessons.ours import OURS

MODULES = {module.__name__.rpartition(".")[2]: module for module in check.MODULES}


def answers(module: str) -> ModuleType:
    return importlib.import_module(f"tests.lessons.answers.{module}")


def cases(kind: str) -> list:
    """(module, checker, answer), an answer being one function or value, or a tuple of several."""
    return [
        pytest.param(name, answer, id=f"{name}-{number}")
        for module in MODULES
        for name, given in getattr(answers(module), kind).items()
        for number, answer in enumerate(given)
    ]


def verdict(name: str, answer: object):
    given = answer if isinstance(answer, tuple) else (answer,)
    return getattr(check, name)(*given)


@pytest.mark.parametrize("module", MODULES)
def test_every_checker_has_two_right_answers_and_three_wrong_ones(module: str) -> None:
    given = answers(module)
    names = MODULES[module].__all__  # pyright: ignore[reportAttributeAccessIssue]
    assert names, "a lesson has exercises"
    assert set(given.RIGHT) == set(given.WRONG) == set(names)
    assert all(len(given.RIGHT[name]) >= 2 and len(given.WRONG[name]) >= 3 for name in names)


@pytest.mark.parametrize(("name", "answer"), cases("RIGHT"))
def test_a_right_answer_is_accepted(name: str, answer: object) -> None:
    found = verdict(name, answer)
    assert found.state == "right", found.text


@pytest.mark.parametrize(("name", "answer"), cases("WRONG"))
def test_a_wrong_answer_is_refused_with_a_hint(name: str, answer: object) -> None:
    found = verdict(name, answer)
    assert found.state == "wrong"
    assert len(found.text.removeprefix("Not yet. ")) > 15, "a hint says more than no"


@pytest.mark.parametrize("module", MODULES)
def test_no_three_wrong_answers_to_an_exercise_get_the_same_hint(module: str) -> None:
    for name, given in answers(module).WRONG.items():
        found = Counter(verdict(name, answer).text for answer in given)
        assert max(found.values()) <= 2, (name, found.most_common(1))


def test_a_right_answer_that_flips_is_told_that_one_can_do_without() -> None:
    flips, shifts = answers("denoising").RIGHT["look_ahead"][:2]
    assert "It flips the row" in check.look_ahead(flips).text and check.look_ahead(shifts).text == "Right."


def test_noise_that_cannot_be_repeated_is_right_and_is_told_so() -> None:
    def unseeded(ids, t, generator):
        return answers("masking").by_alpha(ids, t, None)

    assert check.corruption(unseeded).text.startswith("Right. But it does not use generator")
    assert check.corruption(answers("masking").by_bernoulli).text == "Right."


def test_a_loss_without_a_gradient_is_refused_before_training_fails() -> None:
    assert "without .item()" in check.loss(answers("masking").without_gradient).text


@pytest.mark.parametrize("name", check.__all__)
def test_an_open_exercise_is_not_done_and_stops_nothing(name: str) -> None:
    assert verdict(name, None).state == "open"


def test_names_are_unique() -> None:
    assert len(set(check.__all__)) == len(check.__all__)


def ours(name: str):
    """Our function for an exercise: what `use` gives to a reader without an answer."""
    return use(getattr(check, name), lambda *given: None)


@pytest.mark.parametrize("name", check.__all__)
def test_ours_is_right(name: str) -> None:
    found = verdict(name, ours(name))
    assert found.state == "right", found.text


def test_a_lesson_goes_on_with_the_reader_s_code_where_it_is_right_and_says_so(capsys) -> None:
    mine = answers("masking").RIGHT["reveal_chance"][1]
    assert use(check.reveal_chance, mine) is mine
    assert "your reveal_chance runs" in capsys.readouterr().out
    for wrong in (lambda t, s: t - s, lambda t, s: None):
        assert use(check.reveal_chance, wrong) is OURS["reveal_chance"]
        assert "ours runs in place of reveal_chance" in capsys.readouterr().out
    by_alpha = answers("masking").by_alpha
    assert use(check.corruption, by_alpha) is by_alpha
    assert "your by_alpha runs" in capsys.readouterr().out, "the reader's name, not the checker's"
