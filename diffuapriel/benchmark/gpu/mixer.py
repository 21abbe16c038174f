"""One Mamba-2 mixer by each backend, from in_proj's output to out_proj's input: forward, and forward with backward.

triton     ours (ops/triton/mixer.py). It postpones one division per token and direction until after out_proj, so here
           it also pays for that: a compiled pass over out_proj's two halves, as in the model's block. Forward, the
           norm's weight is one and left out, as in an engine
mamba_ssm  mamba_ssm's kernels, one call per direction, the reverse one flipped (ops/mamba_ssm.py)
chunked    plain PyTorch

All get the same projection of random activations and the same weights, and must agree with the plain mixer in float32
before they are timed. Short texts would fit the cache, so each round goes through several inputs. On CUDA a forward
round is a CUDA graph, as in the engine; a backward one is launched from Python, as in training.

projected  (b, l, 2 (z x B C dt))      y  (b, l, 2 d_inner)      halves  (2, b, l, d_model)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diffuapriel.benchmark.gpu.models import time_entries
from diffuapriel.benchmark.plan import PURE, Bench
from diffuapriel.benchmark.report import MixerRow, Problem, Row
from diffuapriel.benchmark.roofline import mixer_bytes
from diffuapriel.config import ModelConfig, preset
from diffuapriel.model.layers import EPS
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops.cudagraph import WARM_UPS, record

Device = torch.device | str


@dataclass(frozen=True)
class Mixer:
    """`run(projected)` returns all outputs, `leaves` need gradients too, and `y` takes y out of the outputs."""

    run: Callable[[Tensor], tuple[Tensor, ...]]
    leaves: tuple[Tensor, ...]
    y: Callable[[tuple[Tensor, ...]], Tensor]


def bare_module(config: ModelConfig, backend: str, device: Device) -> BidirectionalMamba2:
    """A BidirectionalMamba2 without its two products, which leaves the mixer. The weights are always the same."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        module = BidirectionalMamba2(config, backend)
    module.in_proj = module.out_proj = nn.Identity()  # type: ignore[assignment]
    return module


def make_mixer(backend: str, config: ModelConfig, shape: tuple[int, int], dtype: torch.dtype, device: Device) -> Mixer:
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
    names = ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight")
    return [getattr(module, name) for name in names]


def _triton(
    module: BidirectionalMamba2, halves: Tensor, scaled: Callable[..., Tensor], projected: Tensor
) -> tuple[Tensor, ...]:
    from diffuapriel.ops.triton.mixer import mixer

    *weights, norm_weight = _weights(module)
    # Without gradients, as in an engine, the norm's weight is folded into out_proj (model/engine.py).
    kept = norm_weight if torch.is_grad_enabled() else None
    g, squares = mixer(projected, *weights, norm_weight=kept, groups=module.config.n_groups)
    return g, scaled(halves, squares, module.config.d_inner), squares.detach()


def _scaled(halves: Tensor, squares: Tensor, d_inner: int) -> Tensor:
    """A model's step after out_proj: each half divided by its norm, and both added. (b, l, d_model)."""
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
TOLERANCE = 0.05  # largest relative difference from float32 that is accepted


def measure_mixer(bench: Bench) -> Iterator[list[Row | Problem]]:
    """Forward at every shape; forward and backward at a few lengths with a filling batch, as in training."""
    plan = bench.plan
    for length, batch in plan.shapes():
        trains = length in plan.few_lengths() and batch == max(plan.batches(length))
        for gradient in (False, True) if trains else (False,):
            what = "forward and backward" if gradient else "forward"
            bench.say(f"mixer, {what}: {batch} x {length:,} tokens")
            yield _one_shape(bench, length, batch, gradient)


def _one_shape(bench: Bench, length: int, batch: int, gradient: bool) -> list[Row | Problem]:
    plan, config = bench.plan, preset(bench.plan.preset, PURE)
    moved = mixer_bytes(config, length, batch, backward=gradient)
    sets = max(1, min(MOST_SETS, math.ceil(OUT_OF_CACHE / moved)))
    inputs = [_projection(config, length, batch, seed, bench) for seed in range(sets)]
    with torch.no_grad():
        truth = bare_module(config, "chunked", bench.device)(inputs[0][:1].float())
    about = (config, (batch, length), plan.torch_dtype, bench.device)
    mixers = {
        backend: _MixerRound(partial(make_mixer, backend, *about), inputs, truth, gradient) for backend in plan.backends
    }
    ms, problems = time_entries(mixers, Problem("mixer", length, batch, gradient=gradient), bench)
    roofline_ms = 1000 * moved / bench.peaks.median.bandwidth
    rows: list[Row | Problem] = []
    for name, rounds in ms.items():
        each = tuple(t / sets for t in rounds)
        rows.append(MixerRow(name, length, batch, each, roofline_ms, gradient, mixers[name].error))
    return rows + problems


def _projection(config: ModelConfig, length: int, batch: int, seed: int, bench: Bench) -> Tensor:
    """in_proj's output for normalized activations: (batch, length, 2 (z x B C dt)), of variance one third."""
    generator = torch.Generator(bench.device).manual_seed(seed)
    channels = 2 * (2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads)
    shape, dtype = (batch, length, channels), bench.plan.torch_dtype
    return torch.randn(shape, generator=generator, device=bench.device, dtype=dtype) / math.sqrt(3)


class _MixerRound:
    """One backend on its inputs: `warm_up` once, then `run` goes through all inputs."""

    def __init__(self, make: Callable[[], Mixer], inputs: list[Tensor], truth: Tensor, gradient: bool) -> None:
        self.make, self.inputs, self.truth = make, inputs, truth
        self.error = math.nan
        self.run: Callable[[], object] = self._backward if gradient else self._forward
        self.recorded = inputs[0].is_cuda and not gradient

    def warm_up(self) -> None:
        """Compile and tune, check the result, and record the round if it can be. Raises RuntimeError if wrong."""
        self.mixer = self.make()
        with torch.no_grad():
            outputs = self.mixer.run(self.inputs[0])
            y = self.mixer.y(outputs)[:1]
        self.error = ((y - self.truth).norm() / self.truth.norm()).item()
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
            pairs = zip(self.mixer.run(leaf), self.outer, strict=True)
            results, outers = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
            torch.autograd.grad(results, (leaf, *self.mixer.leaves), outers)
