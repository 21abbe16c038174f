"""The denoiser and its parts."""

from diffuapriel.model.denoiser import Denoiser, count_parameters

__all__ = ["Denoiser", "count_parameters"]
