"""The denoiser and its parts."""

from diffuapriel.model.denoiser import Denoiser

__all__ = ["Denoiser"]
