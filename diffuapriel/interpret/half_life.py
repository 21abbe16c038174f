"""The half-life of the state of each Mamba head, in tokens, on a given text.

The state of a head decays by exp(dt_t A) at token t (arXiv:2405.21060), so exp(sum dt_t A) of it is left after n
tokens. With the step sizes dt that the model takes on this text, half is left after

    half-life = ln 2 / mean over tokens of dt_t |A|          tokens

A forward head remembers that far to its left, a reverse head to its right. A head may keep its state at one token and
drop it at the next; the half-life is an average over the text.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.mamba2 import BidirectionalMamba2


@dataclass(frozen=True)
class LayerHalfLives:
    """One Mamba layer. layer: its index in the model; half_life: (2, heads) tokens, forward then reverse."""

    layer: int
    half_life: Tensor


@torch.no_grad()
def head_half_lives(denoiser: Denoiser, ids: Tensor, sigma: float) -> list[LayerHalfLives]:
    """The half-lives of every Mamba layer on `ids` (length,), in order; empty for a Transformer."""
    found: list[LayerHalfLives] = []
    layers = {block.mixer: layer for layer, block in enumerate(denoiser.blocks)}

    def note(module: BidirectionalMamba2, inputs: tuple[Tensor, ...]) -> None:
        found.append(LayerHalfLives(layers[module], half_lives(module, inputs[0]).cpu()))

    with ExitStack() as hooks:
        for mixer in layers:
            if isinstance(mixer, BidirectionalMamba2):
                hooks.enter_context(mixer.register_forward_pre_hook(note))
        denoiser.hidden(ids[None], torch.tensor([sigma], device=ids.device))
    return found


def half_lives(mixer: BidirectionalMamba2, u: Tensor) -> Tensor:
    """(2, heads) tokens, for the layer's input u (batch, length, d_model)."""
    rate = -torch.exp(mixer.A_log.float())  # A, (2, heads)
    return math.log(2) / (step_sizes(mixer, u) * rate.abs()).mean((0, 1))


def step_sizes(mixer: BidirectionalMamba2, u: Tensor) -> Tensor:
    """dt (batch, length, 2, heads), positive, from the last rows of each half of in_proj."""
    rows = mixer.in_proj.weight.unflatten(0, (2, -1))[:, -mixer.config.n_heads :]  # (2, heads, d_model)
    dt = F.linear(u, rows.flatten(0, 1)).unflatten(-1, (2, -1))
    return F.softplus(dt.float() + mixer.dt_bias)
