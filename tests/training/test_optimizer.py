"""Who is decayed, and the learning rate over time.

The average follows its formula, and lending it to the model changes nothing.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffuapriel.config import ARCHITECTURES, PRESETS
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.training.config import default_learning_rate
from diffuapriel.training.optimizer import (
    EMA,
    decay_after,
    is_decayed,
    learning_rate,
    make_optimizer,
)

UNDECAYED = (
    ("A_log", "D", "dt_bias", "bias", "conv_bias", "norm_weight")
    + ("mixer_norm_weight", "mlp_norm_weight", "final_norm_weight", "q_norm_weight", "k_norm_weight")
)  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weight_decay_spares_A_log_D_dt_bias_norms_biases_and_the_embedding(architecture, tiny_model):
    model = Denoiser(tiny_model(architecture))
    optimizer = make_optimizer(model, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for group in (decayed, spared) for p in group["params"]} == set(names.values())
    for parameter in spared["params"]:
        assert names[parameter].split(".")[-1] in UNDECAYED or names[parameter] == "embedding.weight"
    for parameter in decayed["params"]:
        assert names[parameter].split(".")[-1] not in UNDECAYED and parameter.ndim >= 2


def test_a_mamba_block_has_all_the_names_that_are_spared(tiny_model):
    """So that a renamed parameter cannot slip into the decayed group unseen."""
    leaves = {name.split(".")[-1] for name, p in Denoiser(tiny_model()).named_parameters() if not is_decayed(name, p)}
    assert {"A_log", "D", "dt_bias", "conv_bias", "norm_weight"} <= leaves


def test_decay_without_a_gradient_shrinks_matrices_only(tiny_model):
    model = Denoiser(tiny_model())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, learning_rate=0.5, betas=(0.9, 0.95), weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if is_decayed(name, parameter) else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_the_rate_rises_linearly_and_falls_by_a_cosine_to_a_tenth_or_where_it_is_told():
    def rate(step, **where):
        return learning_rate(step, peak=1.0, warmup_steps=10, total_steps=110, **where)

    assert [rate(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate(10) == 1.0
    assert rate(60) == pytest.approx(0.1 + 0.9 * 0.5)  # half way
    assert rate(35) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rate(110) == pytest.approx(0.1) and rate(10_000) == pytest.approx(0.1)
    assert rate(60, min_lr_ratio=0.0) == pytest.approx(0.5) and rate(110, min_lr_ratio=0.0) == 0.0


@given(warmup=st.integers(1, 1000), total=st.integers(1, 10_000), step=st.integers(0, 20_000))
def test_the_rate_is_always_within_zero_and_the_peak(warmup, total, step):
    assert 0 < learning_rate(step, peak=3e-3, warmup_steps=warmup, total_steps=total) <= 3e-3


def test_the_warmup_does_not_need_the_total_and_the_rest_does():
    for step in range(5):
        known = learning_rate(step, peak=1.0, warmup_steps=5, total_steps=99)
        assert learning_rate(step, peak=1.0, warmup_steps=5, total_steps=None) == known
    with pytest.raises(ValueError, match="total_steps must be known"):
        learning_rate(5, peak=1.0, warmup_steps=5, total_steps=None)


def test_every_preset_has_a_rate_and_mamba_s_is_never_the_smaller():
    for name in PRESETS:
        assert default_learning_rate(name, "diffuapriel") == default_learning_rate(name, "diffuapriel-h")
        assert default_learning_rate(name, "diffuapriel") >= default_learning_rate(name, "diffutran") > 0
    with pytest.raises(ValueError, match=r"preset is 'huge'; permitted: nano"):
        default_learning_rate("huge", "diffutran")


@given(n=st.integers(0, 10**7), d=st.floats(0, 0.99999))
def test_the_decay_is_the_smaller_of_d_and_its_warmup(n, d):
    assert decay_after(n, d) == min(d, (1 + n) / (10 + n))


def test_the_average_is_the_recurrence():
    model = nn.Linear(3, 2)
    ema = EMA(model, 0.6)
    expected = model.weight.detach().double().clone()
    for n in range(12):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(n)
        d = min(0.6, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * model.weight.detach().double()
        torch.testing.assert_close(ema.averages["weight"].double(), expected)


def test_within_applied_the_model_is_the_average_and_afterwards_itself():
    model = nn.Linear(3, 2)
    ema = EMA(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.weight, own - 1.0) or torch.equal(model.weight, ema.averages["weight"])
        assert not torch.equal(model.weight, own)
    assert torch.equal(model.weight, own)


def test_the_model_gets_its_weights_back_when_the_block_fails():
    model = nn.Linear(3, 2)
    ema = EMA(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.detach().clone()
    try:
        with ema.applied():
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.equal(model.weight, own)
