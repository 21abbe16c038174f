"""The contestants of the mixer part: the same Mamba-2 mixer, from in_proj's output to what out_proj can take.

triton    ours (`ssd/mixer.py`). It leaves a division a token and direction until after out_proj, so here it also
          pays for that: a pass over out_proj's two halves, compiled, as the model's block has it. Forward, the norm's
          weight is one and left out, as in an engine
official  mamba_ssm's kernels, one call a direction, the reverse one flipped (`ssd/official_mixer.py`)
chunked   plain PyTorch, compiled

projected  (b, l, 2 (z x B C dt))      y  (b, l, 2 d_inner)      halves  (2, b, l, width)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diffuapriel.config import ModelConfig
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.model.norm import EPS

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
        halves = torch.randn(2, *shape, config.width, device=device, dtype=dtype).requires_grad_()
        scaled = torch.compile(_scaled, dynamic=True) if halves.is_cuda else _scaled
        run = partial(_triton, module, halves, scaled)
        return Mixer(run, (*module.parameters(), halves), partial(_divided, config.d_inner))
    if backend == "official":
        return Mixer(partial(_official, module), tuple(module.parameters()), _first)
    return Mixer(lambda projected: (module(projected),), tuple(module.parameters()), _first)


def _weights(module: BidirectionalMamba2) -> list[Tensor]:
    return [
        getattr(module, name) for name in ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight")
    ]


def _triton(
    module: BidirectionalMamba2, halves: Tensor, scaled: Callable[..., Tensor], projected: Tensor
) -> tuple[Tensor, ...]:
    from diffuapriel.ssd.mixer import mixer

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


def _official(module: BidirectionalMamba2, projected: Tensor) -> tuple[Tensor, ...]:
    from diffuapriel.ssd import official_mixer

    run: Callable[..., Tensor] = official_mixer.mixer  # type: ignore[assignment]
    return (run(projected, *_weights(module), groups=module.config.n_groups, eps=EPS).flatten(2),)


def _first(outputs: tuple[Tensor, ...]) -> Tensor:
    return outputs[0].float()
