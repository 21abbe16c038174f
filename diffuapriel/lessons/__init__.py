"""What the lessons in notebooks/ share: predictions, self-checking exercises and static copies of figures.

prepare()                     seeds and threads; the first call of every lesson
QUICK                         True when a test runs the lesson: every cell runs, nothing is learned
guess = predict("A", "B")     buttons; later `guess.reveal()` tells the answer and why
show(figure)                  a Plotly figure, and a static picture where Plotly cannot draw
check.reveal_chance(mine)     runs hidden cases on an exercise and answers with a hint, never the solution
use(check.corruption, mine)   the reader's function if it is right, else ours; says whose code runs
score()                       what the reader has guessed and solved; `quiz("before")` opens and closes the course
"""

from diffuapriel.lessons import check
from diffuapriel.lessons.figure import show
from diffuapriel.lessons.predict import predict
from diffuapriel.lessons.progress import score
from diffuapriel.lessons.quiz import quiz
from diffuapriel.lessons.session import QUICK, prepare
from diffuapriel.lessons.use import use

__all__ = ["QUICK", "check", "predict", "prepare", "quiz", "score", "show", "use"]
