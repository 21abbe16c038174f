"""Evaluation: the NELBO of held-out text, and what samples are like."""

from diffuapriel.evaluation.nelbo import NelboEstimate, evaluate_nelbo

__all__ = ["NelboEstimate", "evaluate_nelbo"]
