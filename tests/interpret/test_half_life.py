"""A head's half-life is the number of tokens after which half of what it wrote is left."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from diffuapriel.interpret.half_life import half_lives, head_half_lives, step_sizes
from diffuapriel.ops.ssd import ssd_bidirectional
from tests.interpret.models import small, text


@torch.no_grad()
def constant(model, dt: float, rate: float):
    """Every head of every Mamba layer takes steps of `dt` and decays at `rate`, whatever it reads."""
    for block in model.blocks:
        mixer = block.mixer
        mixer.in_proj.weight.zero_()
        mixer.dt_bias.fill_(math.log(math.expm1(dt)))
        mixer.A_log.fill_(math.log(rate))
    return model


def test_the_half_life_of_a_constant_head_is_ln_2_over_dt_times_rate():
    model = constant(small("diffuapriel"), dt=0.05, rate=2.0)
    layers = head_half_lives(model, text(model), sigma=0.5)
    assert [memory.layer for memory in layers] == [0, 1, 2]
    for memory in layers:
        assert memory.half_life.shape == (2, model.config.n_heads)
        assert memory.half_life == pytest.approx(torch.full((2, 4), math.log(2) / 0.1).numpy(), rel=1e-5)


def test_after_the_half_life_the_scan_s_own_state_is_halved():
    """Write once, then run on: what the scan itself still holds after `half-life` tokens is half."""
    tokens, rate = 10, 2.0
    dt = math.log(2) / (tokens * rate)  # a half-life of ten tokens
    length = tokens + 1
    x = torch.zeros(1, length, 2, 1, 1)
    x[0, 0, 0], x[0, -1, 1] = 1.0, 1.0  # written first in the order of each scan
    ones = torch.ones(1, length, 2, 1, 1)
    y = ssd_bidirectional(
        x, torch.full((1, length, 2, 1), dt), torch.full((2, 1), -rate), ones, ones, torch.zeros(2, 1)
    )
    assert y[0, -1, 0] / y[0, 0, 0] == pytest.approx(0.5, rel=1e-5)
    assert y[0, 0, 1] / y[0, -1, 1] == pytest.approx(0.5, rel=1e-5)


def test_the_two_directions_have_memories_of_their_own():
    model = constant(small("diffuapriel"), dt=0.05, rate=2.0)
    with torch.no_grad():
        model.blocks[1].mixer.A_log[1] -= math.log(4)  # the reverse heads of one layer decay four times slower
    half_life = head_half_lives(model, text(model), sigma=0.5)[1].half_life
    assert (half_life[1] / half_life[0]).tolist() == pytest.approx([4.0] * 4, rel=1e-5)


def test_step_sizes_are_those_of_the_layer_s_own_projection():
    mixer = small("diffuapriel").blocks[0].mixer
    u = torch.randn(2, 5, 32)
    dt = mixer.in_proj(u).unflatten(2, (2, -1))[..., -mixer.config.n_heads :]
    assert torch.allclose(step_sizes(mixer, u), F.softplus(dt + mixer.dt_bias), atol=1e-6)
    rate = mixer.A_log.exp()
    mean = (step_sizes(mixer, u) * rate).mean((0, 1))
    assert torch.allclose(half_lives(mixer, u), math.log(2) / mean)


def test_the_memory_depends_on_the_text_and_on_the_noise_level():
    model = small("diffuapriel")
    with torch.no_grad():
        model.modulation.linear.weight.normal_(std=0.5)
    ids = text(model)
    first, again = (head_half_lives(model, ids, 0.5)[0].half_life for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, head_half_lives(model, ids.flip(0) + 1, 0.5)[0].half_life)
    assert not torch.equal(first, head_half_lives(model, ids, 3.0)[0].half_life)


def test_only_mamba_layers_have_such_a_memory_and_no_hook_stays():
    hybrid = small("diffuapriel-h", attention_every=1, depth=4)
    assert [memory.layer for memory in head_half_lives(hybrid, text(hybrid), 0.5)] == [0, 2]
    transformer = small("diffutran")
    assert head_half_lives(transformer, text(transformer), 0.5) == []
    assert all(not module._forward_pre_hooks for module in hybrid.modules())
