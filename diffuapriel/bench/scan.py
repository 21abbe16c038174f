"""Our chunked SSD against the Mamba-2 paper's minimal listing with flips, forward and backward.

The shapes are those of one bidirectional layer of width 256: batch 8, 8 heads of 64 channels and a state of 64
in each direction. Both contestants get the same inputs, both are held to each other first (output and every
gradient), and only then are they timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffuapriel.bench.alternate import Duel, duel
from diffuapriel.bench.minimal_listing import minimal_bidirectional
from diffuapriel.ssd import ssd_bidirectional

TARGET = 1.7  # how many times as long the listing must take
TOLERANCE = 1e-4  # largest relative difference of outputs and gradients, float32


@dataclass(frozen=True)
class ScanResult:
    """Two duels and the shape they were fought on; `error` is the largest relative difference found beforehand.

    against_listing: the peer is the paper's listing; against_shared: its later form, in which heads share B and C.
    """

    batch: int
    length: int
    heads: int
    headdim: int
    state: int
    error: float
    against_listing: Duel
    against_shared: Duel
    target: float = TARGET


def compare_scans(
    *,
    batch: int = 8,
    length: int = 1024,
    heads: int = 8,
    headdim: int = 64,
    state: int = 64,
    repeats: int = 7,
) -> ScanResult:
    """Check the two scans against each other, then time forward plus backward in turn.

    `heads` is per direction. Raises RuntimeError when the two do not compute the same thing.
    """
    inputs = scan_inputs(batch, length, heads, headdim, state)
    error = max(largest_difference(inputs, peer) for peer in (minimal_bidirectional, _shared))
    if error > TOLERANCE:
        raise RuntimeError(
            f"the chunked scan and the listing differ by {error:.1e}, more than {TOLERANCE:.0e}"
        )
    ours = partial(_run, _ours, inputs)
    against_listing = duel(ours, partial(_run, minimal_bidirectional, inputs), repeats=repeats)
    against_shared = duel(ours, partial(_run, _shared, inputs), repeats=repeats)
    return ScanResult(batch, length, heads, headdim, state, error, against_listing, against_shared)


def scan_inputs(
    batch: int, length: int, heads: int, headdim: int, state: int, seed: int = 0
) -> dict[str, Tensor]:
    """Random inputs of both directions, one group each, and the gradient that is sent back."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "x": normal(batch, length, 2, heads, headdim),
        "dt": torch.nn.functional.softplus(normal(batch, length, 2, heads) - 4),  # as a fresh Mamba-2 has it
        "A": -torch.exp(torch.rand(2, heads, generator=generator) * 2.7),  # 1 to 15
        "B": normal(batch, length, 2, 1, state),
        "C": normal(batch, length, 2, 1, state),
        "grad": normal(batch, length, 2, heads, headdim),
    }


def largest_difference(
    inputs: dict[str, Tensor], peer: Callable[..., Tensor] = minimal_bidirectional
) -> float:
    """Largest difference from `peer` over output and gradients, relative to each tensor's largest value."""
    errors = []
    for a, b in zip(_run(_ours, inputs), _run(peer, inputs), strict=True):
        errors.append(((a - b).abs().max() / b.abs().max()).item())
    return max(errors)


def _ours(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    y = ssd_bidirectional(x, dt, A, B, C, backend="chunked")
    assert isinstance(y, Tensor)
    return y


_shared = partial(minimal_bidirectional, repeat=False)


def _run(scan: Callable[..., Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Output and the gradients of x, dt, A, B and C."""
    leaves = [value.detach().requires_grad_() for name, value in inputs.items() if name != "grad"]
    y = scan(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, inputs["grad"])]
