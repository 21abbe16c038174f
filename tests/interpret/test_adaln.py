"""The curves are the modulations that each block is given."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.interpret.adaln import modulation_over_time
from tests.interpret.models import small

TIMES = torch.linspace(0.1, 1, 4)
LINEAR = get_schedule("log-linear")


def test_open_gates_are_one_and_everything_else_is_zero():
    found = modulation_over_time(small("diffuapriel"), TIMES, LINEAR)
    assert found.shape == (3, 2, 3, 4)  # layers, mixer and MLP, shift and scale and gate, times
    assert (found[:, :, 2] == 1).all() and (found[:, :, :2] == 0).all()


def test_each_curve_is_the_root_mean_square_of_its_own_six():
    model = small("diffuapriel-h")
    d_model = model.config.d_model
    with torch.no_grad():
        model.modulation.linear.bias.copy_(torch.arange(model.modulation.count).repeat_interleave(d_model))
    found = modulation_over_time(model, TIMES, LINEAR)[..., 0]
    assert found.flatten().tolist() == pytest.approx([float(i) for i in range(18)], rel=1e-6)


def test_curves_follow_the_time_only_where_the_model_is_told_of_it():
    for told in (True, False):
        model = small("diffutran", time_conditioning=told)
        with torch.no_grad():
            model.modulation.linear.weight.normal_(std=0.5)
        found = modulation_over_time(model, TIMES, LINEAR)
        assert bool((found.diff(dim=-1).abs() > 1e-9).any()) == told


def test_a_curve_is_what_the_embedding_of_that_noise_level_gives():
    model = small("diffuapriel")
    with torch.no_grad():
        model.modulation.linear.weight.normal_(std=0.5)
        expected = model.modulation(model.time_embedding(LINEAR.sigma(TIMES)))
    found = modulation_over_time(model, TIMES, LINEAR)
    assert found[1, 1, 0] == pytest.approx(expected[6 + 3][:, 0].square().mean(-1).sqrt().numpy(), rel=1e-5)
