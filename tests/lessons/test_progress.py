"""Guesses, exercises and the quiz are kept from lesson to lesson, and told at the end."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install ipywidgets")
from diffuapriel.lessons import check, predict, progress, quiz, score
from diffuapriel.lessons.quiz import QUESTIONS, UNSURE, points


def guess(name: str, letter: str, right: str) -> None:
    question = predict("A", "B", "C", "D", name=name)
    question.buttons.value = letter
    question.reveal(right)


def test_the_score_of_a_lesson_and_of_the_course(monkeypatch) -> None:
    guess("00.1", "A", "C")
    monkeypatch.setattr(progress, "_session", {kind: {} for kind in progress.KINDS})  # the next lesson
    guess("01.1", "C", "C")
    guess("01.2", "B", "A")
    predict("A", "B", name="01.3").reveal("B")  # no guess
    check.reveal_chance(lambda t, s: 1 - s / t)
    check.mask_exactly(None)
    lines = score().text.splitlines()
    assert lines == [
        "In this lesson: 1 of 2 predictions right, 1 of 2 exercises solved.",
        "Worth another look: the predictions 01.2.",
        "In the course so far: 1 of 3 predictions right, 1 of 2 exercises solved.",
    ]
    assert json.loads((progress.folder() / "progress.json").read_text())["guesses"]["01.2"] == ["B", "A"]


def test_a_lesson_run_again_without_guesses_keeps_those_made_before(monkeypatch) -> None:
    guess("01.2", "A", "A")
    monkeypatch.setattr(progress, "_session", {kind: {} for kind in progress.KINDS})
    predict("A", "B", name="01.2").reveal()
    assert score().text.endswith("In the course so far: 1 of 1 predictions right, 0 of 0 exercises solved.")


def test_a_file_that_cannot_be_read_or_written_stops_nobody(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(progress, "folder", lambda: tmp_path / "file")  # no folder
    guess("00.1", "A", "A")
    assert score().text.startswith("In this lesson: 1 of 1 predictions right")


def test_the_tests_of_the_lessons_keep_nothing(monkeypatch) -> None:
    monkeypatch.setattr(progress, "QUICK", True)
    guess("00.1", "A", "A")
    assert not progress.folder().exists() and "1 of 1" in score().text


def test_ten_questions_have_four_choices_and_one_answer() -> None:
    assert len(QUESTIONS) == 10
    for question in QUESTIONS:
        assert len(set(question.options)) == 4 and 0 <= question.right < 4
        assert UNSURE not in question.options
    assert len({question.right for question in QUESTIONS}) == 4


def test_the_answers_are_told_after_the_course_only() -> None:
    first = quiz("before")
    assert [choice.value for choice in first.choices] == [UNSURE] * 10
    for question, choice in zip(QUESTIONS[:4], first.choices):
        choice.value = question.options[question.right]
    first.button.click()
    assert first.result.value.startswith("4 of 10 right.")
    assert not any(question.options[question.right] in first.result.value for question in QUESTIONS)

    last = quiz("after")
    for question, choice in zip(QUESTIONS[:9], last.choices):
        choice.value = question.options[question.right]
    last.button.click()
    assert "9 of 10 right." in last.result.value and "Before the course it was 4." in last.result.value
    assert QUESTIONS[9].options[QUESTIONS[9].right] in last.result.value
    assert QUESTIONS[0].options[QUESTIONS[0].right] not in last.result.value


def test_points_count_right_choices() -> None:
    assert points([question.right for question in QUESTIONS]) == 10 and points([None] * 10) == 0


def test_the_questions_stand_where_there_is_no_widget() -> None:
    assert QUESTIONS[3].text in quiz("before")._repr_mimebundle_()["text/plain"]
    with pytest.raises(ValueError, match="'before' or 'after', not 'now'"):
        quiz("now")
