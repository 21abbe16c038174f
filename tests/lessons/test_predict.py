"""Predict, then run: what the buttons hold is told beside the answer."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install ipywidgets")
from diffuapriel.lessons import predict
from diffuapriel.lessons.answers import ANSWERS


def test_the_answer_is_told_beside_the_guess() -> None:
    guess = predict("A", "B")
    assert repr(guess.reveal("B", "because.")) == "You had no guess. The answer is: B. because."
    guess.buttons.value = "A"
    assert repr(guess.reveal("B")) == "You guessed A. The answer is: B."
    guess.buttons.value = "B"
    answer = guess.reveal("B")
    assert answer.right and repr(answer) == "You guessed B. Right: B."
    assert 'role="status"' in answer._repr_html_()


def test_the_choices_stand_where_there_are_no_buttons() -> None:
    bundle = predict("A", "B", "C")._repr_mimebundle_()
    assert bundle["text/plain"] == "Your guess: A · B · C"
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("options", [(), ("A",), ("A", "A")])
def test_a_question_has_two_different_options(options) -> None:
    with pytest.raises(ValueError, match="two or more, all different"):
        predict(*options)


def test_an_answer_is_one_of_the_options() -> None:
    with pytest.raises(ValueError, match="the options are A, B"):
        predict("A", "B").reveal("C")


def test_the_answer_and_its_reason_are_kept_elsewhere() -> None:
    guess = predict("A", "B", "C", "D", name="01.1")
    right, why = ANSWERS["01.1"]
    assert repr(guess.reveal()) == f"You had no guess. The answer is: {right}. {why}"
    measured = predict("A", "B", name="05.2").reveal("B", "Seen here.")
    assert repr(measured).startswith("You had no guess. The answer is: B. Seen here. ")


def test_a_question_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no question '99.1'"):
        predict("A", "B", name="99.1")
    with pytest.raises(ValueError, match="the answer is ''"):
        predict("A", "B", "C", name="00.1").reveal()
