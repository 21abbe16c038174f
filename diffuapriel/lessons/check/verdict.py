"""The verdict of a checker: right, not yet (with a hint), or not done yet. It never stops the notebook.

A checker is a function of the reader's answer that calls `require` and `run`; `@checker` turns it into one that
returns a `Verdict`. Every checker treats three cases alike: an answer that is still None is not done, an exception
in the reader's function becomes a hint that names it, and a function that changes its input gets a hint about that.
"""

from __future__ import annotations

import functools
import html
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffuapriel.lessons.check.reports import report
from diffuapriel.lessons.progress import note

COLORS = {"right": "#2e8b57", "wrong": "#c77700", "open": "#888888"}


@dataclass(frozen=True)
class Verdict:
    """The result of a check; true if the answer is right. Displays itself at the end of a cell."""

    state: str  # "right", "wrong" or "open"
    text: str

    def __bool__(self) -> bool:
        return self.state == "right"

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        style = f"border-left:4px solid {COLORS[self.state]};padding:.4em .8em;margin:.4em 0"
        body = html.escape(self.text).replace("\n", "<br>")
        return f'<div class="da-verdict-{self.state}" role="status" style="{style}">{body}</div>'


RIGHT = Verdict("right", "Right.")
OPEN = Verdict("open", "Not done yet. Write your lines above and run both cells again, or skip this exercise.")


class Wrong(Exception):
    """The answer is wrong; the message is the hint."""


class NotDone(Exception):
    """The reader's function returned None."""


def checker(cases: Callable[..., str | None]) -> Callable[..., Verdict]:
    """Turn a function that raises `Wrong` into one that returns a `Verdict`; what it returns is said after "Right."."""

    @functools.wraps(cases)
    def check(*answers: Any) -> Verdict:
        verdict = judged(*answers)
        report(cases.__name__, verdict.state)
        note("checks", cases.__name__, verdict.state)
        return verdict

    def judged(*answers: Any) -> Verdict:
        if any(answer is None or answer is ... for answer in answers):
            return OPEN
        if fault := _unread_cell():
            return Verdict(
                "wrong", f"Not yet. The cell before this one was not run: {fault}\nMend it and run both again."
            )
        try:
            remark = cases(*answers)
        except NotDone:
            return OPEN
        except Wrong as hint:
            return Verdict("wrong", f"Not yet. {hint}")
        return Verdict("right", f"Right. {remark}") if remark else RIGHT

    return check


def _unread_cell() -> str:
    """The SyntaxError that kept the last cell from being run, so that an older function is still in place; or ""."""
    if "IPython" not in sys.modules:
        return ""
    from IPython.core.getipython import get_ipython

    last = getattr(get_ipython(), "last_execution_result", None)
    error = last and last.error_before_exec
    return f"SyntaxError in line {error.lineno}, {error.msg}." if isinstance(error, SyntaxError) else ""


def require(condition: object, hint: str) -> None:
    """Raise `Wrong` with the hint unless the condition holds."""
    if not condition:
        raise Wrong(hint)


def run(answer: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Call the reader's function. Raises `Wrong` if it fails or changes a tensor it was given."""
    require(callable(answer), f"A function is expected here, not {_short(answer)}.")
    before = [value.clone() if isinstance(value, Tensor) else None for value in given]
    name = getattr(answer, "__name__", "your function")
    try:
        result = answer(*given, **options)
    except Exception as error:
        inputs = ", ".join(_short(value) for value in given)
        raise Wrong(f"{name} stopped with {type(error).__name__}: {error}\nIts input was {inputs}.") from error
    if result is None or result is ...:
        raise NotDone
    for value, old in zip(given, before):
        if old is not None and not torch.equal(value, old):
            raise Wrong(f"{name} changed a tensor it was given. Work on a copy: .clone() makes one.")
    return result


def tensor(value: Any, shape: tuple[int, ...], what: str = "The answer") -> Tensor:
    """`value` as a tensor of this shape. Raises `Wrong` if it is no tensor, has another shape or is not finite."""
    if isinstance(value, (int, float)) and shape == ():
        value = torch.tensor(float(value))
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} must be a tensor, not {_short(value)}.")
    require(tuple(value.shape) == shape, f"{what} must have the shape {shape}, but has {tuple(value.shape)}.")
    require(value.isfinite().all(), f"{what} has entries that are not finite (inf or nan).")
    return value


def number(value: Any, what: str = "The answer") -> float:
    """`value` as a float. Raises `Wrong` if it is not a finite number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    require(isinstance(value, (int, float)), f"{what} must be a number, not {_short(value)}.")
    value = float(value)
    require(value - value == 0, f"{what} is {value}, not a finite number.")
    return value


def close(got: Any, wanted: Any, rel: float = 1e-4, abs: float = 1e-6) -> bool:
    """Whether two numbers or tensors agree up to rounding."""
    return torch.allclose(
        torch.as_tensor(got, dtype=torch.float64),
        torch.as_tensor(wanted, dtype=torch.float64),
        rtol=rel,
        atol=abs,
    )


def _short(value: Any) -> str:
    """A short description of a value, for a hint."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, torch.Generator):
        return "a generator of random numbers"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
