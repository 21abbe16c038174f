"""AdaLN: the size of the shift, scale and gate of each layer over time, and the time that a text corresponds to.

Sizes are root mean squares over the channels, so that models of different d_model compare. A gate of zero turns a layer
off, a scale of zero leaves its input unchanged. Without time conditioning every curve is flat.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from diffuapriel.diffusion.schedule import EPS, Schedule
from diffuapriel.model.denoiser import Denoiser

SUBLAYERS = ("mixer", "mlp")
MODULATIONS = ("shift", "scale", "gate")  # of each sublayer, in this order


def time_of_text(ids: Tensor, mask_id: int) -> float:
    """The time, 0 to 1, at which the log-linear schedule has masked the same share of tokens as in `ids` (length,).

    The sampler gives the denoiser the noise level of this share, where given text counts as unmasked.
    """
    share = (ids == mask_id).sum().item() / len(ids)
    return min(1.0, share / (1 - EPS))


@torch.no_grad()
def open_gates(denoiser: Denoiser) -> Denoiser:
    """Open every gate of an untrained model, in place, and return it.

    AdaLN is initialized to zero, so every block of an untrained model is the identity and no output depends on other
    positions. With gates of one the structure is visible: the direction and reach of each layer. The values have no
    meaning.
    """
    bias = denoiser.modulation.linear.bias.view(denoiser.modulation.count, -1)  # (modulations, d_model)
    bias[: 6 * denoiser.config.depth].unflatten(0, (-1, 3))[:, MODULATIONS.index("gate")] = 1.0
    return denoiser


@torch.no_grad()
def modulation_over_time(denoiser: Denoiser, t: Tensor, schedule: Schedule) -> Tensor:
    """(layers, 2, 3, times): root mean squares of shift, scale and gate, for mixer and MLP, at the times t (times,)."""
    seen: list[Tensor] = []

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        # inputs[1]: six tensors (times, 1, d_model)
        sizes = [tensor[:, 0].cpu().double().square().mean(-1).sqrt() for tensor in inputs[1]]
        seen.append(torch.stack(sizes).unflatten(0, (len(SUBLAYERS), len(MODULATIONS))))

    device = denoiser.embedding.weight.device
    # The modulation does not depend on the text, so one token is enough.
    ids = torch.full((len(t), 1), denoiser.config.mask_id, device=device)
    with ExitStack() as hooks:
        for block in denoiser.blocks:
            hooks.enter_context(block.register_forward_pre_hook(note))
        denoiser.hidden(ids, schedule.sigma(t.float()).to(device))
    return torch.stack(seen)
