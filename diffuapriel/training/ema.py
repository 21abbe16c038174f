"""The exponential moving average of the weights: what is evaluated, sampled from and shipped.

    ema <- ema + (1 - d_n) (weights - ema),    d_n = min(d, (1 + n) / (10 + n)) after n updates

The warm-up (MDLM's code, arXiv:2406.07524) lets the average forget the random start of a short run: with
d = 0.9999 alone, a run of a thousand steps would still be nine tenths noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
