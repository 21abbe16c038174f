"""What all checkers have in common: they answer, whatever the reader's function does."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.lessons.check.verdict import Verdict, checker, close, number, require, run, tensor


@checker
def doubled(answer) -> None:
    """`answer(x)` is 2x."""
    out = tensor(run(answer, torch.tensor([1.0, 2.0])), (2,))
    require(close(out, [2.0, 4.0]), "Each entry must be twice the given one.")


def raises(x):
    raise IndexError("list index out of range")


def changes(x):
    x *= 2
    return x


@pytest.mark.parametrize(
    ("answer", "state", "part"),
    [
        (lambda x: 2 * x, "right", "Right."),
        (lambda x: x, "wrong", "twice"),
        (raises, "wrong", "raises stopped with IndexError: list index out of range"),
        (raises, "wrong", "a tensor of shape (2,)"),
        (changes, "wrong", "Work on a copy"),
        (lambda x: None, "open", "Not done yet"),
        (lambda x: ..., "open", "Not done yet"),
        (None, "open", "Not done yet"),
        (lambda x: [2.0, 4.0], "wrong", "must be a tensor"),
        (lambda x: x[:1], "wrong", "must have the shape (2,), but has (1,)"),
        (lambda x: x / 0, "wrong", "not finite"),
        (3, "wrong", "A function is expected here, not 3"),
    ],
)
def test_a_verdict_says_what_is_wrong(answer, state, part) -> None:
    found = doubled(answer)
    assert found.state == state and part in found.text
    assert bool(found) == (state == "right")


def test_a_verdict_is_shown_as_text_and_as_a_box_that_is_read_aloud() -> None:
    verdict = Verdict("wrong", "Not yet. 1 < 2\nsecond line")
    assert repr(verdict) == verdict.text
    page = verdict._repr_html_()
    assert 'role="status"' in page and "1 &lt; 2<br>second line" in page


@pytest.mark.parametrize(("value", "part"), [("3", "must be a number"), (float("nan"), "not a finite number")])
def test_a_number_is_a_number(value, part) -> None:
    @checker
    def check(answer) -> None:
        number(answer)

    assert part in check(value).text
    assert check(torch.tensor(2.0)).state == "right"


def test_a_cell_with_a_syntax_error_does_not_pass_with_the_function_before_it(monkeypatch) -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    is_two = checker(lambda answer: require(answer == 2, "It is 2."))
    shell.run_cell("answer = 2")
    assert is_two(2).state == "right"
    shell.run_cell("answer = 2\nanswer = (")
    assert is_two(2).state == "wrong" and "was not run: SyntaxError in line 2" in is_two(2).text
    shell.run_cell("answer = 2")
    assert is_two(2).state == "right"
