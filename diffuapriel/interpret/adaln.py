"""Where on the schedule a text stands, and what an untrained model needs before there is anything to see in it.

What AdaLN makes of the noise level: the size of each layer's shift, scale and gate over time.

Size is the root mean square over the channels, so that models of different widths compare. A zero gate shuts a layer,
a scale of zero leaves its input as it is. Without time conditioning every curve is flat.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffuapriel.diffusion.schedule import EPS, Schedule
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
    bias = denoiser.modulation.linear.bias.view(denoiser.modulation.count, -1)  # (modulations, d_model)
    for layer in range(denoiser.config.depth):
        for gate in GATES:
            bias[6 * layer + gate] = 1.0
    return denoiser


PARTS = ("mixer", "mlp")
KINDS = ("shift", "scale", "gate")


@torch.no_grad()
def modulation_over_time(denoiser: Denoiser, t: Tensor, schedule: Schedule) -> Tensor:
    """(layers, 2, 3, times): root mean squares for mixer and MLP of shift, scale and gate at the times t (times,)."""
    seen: list[Tensor] = []

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        sizes = [
            tensor[:, 0].cpu().double().square().mean(-1).sqrt() for tensor in inputs[1]
        ]  # six of (times,)
        seen.append(torch.stack(sizes).unflatten(0, (len(PARTS), len(KINDS))))

    hooks = [block.register_forward_pre_hook(note) for block in denoiser.blocks]
    device = denoiser.embedding.weight.device
    try:  # the modulation does not look at the text: one token does
        ids = torch.full((len(t), 1), denoiser.config.mask_id, device=device)
        denoiser.hidden(ids, schedule.sigma(t.float()).to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen)
