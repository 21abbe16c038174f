"""Predict, then run: a row of buttons before the cell that shows the answer.

    guess = predict("A", "B", "C", name="01.2")     the question itself is in the text above
    guess.reveal()                                   after the result: the guess, the right answer, and why
    guess.reveal("B", "Here it was 12 %.")           where the reader's own run decides

The answers are in answers.py, so that they do not stand under the question. In a saved, exported or printed notebook,
a line with the choices replaces the buttons.
"""

from __future__ import annotations

import html
from typing import Any

try:
    import ipywidgets
except ImportError as error:  # the notebooks' extra
    raise ImportError("the lessons need ipywidgets: pip install ipywidgets") from error

from diffuapriel.lessons.answers import ANSWERS
from diffuapriel.lessons.progress import note


class Prediction:
    """One question with its buttons; `guess` is the chosen option, or None."""

    def __init__(self, options: tuple[str, ...], name: str = "") -> None:
        self.options, self.name = options, name
        self.buttons = ipywidgets.ToggleButtons(options=options, value=None, description="Your guess:")

    @property
    def guess(self) -> str | None:

        return self.buttons.value

    def reveal(self, right: str = "", seen: str = "") -> Answer:
        """The answer beside the guess, and why.

        Args:
            right: the letter that this run has measured; by default the one that answers.py knows.
            seen: a sentence with the number that decided.

        Raises ValueError if there is no answer, or if it is not one of the options.
        """
        known, why = ANSWERS.get(self.name, ("", ""))
        right = right or known
        if right not in self.options:
            raise ValueError(f"the answer is {right!r}; the options are {', '.join(self.options)}")
        if self.name and self.guess is not None:  # who runs a lesson again without guessing keeps the first guess
            note("guesses", self.name, [self.guess, right])
        return Answer(self.guess, right, " ".join(filter(None, (seen, why))))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        made: Any = self.buttons._repr_mimebundle_(**kwargs)  # with or without metadata
        bundle: dict[str, Any] = dict(made[0] if isinstance(made, tuple) else made)
        choices = " · ".join(self.options)
        return bundle | {"text/plain": f"Your guess: {choices}"}


class Answer:
    """The guess and the right answer, displayed at the end of a cell."""

    def __init__(self, guess: str | None, right: str, why: str) -> None:
        self.right = guess == right
        said = "You had no guess." if guess is None else f"You guessed {guess}."
        agreed = "Right" if self.right else "The answer is"
        self.text = f"{said} {agreed}: {right}." + (f" {why}" if why else "")

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return (
            '<div role="status" style="border-left:4px solid #3b7ddd;padding:.4em .8em;margin:.4em 0">'
            f"{html.escape(self.text)}</div>"
        )


def predict(*options: str, name: str = "") -> Prediction:
    """Buttons for a guess, displayed as the last line of a cell; `name` finds the answer, as in "01.2".

    Raises ValueError for fewer than two options, for equal ones, and for a name without an answer.
    """
    if len(options) < 2 or len(set(options)) < len(options):
        raise ValueError(f"the options are {options}; give two or more, all different")
    if name and name not in ANSWERS:
        raise ValueError(f"answers.py has no question {name!r}; it has {', '.join(ANSWERS)}")
    return Prediction(options, name)
