"""Evaluation: the NELBO of validation text, and the quality of samples."""

from diffuapriel.evaluation.nelbo import NelboEstimate, evaluate_nelbo

__all__ = ["NelboEstimate", "evaluate_nelbo"]
