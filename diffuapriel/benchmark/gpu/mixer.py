"""The contestants of the mixer part: the same Mamba-2 mixer, from in_proj's output to what out_proj can take.

triton    ours (`ssd/mixer.py`). It leaves a division a token and direction until after out_proj, so here it also
          pays for that: a pass over out_proj's two halves, compiled, as the model's block has it. Forward, the norm's
          weight is one and left out, as in an engine
mamba_ssm mamba_ssm's kernels, one call a direction, the reverse one flipped (`ssd/mamba_ssm.py`)
chunked   plain PyTorch, compiled

projected  (b, l, 2 (z x B C dt))      y  (b, l, 2 d_inner)      halves  (2, b, l, width)

One Mamba-2 mixer by each backend (gpu_mixers.py): forward, and forward with backward.

All get the same projection of random activations and the same weights, and are held to the plain mixer in float32
before they are timed. Short texts would fit the cache, so each call works on the next of several inputs.
On CUDA a forward round is a CUDA graph, as it is inside the engine; a backward one is launched from Python, as in
training, several in a row. The floor is `bound.mixer_bytes` at this run's copy bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diffuapriel.benchmark.gpu.models import survivors
from diffuapriel.benchmark.gpu.plan import PURE, GpuPlan
from diffuapriel.benchmark.gpu.results import MixerRow, Problem, Row
from diffuapriel.benchmark.roofline import Rates, mixer_bytes
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.config import ModelConfig, preset
from diffuapriel.model.layers import EPS
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops.cudagraph import WARM_UPS, record

Device = torch.device | str


@dataclass(frozen=True)
class Mixer:
    """One backend's mixer. `run(projected)` gives everything that is computed; `leaves` are what it is computed from
    beside the projection, for gradients; `y` reads the mixer's output (b, l, 2 d_inner) off the result."""

    run: Callable[[Tensor], tuple[Tensor, ...]]
    leaves: tuple[Tensor, ...]
    y: Callable[[tuple[Tensor, ...]], Tensor]


def bare_module(config: ModelConfig, backend: str, device: Device) -> BidirectionalMamba2:
    """A BidirectionalMamba2 without its two products: what is left is the mixer. Always the same weights."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        module = BidirectionalMamba2(config, backend)
    module.in_proj = module.out_proj = nn.Identity()  # type: ignore[assignment]
    return module


def make_mixer(
    backend: str, config: ModelConfig, shape: tuple[int, int], dtype: torch.dtype, device: Device
) -> Mixer:
    """The mixer of one backend for `shape` = (batch, length)."""
    module = bare_module(config, backend, device)
    if backend == "triton":
        halves = torch.randn(2, *shape, config.d_model, device=device, dtype=dtype).requires_grad_()
        scaled = torch.compile(_scaled, dynamic=True) if halves.is_cuda else _scaled
        run = partial(_triton, module, halves, scaled)
        return Mixer(run, (*module.parameters(), halves), partial(_divided, config.d_inner))
    if backend == "mamba_ssm":
        return Mixer(partial(_mamba_ssm, module), tuple(module.parameters()), _first)
    return Mixer(lambda projected: (module(projected),), tuple(module.parameters()), _first)


def _weights(module: BidirectionalMamba2) -> list[Tensor]:
    return [
        getattr(module, name) for name in ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight")
    ]


def _triton(
    module: BidirectionalMamba2, halves: Tensor, scaled: Callable[..., Tensor], projected: Tensor
) -> tuple[Tensor, ...]:
    from diffuapriel.ops.triton.mixer import mixer

    *weights, norm_weight = _weights(module)
    kept = norm_weight if torch.is_grad_enabled() else None  # in an engine out_proj has it (model/engine.py)
    g, squares = mixer(projected, *weights, norm_weight=kept, groups=module.config.n_groups)
    return g, scaled(halves, squares, module.config.d_inner), squares.detach()


def _scaled(halves: Tensor, squares: Tensor, d_inner: int) -> Tensor:
    """What a model does after out_proj: each half divided by its norm, and both added. (b, l, width)."""
    scale = torch.rsqrt(squares / d_inner + EPS)
    return (halves * scale[..., None]).sum(0).to(halves.dtype)


def _divided(d_inner: int, outputs: tuple[Tensor, ...]) -> Tensor:
    """y from g (2, b, l, d_inner) and squares (2, b, l)."""
    g, _, squares = outputs
    y = g.float() * torch.rsqrt(squares / d_inner + EPS)[..., None]
    return y.permute(1, 2, 0, 3).flatten(2)


def _mamba_ssm(module: BidirectionalMamba2, projected: Tensor) -> tuple[Tensor, ...]:
    from diffuapriel.ops import mamba_ssm

    run: Callable[..., Tensor] = mamba_ssm.mixer  # type: ignore[assignment]
    return (run(projected, *_weights(module), groups=module.config.n_groups, eps=EPS).flatten(2),)


def _first(outputs: tuple[Tensor, ...]) -> Tensor:
    return outputs[0].float()


OUT_OF_CACHE = 256 * 2**20  # bytes that one round must touch at least: four times a Hopper's L2
MOST_SETS = 8
TOLERANCE = 0.05  # largest relative difference from float32 at which a result is a result

Say = Callable[[str], None]


def measure_mixer(plan: GpuPlan, device: Device, rates: Rates, say: Say) -> Iterator[list[Row | Problem]]:
    """Forward at every shape; forward and backward at a few lengths, filling, which training looks like."""
    for length, batch in plan.shapes():
        trains = length in plan.few_lengths() and batch == max(plan.batches(length))
        for gradient in (False, True) if trains else (False,):
            say(f"mixer, {'forward and backward' if gradient else 'forward'}: {batch} x {length:,} tokens")
            yield _one_shape(plan, length, batch, gradient, device, rates)


def _one_shape(
    plan: GpuPlan, length: int, batch: int, gradient: bool, device: Device, rates: Rates
) -> list[Row | Problem]:
    config = preset(plan.preset, PURE)
    floor = mixer_bytes(config, length, batch, backward=gradient)
    sets = max(1, min(MOST_SETS, math.ceil(OUT_OF_CACHE / floor)))
    inputs = [_projection(config, length, batch, seed, plan, device) for seed in range(sets)]
    truth = _in_float32(config, inputs[0], device)
    contestants = {
        backend: _Contestant(
            partial(make_mixer, backend, config, (batch, length), plan.torch_dtype, device), inputs, gradient
        )
        for backend in plan.backends
    }
    warm_ups = {name: partial(contestant.warm_up, truth) for name, contestant in contestants.items()}
    names, problems = survivors(warm_ups, Problem("mixer", length, batch, gradient=gradient), device)
    calls = {name: contestants[name].run for name in names}
    ms = time_interleaved(calls, repeats=plan.repeats, seconds=plan.seconds, device=device)
    floor_ms = 1000 * floor / rates.bandwidth
    rows: list[Row | Problem] = []
    for name in names:
        each = tuple(t / sets for t in ms[name])
        rows.append(MixerRow(name, length, batch, each, gradient, floor_ms, contestants[name].error))
    return [*rows, *problems]


def _projection(
    config: ModelConfig, length: int, batch: int, seed: int, plan: GpuPlan, device: Device
) -> Tensor:
    """What in_proj makes of normalized activations: (batch, length, 2 (z x B C dt)), of variance one third."""
    generator = torch.Generator(device).manual_seed(seed)
    channels = 2 * (2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads)
    values = torch.randn(batch, length, channels, generator=generator, device=device, dtype=plan.torch_dtype)
    return values / math.sqrt(3)


@torch.no_grad()
def _in_float32(config: ModelConfig, projected: Tensor, device: Device) -> Tensor:
    """The first text's output by the plain path in float32."""
    return bare_module(config, "chunked", device)(projected[:1].float())


class _Contestant:
    """One backend on its inputs: `warm_up` once, then `run` goes through all inputs."""

    def __init__(self, make: Callable[[], Mixer], inputs: list[Tensor], gradient: bool) -> None:
        self.make, self.inputs = make, inputs
        self.error = math.nan
        self.run: Callable[[], object] = self._backward if gradient else self._forward
        self.recorded = inputs[0].is_cuda and not gradient

    def warm_up(self, truth: Tensor) -> None:
        """Compile and tune, check the result, and record the round where it can be. Raises RuntimeError if wrong."""
        self.mixer = self.make()
        with torch.no_grad():
            outputs = self.mixer.run(self.inputs[0])
            y = self.mixer.y(outputs)[:1]
        self.error = ((y - truth).norm() / truth.norm()).item()
        if not self.error <= TOLERANCE:  # NaN is wrong too
            raise RuntimeError(
                f"its output differs from the plain float32 one by {self.error:.1e}; at most {TOLERANCE} is a result"
            )
        self.outer = [torch.randn_like(v) for v in outputs]
        if self.recorded:
            self.run, _ = record(self._forward, self.inputs[0].device)
            self.run()
        else:
            for _ in range(WARM_UPS):
                self.run()

    @torch.no_grad()
    def _forward(self) -> None:
        for projected in self.inputs:
            self.mixer.run(projected)

    def _backward(self) -> None:
        for projected in self.inputs:
            leaf = projected.detach().requires_grad_()
            pairs = [
                (v, outer)
                for v, outer in zip(self.mixer.run(leaf), self.outer, strict=True)
                if v.requires_grad
            ]
            results, outers = zip(*pairs, strict=True)
            torch.autograd.grad(results, (leaf, *self.mixer.leaves), outers)
