"""Ten questions before and after the course: what has changed is what the course taught.

    quiz("before")     as the last line of a cell; the answers are told only after the course
    quiz("after")

It is a widget in the notebook and needs no server. The choices are kept with the rest of a reader's progress.
"""

from __future__ import annotations

from typing import Any, NamedTuple

try:
    import ipywidgets
except ImportError as error:  # the notebooks' extra
    raise ImportError("the lessons need ipywidgets: pip install ipywidgets") from error

from diffuapriel.lessons.progress import kept, note

UNSURE = "I do not know"


class Question(NamedTuple):
    """One question; the right choice is options[right]."""

    text: str
    options: tuple[str, ...]
    right: int
    lesson: str


QUESTIONS = (
    Question(
        "What does a masked diffusion model predict?",
        ("the next token", "the hidden tokens, from both sides", "the noise that was added", "the order of the tokens"),
        1,
        "01",
    ),
    Question(
        "Why is its loss weighted by 1/t?",
        (
            "to make the gradients smaller",
            "because late steps matter more",
            "so that every token counts once on average, and the loss bounds the cost of the text",
            "it is a choice without a reason",
        ),
        2,
        "01",
    ),
    Question(
        "Several tokens are filled in one step. What can go wrong?",
        (
            "they are drawn without knowing of each other, so they may not agree",
            "the model runs out of memory",
            "nothing: the model knows all probabilities",
            "they are all the same token",
        ),
        0,
        "05",
    ),
    Question(
        "What does a Mamba-2 head keep of the tokens that it has read?",
        ("all of them", "the last few", "a list of the important ones", "a table of fixed size that fades"),
        3,
        "02",
    ),
    Question(
        "The scan of Mamba-2 can also be computed as",
        ("a sorting of the tokens", "a masked matrix, like attention", "a random walk", "a tree of the words"),
        1,
        "02",
    ),
    Question(
        "Why does the denoiser scan in both directions?",
        (
            "a hidden token depends on what comes after it, too",
            "it is twice as fast",
            "to use every processor core",
            "the tokenizer needs it",
        ),
        0,
        "03",
    ),
    Question(
        "Two models differ by 0.2 nats, and the 95 % interval of the difference is [0.1, 0.3]. What follows?",
        (
            "the first architecture is better",
            "nothing",
            "these two models differ on such texts; another seed may give another result",
            "the first model is perfect",
        ),
        2,
        "04",
    ),
    Question(
        "Twice the text takes a model four times as long. At this length, its exponent is",
        ("1", "2", "4", "0.5"),
        1,
        "06",
    ),
    Question(
        "A model's samples have a better generative perplexity than true text. What does that mean?",
        (
            "the model is better than the truth",
            "the judge is broken",
            "the samples avoid surprises: look at their variety",
            "the true text has mistakes",
        ),
        2,
        "07",
    ),
    Question(
        "Which score of a model says how it does on new text?",
        (
            "that on its training text",
            "that on a random tenth of the files, whatever they are",
            "that on text without near copies in the training text",
            "the size of its checkpoint",
        ),
        2,
        "08",
    ),
)
WHEN = ("before", "after")


class Quiz:
    """The ten questions as a widget."""

    def __init__(self, when: str) -> None:
        if when not in WHEN:
            raise ValueError(f"the quiz is taken {' or '.join(map(repr, WHEN))}, not {when!r}")
        self.when = when
        self.choices = [
            ipywidgets.RadioButtons(options=(*question.options, UNSURE), value=UNSURE, layout={"width": "auto"})
            for question in QUESTIONS
        ]
        self.button = ipywidgets.Button(description="Done", button_style="primary")
        self.button.on_click(lambda _: self.finish())
        self.result = ipywidgets.HTML()
        rows: list[Any] = []
        for number, (question, choice) in enumerate(zip(QUESTIONS, self.choices), 1):
            rows += [ipywidgets.HTML(f"<b>{number}. {question.text}</b>"), choice]
        self.box = ipywidgets.VBox([*rows, self.button, self.result])

    def finish(self) -> None:
        """Keep the choices and tell the score; after the course, the right answers too."""
        given = [None if choice.value == UNSURE else choice.index for choice in self.choices]
        note("quiz", self.when, given)
        lines = [f"{points(given)} of {len(QUESTIONS)} right."]
        before = kept()["quiz"].get("before")
        if self.when == "before":
            lines.append("Come back after the last lesson: then the answers are told.")
        elif before:
            lines.append(f"Before the course it was {points(before)}.")
        if self.when == "after":
            for number, (question, chosen) in enumerate(zip(QUESTIONS, given), 1):
                if chosen != question.right:
                    told = question.options[question.right]
                    lines.append(f"{number}. {question.text} <b>{told}</b> (lesson {question.lesson})")
        self.result.value = "<br>".join(lines)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        made: Any = self.box._repr_mimebundle_(**kwargs)  # with or without metadata
        bundle: dict[str, Any] = dict(made[0] if isinstance(made, tuple) else made)
        return bundle | {"text/plain": "\n".join(question.text for question in QUESTIONS)}


def points(given: list[int | None]) -> int:
    """How many of the choices are right; None is an open question."""
    return sum(chosen == question.right for chosen, question in zip(given, QUESTIONS))


def quiz(when: str) -> Quiz:
    """The ten questions, "before" or "after" the course, as the last line of a cell."""
    return Quiz(when)
