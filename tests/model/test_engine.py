"""The engine is the denoiser, made ready: same numbers, matrices in bfloat16, the rest untouched."""

from __future__ import annotations

import copy

import pytest
import torch

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model import Denoiser
from diffuapriel.model.engine import compile_denoiser
from diffuapriel.model.mamba2 import BidirectionalMamba2

SHAPE = {"d_model": 32, "depth": 3, "d_state": 8, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}


def awake(architecture: str) -> Denoiser:
    """A denoiser whose zero-initialised layers do something."""
    torch.manual_seed(0)
    model = Denoiser(ModelConfig(architecture=architecture, vocab_size=20, **SHAPE))
    for parameter in model.modulation.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_change_of_dtype_it_gives_the_denoisers_logits(architecture: str) -> None:
    model = awake(architecture)
    ids, sigma = torch.randint(0, 20, (2, 9)), torch.tensor([0.3, 1.2])
    positions = torch.rand(2, 9) < 0.5
    with torch.no_grad():
        all_logits, some_logits = model(ids, sigma), model(ids, sigma, positions)
    engine = compile_denoiser(model, dtype=None)
    assert torch.equal(engine(ids, sigma), all_logits)
    assert torch.equal(engine(ids, sigma, positions), some_logits)
    assert torch.equal(engine.hidden(ids, sigma), model.hidden(ids, sigma))
    assert torch.equal(engine.replay(ids, sigma), model.hidden(ids, sigma))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bfloat16_the_matrices_are_rounded_and_nothing_else(architecture: str) -> None:
    model = awake(architecture)
    ids, sigma = torch.randint(0, 20, (2, 9)), torch.tensor([0.3, 1.2])
    with torch.no_grad():
        exact = model(ids, sigma)
    engine = compile_denoiser(model)
    assert (engine(ids, sigma).float() - exact).abs().max() < 0.03 * exact.abs().max()
    kept = ("norm_weight", "A_log", "dt_bias", "conv_weight", "conv_bias", ".D")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith(kept) else torch.bfloat16), name


def test_a_norm_that_is_folded_into_the_product_after_it_changes_nothing() -> None:
    torch.manual_seed(0)
    config = ModelConfig(architecture="diffuapriel", vocab_size=20, **SHAPE)
    mixer = BidirectionalMamba2(config)
    torch.nn.init.normal_(mixer.norm_weight)
    kept, u = copy.deepcopy(mixer.state_dict()), torch.randn(2, 9, config.d_model)
    with torch.no_grad():
        expected = mixer(u)
        for _ in range(2):  # a second time there is nothing left to fold
            mixer.fold_norm()
            torch.testing.assert_close(mixer(u), expected)
        mixer.load_state_dict(kept)  # with a weight of its own, which is folded in its turn
        assert mixer.norm_is_folded and (mixer.norm_weight == 1).all()
        torch.testing.assert_close(mixer(u), expected)
