"""What AdaLN makes of the noise level: the size of each layer's shift, scale and gate over time.

Size is the root mean square over the channels, so that models of different width compare. A zero gate shuts a layer,
a scale of zero leaves its input as it is. Without time conditioning every curve is flat.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffuapriel.diffusion.schedule import Schedule
from diffuapriel.model.denoiser import Denoiser

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
