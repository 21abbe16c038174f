"""What the lessons in notebooks/ share: a question before the answer, exercises that answer back, pictures that stay.

prepare()                     seeds, threads; the first line of every lesson
QUICK                         True where a test runs the lesson: everything runs, nothing is learnt
guess = predict("A", "B")     buttons; later `guess.reveal("A", "why")`
show(figure)                  a Plotly figure, and a plain picture where none can be drawn
check.reveal_chance(mine)     runs hidden cases on an exercise, and answers with a hint, never the solution
"""

from diffuapriel.lessons import check
from diffuapriel.lessons.figure import show
from diffuapriel.lessons.predict import predict
from diffuapriel.lessons.session import QUICK, prepare

__all__ = ["QUICK", "check", "predict", "prepare", "show"]
