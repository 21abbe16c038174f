"""Every parameter of an untrained model has the scale that its formula gives.

Each block adds twice to the residual stream (mixer and MLP), so the layers that write to it are scaled down by
(2 depth)^-1/2, as in GPT-2. The Mamba-2 parameters are initialized as in the reference (arXiv:2405.21060).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model.denoiser import Denoiser

DEPTH, D_MODEL, D_INNER = 6, 128, 256
KAIMING = 3**-0.5  # nn.Linear's own uniform of bound fan_in^-1/2 has this standard deviation, times fan_in^-1/2


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(
        ModelConfig(request.param, D_MODEL, DEPTH, 512, "gpt2-4k", d_state=32, headdim=32, edge_embedding=True)
    )


def deviation(name: str, model: Denoiser) -> float | None:
    """The standard deviation of a weight matrix, or None for a parameter that is not drawn from a normal."""
    hidden = model.blocks[0].mlp.down.in_features
    residual_additions = 2 * DEPTH
    if name.endswith("mlp.up.weight"):
        return KAIMING * D_MODEL**-0.5
    if name.endswith("mlp.down.weight"):
        return KAIMING * hidden**-0.5 * residual_additions**-0.5
    if name.endswith("mixer.in_proj.weight"):
        return KAIMING * D_MODEL**-0.5
    if name.endswith("mixer.out_proj.weight"):
        block = model.blocks[int(name.split(".")[1])]
        fan_in = 2 * D_INNER if hasattr(block.mixer, "A_log") else D_MODEL  # both directions, or all heads
        return KAIMING * fan_in**-0.5 * residual_additions**-0.5
    if name in ("embedding.weight", "head.weight", "time_embedding.up.weight", "time_embedding.out.weight"):
        return 0.02
    return None


def assert_normal(name: str, values: Tensor, std: float) -> None:
    """Mean and standard deviation within 5 standard errors, which is within 2 % for the smallest matrix here."""
    values = values.detach().double().flatten()
    n = len(values)
    assert abs(values.std().item() / std - 1) < 5 / math.sqrt(2 * n), name
    assert abs(values.mean().item()) < 5 * std / math.sqrt(n), name
    assert values.abs().max() > 3.5 * std, f"{name}: a normal has tails"
    assert 5 / math.sqrt(2 * n) < 0.03, f"{name} is too small to tell factors apart"


def assert_normal_vector(name: str, values: Tensor, std: float) -> None:
    """As `assert_normal`, for one vector: within 5 standard errors, a third."""
    assert abs(values.detach().std().item() / std - 1) < 5 / math.sqrt(2 * len(values)), name


def assert_uniform(name: str, values: Tensor, low: float, high: float) -> None:
    values = values.detach().double().flatten()
    n, width = len(values), high - low
    slack = 1e-5 * max(abs(low), abs(high))
    assert low - slack <= values.min() and values.max() <= high + slack, name
    assert abs(values.mean().item() - (low + high) / 2) < 5 * width / math.sqrt(12 * n), name
    assert values.max() - values.min() > width * (1 - 12 / n), f"{name} fills its range"


def test_every_parameter_has_the_scale_of_its_formula(model):
    """None is left out: a parameter that no formula here knows fails."""
    pooled: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if (std := deviation(name, model)) is not None:
            assert_normal(name, parameter, std)
        elif name.startswith("edges."):
            assert_normal_vector(name, parameter, 0.02)
        elif name.startswith(("modulation.", "time_embedding.")):
            assert not parameter.any(), f"{name} starts at zero"
        elif name.endswith((".D", "norm_weight")):
            assert (parameter == 1).all(), f"{name} starts at one"
        else:
            pooled.setdefault(name.split(".")[-1], []).append(parameter.detach().flatten())
    assert set(pooled) <= {"conv_weight", "conv_bias", "dt_bias", "A_log"}
    values = {name: torch.cat(parts) for name, parts in pooled.items()}
    assert bool(values) == (model.config.architecture != "diffutran")
    for name in ("conv_weight", "conv_bias"):
        if name in values:
            bound = model.config.d_conv**-0.5
            assert_uniform(name, values[name], -bound, bound)
    if "A_log" in values:
        assert_uniform("A", values["A_log"].exp(), 1.0, 16.0)
        dt = torch.nn.functional.softplus(values["dt_bias"].double())
        assert_uniform("log of the step size", dt.log(), math.log(1e-3), math.log(1e-1))


@pytest.mark.parametrize("depth", [1, 24])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_blocks_add_up_to_does_not_grow_with_depth(architecture, depth):
    """The variances of all layers that write to the residual stream, each in units of its unscaled one, sum to 1."""
    torch.manual_seed(1)
    model = Denoiser(ModelConfig(architecture, 64, depth, 512, "gpt2-4k", d_state=16, headdim=16))
    total = 0.0
    for block in model.blocks:
        for layer in (block.mixer.out_proj, block.mlp.down):
            total += layer.weight.double().square().mean().item() * 3 * layer.in_features
    assert total == pytest.approx(1.0, rel=0.08 if depth == 1 else 0.02)
