"""AdamW with a warm-up and a cosine, and the exponential moving average of the weights.

Weight decay (0.1) applies to matrices only: not to A_log, D, dt_bias, norms and biases (as in the code of
arXiv:2405.21060), and not to the token embedding: a row that no batch contains has no gradient, so decay alone would
shrink the rare tokens.

The moving average is what is evaluated, sampled from and shipped:

    ema <- ema + (1 - d_n) (weights - ema),    d_n = min(d, (1 + n) / (10 + n)) after n steps

The warm-up of d_n (MDLM's code, arXiv:2406.07524) removes the random start from the average of a short run: with
d = 0.9999 alone, nine tenths of the average would still be noise after a thousand steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diffuapriel.checkpoint import is_matrix
from diffuapriel.training.config import MIN_LR_RATIO


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int | None, min_lr_ratio: float = MIN_LR_RATIO
) -> float:
    """The learning rate of step `step`, from 0: linear to `peak`, then a cosine to `min_lr_ratio` times the peak.

    total_steps may be None during the warm-up, which does not depend on it.
    """
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)  # in this order it never rounds to more than the peak
    if total_steps is None:
        raise ValueError(f"step {step} is past the warm-up of {warmup_steps}: total_steps must be known")
    fraction = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * fraction)))


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    return is_matrix(name, parameter) and name != "embedding.weight"


def make_optimizer(
    model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over two groups, decayed and not; fused on CUDA, so that a step is one kernel."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if is_decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not is_decayed(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=named[0][1].is_cuda)


def decay_after(steps: int, decay: float) -> float:
    """d_n: the decay after n = `steps` steps."""
    return min(decay, (1 + steps) / (10 + steps))


class EMA:
    """The moving average of a model's parameters, by name, on the model's device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.averages: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights after step number `step`, from 0."""
        weight = 1.0 - decay_after(step, self.decay)
        torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model holds the averages; afterwards its own weights, unchanged."""
        weights = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._copy(self.averages)
        try:
            yield
        finally:
            self._copy(weights)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
