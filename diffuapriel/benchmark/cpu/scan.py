"""The chunked SSD against the Mamba-2 paper's minimal listing with flips, forward and backward.

Listing 1 of "Transformers are SSMs" (Dao and Gu, 2024, arXiv:2405.21060, section 6) is the chunked algorithm in four
einsums: what a reader of the paper would write first. In it each head has its own B and C; a model whose heads share
them, like ours, repeats them. The authors' code later let heads share them; that stronger form is timed too. The shapes
are those of one bidirectional layer of d_model 256. All must agree in output and gradients before they are timed.

Shapes: b batch, c chunks, l and s positions in a chunk, h heads, p headdim, n state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.benchmark.plan import Bench
from diffuapriel.benchmark.report import ScanRow
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.ops.ssd import ssd_bidirectional


def segsum(log_decay: Tensor) -> Tensor:
    """Sums over every segment: out[..., i, j] = sum of log_decay[..., j+1 : i+1], -inf above the diagonal.

    log_decay (..., length) -> (..., length, length). A masked cumulative sum, as in the paper: the difference of two
    cumulative sums cancels badly.
    """
    length = log_decay.shape[-1]
    square = torch.ones(length, length, dtype=torch.bool, device=log_decay.device)
    terms = log_decay[..., None].expand(*log_decay.shape, length)
    sums = terms.masked_fill(~square.tril(-1), 0).cumsum(-2)
    return sums.masked_fill(~square.tril(), -torch.inf)


def ssd_minimal_discrete(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, chunk: int = 64) -> Tensor:
    """One causal scan over an already discretized input, chunk by chunk.

    x (batch, length, heads, headdim), multiplied by dt; log_decay (batch, length, heads) = dt * A;
    B, C (batch, length, heads, state), or (batch, length, 1, state) for all heads. Returns y, shaped as x.
    Raises ValueError when `chunk` does not divide the length.
    """
    if x.shape[1] % chunk:
        raise ValueError(f"length {x.shape[1]} is not a multiple of the listing's chunk, {chunk}")
    x, B, C = (tensor.unflatten(1, (-1, chunk)) for tensor in (x, B, C))
    decay = log_decay.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2)  # (b, h, c, l)
    decay_sum = decay.cumsum(-1)

    # 1. inside a chunk: the quadratic, attention-like form
    within = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, segsum(decay).exp(), x)
    # 2. the state that each chunk adds
    to_end = (decay_sum[..., -1:] - decay_sum).exp()
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, to_end, x)
    # 3. the recurrence over chunks, as one more quadratic form
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    between = segsum(F.pad(decay_sum[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    # 4. what the state before a chunk adds to each of its positions
    across = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, decay_sum.exp())
    return (within + across).flatten(1, 2)


def minimal_bidirectional(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = 64, *, repeat: bool = True
) -> Tensor:
    """Forward and reverse scan by two calls of the listing, with flips for the reverse one.

    Shapes as in `diffuapriel.ops.ssd_bidirectional`, with one group: x (batch, length, 2, heads, headdim),
    dt (batch, length, 2, heads), A (2, heads), B, C (batch, length, 2, 1, state). Returns y, shaped as x.
    `repeat` gives every head its B and C, as the listing has it; without, the heads share them.
    """
    if repeat:
        B, C = (tensor.expand(-1, -1, -1, x.shape[3], -1) for tensor in (B, C))
    u, decay = x * dt[..., None], dt * A
    forward, reverse = ([tensor[:, :, k] for tensor in (u, decay, B, C)] for k in (0, 1))
    y_forward = ssd_minimal_discrete(*forward, chunk=chunk)
    y_reverse = ssd_minimal_discrete(*(tensor.flip(1) for tensor in reverse), chunk=chunk).flip(1)
    return torch.stack([y_forward, y_reverse], dim=2)


OURS, LISTING, SHARED = "chunked", "Listing 1, flips", "Listing 1, flips, shared B and C"
WARM_UPS = 2
TOLERANCE = 1e-4  # largest relative difference of outputs and gradients, float32


def measure_scan(bench: Bench) -> Iterator[list[ScanRow]]:
    bench.say("scan: chunked against the minimal listing, forward and backward")
    yield compare_scans(repeats=bench.plan.repeats)


def compare_scans(
    *,
    batch: int = 8,
    length: int = 1024,
    heads: int = 8,
    headdim: int = 64,
    state: int = 64,
    repeats: int = 7,
) -> list[ScanRow]:
    """The rows of OURS, LISTING and SHARED, forward plus backward. `heads` is per direction.

    Raises RuntimeError if the three do not compute the same thing.
    """
    inputs = scan_inputs(batch, length, heads, headdim, state)
    peers = {LISTING: minimal_bidirectional, SHARED: partial(minimal_bidirectional, repeat=False)}
    errors = {OURS: 0.0, **{name: largest_difference(inputs, peer) for name, peer in peers.items()}}
    if (error := max(errors.values())) > TOLERANCE:
        raise RuntimeError(f"the chunked scan and the listing differ by {error:.1e}, more than {TOLERANCE:.0e}")
    calls = {name: partial(_run, scan, inputs) for name, scan in {OURS: _ours, **peers}.items()}
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    ms = time_interleaved(calls, repeats=repeats)
    return [ScanRow(name, length, batch, ms[name], heads, headdim, state, errors[name]) for name in calls]


def scan_inputs(batch: int, length: int, heads: int, headdim: int, state: int, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of both directions, one group each, and the gradient of y."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "x": normal(batch, length, 2, heads, headdim),
        "dt": torch.nn.functional.softplus(normal(batch, length, 2, heads) - 4),  # as in a new Mamba-2
        "A": -torch.exp(torch.rand(2, heads, generator=generator) * 2.7),  # 1 to 15
        "B": normal(batch, length, 2, 1, state),
        "C": normal(batch, length, 2, 1, state),
        "grad": normal(batch, length, 2, heads, headdim),
    }


def largest_difference(inputs: dict[str, Tensor], peer: Callable[..., Tensor] = minimal_bidirectional) -> float:
    """Largest difference from `peer` over output and gradients, relative to each tensor's largest value."""
    pairs = zip(_run(_ours, inputs), _run(peer, inputs), strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def _ours(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    y = ssd_bidirectional(x, dt, A, B, C, backend="chunked")
    assert isinstance(y, Tensor)
    return y


def _run(scan: Callable[..., Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Output and the gradients of x, dt, A, B and C."""
    leaves = [value.detach().requires_grad_() for name, value in inputs.items() if name != "grad"]
    y = scan(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, inputs["grad"])]
