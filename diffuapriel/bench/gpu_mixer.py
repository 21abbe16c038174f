"""One Mamba-2 mixer, from in_proj's output to out_proj's input, by each backend: forward, and forward with backward.

    triton    ours
    official  mamba_ssm's kernels, one call a direction, the reverse one flipped (`ssd/official.py`, `mixer`)
    chunked   plain PyTorch, compiled

All get the same projection of random activations and the same weights, and are held to the chunked backend in float32
before they are timed. Short texts would fit the cache, so each call works on the next of several inputs.
On CUDA a forward round is a CUDA graph, as it is inside the engine; a backward one is launched from Python, as in
training, several in a row. The floor is `bound.mixer_bytes` at this run's copy bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from diffuapriel.bench.alternate import turns
from diffuapriel.bench.bound import Rates, mixer_bytes
from diffuapriel.bench.gpu_models import survivors
from diffuapriel.bench.gpu_plan import PURE, GpuPlan
from diffuapriel.bench.gpu_results import MixerRow, Problem, Row
from diffuapriel.config import ModelConfig, preset
from diffuapriel.model.mamba2 import BidirectionalMamba2

OUT_OF_CACHE = 256 * 2**20  # bytes that one round must touch at least: four times a Hopper's L2
MOST_SETS = 8
TOLERANCE = 0.05  # largest relative difference from float32 at which a result is a result

Device = torch.device | str
Say = Callable[[str], None]
Mixer = Callable[[Tensor], Tensor]


def measure_mixer(plan: GpuPlan, device: Device, rates: Rates, say: Say) -> Iterator[list[Row | Problem]]:
    """Forward at every shape; forward and backward at the filling ones, which training looks like."""
    for length, batch in plan.shapes():
        filling = batch == max(plan.batches(length))
        for gradient in (False, True) if filling else (False,):
            say(f"mixer, {'forward and backward' if gradient else 'forward'}: {batch} x {length:,} tokens")
            yield _one_shape(plan, length, batch, gradient, device, rates)


def _one_shape(
    plan: GpuPlan, length: int, batch: int, gradient: bool, device: Device, rates: Rates
) -> list[Row | Problem]:
    config = preset(plan.preset, PURE)
    floor = mixer_bytes(config, length, batch, backward=gradient)
    sets = max(1, min(MOST_SETS, math.ceil(OUT_OF_CACHE / floor)))
    module = _module(config, "chunked", device)
    inputs = [_projection(config, length, batch, seed, plan, device) for seed in range(sets)]
    outer = [torch.randn_like(v[..., : 2 * config.d_inner]) for v in inputs] if gradient else []
    contestants = {
        backend: _Contestant(make_mixer(backend, module, device), inputs, outer) for backend in plan.backends
    }
    truth = _in_float32(module, inputs[0])
    warm_ups = {name: partial(contestant.warm_up, truth) for name, contestant in contestants.items()}
    names, problems = survivors(warm_ups, Problem("mixer", length, batch, gradient=gradient), device)
    calls = {name: contestants[name].run for name in names}
    ms = turns(calls, repeats=plan.repeats, seconds=plan.seconds, device=device)
    floor_ms = 1000 * floor / rates.bandwidth
    rows = [
        MixerRow(
            name,
            length,
            batch,
            tuple(t / sets for t in ms[name]),
            gradient,
            floor_ms,
            contestants[name].error,
        )
        for name in names
    ]
    return [*rows, *problems]


def make_mixer(backend: str, module: BidirectionalMamba2, device: Device) -> Mixer:
    """The mixer of one backend with the weights of `module`: (b, l, projected) to (b, l, 2 d_inner)."""
    if backend == "official":
        from diffuapriel.ssd import official_mixer

        mixer: Callable[..., Tensor] = official_mixer.mixer  # type: ignore[assignment]
        names = ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight")
        weights = {name: getattr(module, name) for name in names}
        weights["groups"] = module.config.n_groups
        return lambda projected: mixer(projected, **weights).flatten(2)
    mine = _module(module.config, backend, device)
    mine.load_state_dict(module.state_dict())
    if backend == "chunked" and torch.device(device).type == "cuda":
        mine.compile(dynamic=True)
    return mine


def _module(config: ModelConfig, backend: str, device: Device) -> BidirectionalMamba2:
    """A BidirectionalMamba2 without its two products: what is left is the mixer."""
    with torch.device(device):
        torch.manual_seed(0)
        module = BidirectionalMamba2(config, backend)
    module.in_proj = module.out_proj = nn.Identity()  # type: ignore[assignment]
    return module


def _projection(
    config: ModelConfig, length: int, batch: int, seed: int, plan: GpuPlan, device: Device
) -> Tensor:
    """What in_proj makes of normalized activations: (batch, length, 2 (z x B C dt)), of variance one third."""
    generator = torch.Generator(device).manual_seed(seed)
    channels = 2 * (2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads)
    values = torch.randn(batch, length, channels, generator=generator, device=device, dtype=plan.torch_dtype)
    return values / math.sqrt(3)


@torch.no_grad()
def _in_float32(module: BidirectionalMamba2, projected: Tensor) -> Tensor:
    """The first text's output by the plain path in float32."""
    return module(projected[:1].float())


class _Contestant:
    """One backend on its inputs: `warm_up` once, then `run` goes through all inputs."""

    def __init__(self, mixer: Mixer, inputs: list[Tensor], outer: list[Tensor]) -> None:
        """outer: the gradients of the outputs, for a backward pass; empty for a forward one."""
        self.mixer, self.inputs, self.outer = mixer, inputs, outer
        self.error = math.nan
        self.run: Callable[[], object] = self._backward if outer else self._forward

    def warm_up(self, truth: Tensor) -> None:
        """Compile and tune, check the result, and record the round where it can be. Raises RuntimeError if wrong."""
        for _ in range(3):
            self.run()
        with torch.no_grad():
            y = self.mixer(self.inputs[0])[:1].float()
        self.error = ((y - truth).norm() / truth.norm()).item()
        if not self.error <= TOLERANCE:  # NaN is wrong too
            raise RuntimeError(
                f"its output differs from the plain float32 one by {self.error:.1e}; at most {TOLERANCE} is a result"
            )
        if self.inputs[0].is_cuda and not self.outer:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._forward()
            self.run = graph.replay
            self.run()

    @torch.no_grad()
    def _forward(self) -> None:
        for projected in self.inputs:
            self.mixer(projected)

    def _backward(self) -> None:
        for projected, outer in zip(self.inputs, self.outer, strict=True):
            self.mixer(projected.detach().requires_grad_()).backward(outer)
