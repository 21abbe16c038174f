"""One Mamba-2 mixer by each backend (gpu_mixers.py): forward, and forward with backward.

All get the same projection of random activations and the same weights, and are held to the plain mixer in float32
before they are timed. Short texts would fit the cache, so each call works on the next of several inputs.
On CUDA a forward round is a CUDA graph, as it is inside the engine; a backward one is launched from Python, as in
training, several in a row. The floor is `bound.mixer_bytes` at this run's copy bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from diffuapriel.bench.alternate import turns
from diffuapriel.bench.bound import Rates, mixer_bytes
from diffuapriel.bench.gpu_mixers import Mixer, bare_module, make_mixer
from diffuapriel.bench.gpu_models import survivors
from diffuapriel.bench.gpu_plan import PURE, GpuPlan
from diffuapriel.bench.gpu_results import MixerRow, Problem, Row
from diffuapriel.config import ModelConfig, preset

OUT_OF_CACHE = 256 * 2**20  # bytes that one round must touch at least: four times a Hopper's L2
MOST_SETS = 8
WARM_UPS = 3
TOLERANCE = 0.05  # largest relative difference from float32 at which a result is a result

Device = torch.device | str
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
    ms = turns(calls, repeats=plan.repeats, seconds=plan.seconds, device=device)
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
        for _ in range(WARM_UPS):
            self.run()
        if self.recorded:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._forward()
            self.run = graph.replay
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
