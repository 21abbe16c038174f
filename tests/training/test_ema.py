"""The average follows its formula, and lending it to the model changes nothing."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffuapriel.training.ema import EMA, decay_after


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
