"""AdamW, the learning rate over time, and which parameters are decayed.

Learning rates: Mamba wants about three times the Transformer's (an independent reproduction at 130M found
1e-3 against 3e-4), and QK-normed attention bears 2e-3 at laptop size. They shrink as the model grows. At `tiny`,
250 updates of 65,536 tokens of tales were best at 6e-3 (of 1.5e-3, 3e-3, 6e-3) for both Mamba models and at 4e-3 (of
1e-3, 2e-3, 4e-3) for DiffuTran, each the largest tried; long runs want less, so all three take 3e-3.
`small` takes 2e-3: pure, it then is at 0.564 nats/token after 32 million tokens of tales, and `tiny` at 0.623.
Weight decay (0.1) pulls on matrices only: not on A_log, D, dt_bias, norms and biases (as in the code of
arXiv:2405.21060), and not on the token embedding: a row that a batch does not name has no gradient, so decay
alone would shrink the rare tokens.

The exponential moving average of the weights: what is evaluated, sampled from and shipped.

    ema <- ema + (1 - d_n) (weights - ema),    d_n = min(d, (1 + n) / (10 + n)) after n updates

The warm-up (MDLM's code, arXiv:2406.07524) lets the average forget the random start of a short run: with
d = 0.9999 alone, a run of a thousand steps would still be nine tenths noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diffuapriel.checkpoint import is_matrix

FINAL_RATE = 0.1  # where the cosine ends unless asked otherwise, as a part of the peak

# preset -> (Mamba and hybrid, Transformer)
LEARNING_RATES = {
    "nano": (3e-3, 2e-3),
    "tiny": (3e-3, 3e-3),
    "small": (2e-3, 2e-3),
    "240m": (1e-3, 3e-4),
    "0.5b": (6e-4, 2e-4),
    "1.3b": (4.5e-4, 1.5e-4),
}


def default_learning_rate(preset: str, architecture: str) -> float:
    """The peak learning rate to start from. Raises ValueError for an unknown preset."""
    if preset not in LEARNING_RATES:
        raise ValueError(f"preset is {preset!r}; permitted: {', '.join(LEARNING_RATES)}")
    mamba, transformer = LEARNING_RATES[preset]
    return transformer if architecture == "diffutran" else mamba


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int | None, final: float = FINAL_RATE
) -> float:
    """The rate of update `step` (from 0): linear to `peak` over the warm-up, then a cosine to `final` times the peak.

    During the warm-up the total is not needed, so it may still be unknown (None).
    """
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)  # in this order it never rounds to more than the peak
    if total_steps is None:
        raise ValueError(f"step {step} is past the warm-up of {warmup_steps}: total_steps must be known")
    fraction = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * fraction)))


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay pulls on this parameter."""
    return is_matrix(name, parameter) and name != "embedding.weight"


def make_optimizer(
    model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over two groups, decayed and not; fused on CUDA, so that an update is one kernel."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if is_decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not is_decayed(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=named[0][1].is_cuda)


def decay_after(updates: int, decay: float) -> float:
    """d_n: the decay to use for the update that follows `updates` earlier ones."""
    return min(decay, (1 + updates) / (10 + updates))


class EMA:
    """The average of a model's parameters, by name, on the model's device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.averages: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move towards the model's weights after its update number `updates` (from 0)."""
        weight = 1.0 - decay_after(updates, self.decay)
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
