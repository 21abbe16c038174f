"""Which backbone learns better? Equal parameters, equal tokens, each its own learning rate, several seeds."""

from diffuapriel.compare.plan import STUDIES, Contestant, Plan
from diffuapriel.compare.study import run_study

__all__ = ["STUDIES", "Contestant", "Plan", "run_study"]
