"""Where on the schedule a text stands, and what an untrained model needs before there is anything to see in it."""

from __future__ import annotations

import torch
from torch import Tensor

from diffuapriel.diffusion.schedule import EPS
from diffuapriel.model.denoiser import Denoiser

GATES = (2, 5)  # of the six modulations of a block: shift, scale, gate for the mixer, then for the MLP


def time_of_text(ids: Tensor, mask_id: int) -> float:
    """The time at which the log-linear schedule has masked the share of `ids` (length,) that is masked, 0 to 1.

    The sampler tells the denoiser the noise level of this very share, given text counted as unmasked.
    """
    share = (ids == mask_id).sum().item() / len(ids)
    return min(1.0, share / (1 - EPS))


@torch.no_grad()
def open_gates(denoiser: Denoiser) -> Denoiser:
    """Open every gate of an untrained model, in place, and return it.

    AdaLN starts at zero, so each block of an untrained model is the identity: nothing would depend on anything.
    With gates of one its structure can be seen: which way each layer looks and how far. Its numbers mean nothing.
    """
    bias = denoiser.modulation.linear.bias.view(denoiser.modulation.count, -1)  # (modulations, width)
    for layer in range(denoiser.config.depth):
        for gate in GATES:
            bias[6 * layer + gate] = 1.0
    return denoiser
