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


class Written(Exception):
    """Inductor has written the code of a graph."""


@pytest.mark.slow
def test_a_compiled_pass_in_place_makes_no_copy_of_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each pass of a long text would move all of them there and back. It is read off inductor's code; g++, which
    takes a dozen seconds, need not run."""
    from torch._inductor import config, cpu_vec_isa
    from torch._inductor.graph import GraphLowering

    shape = {"d_model": 32, "depth": 1, "headdim": 16, "d_state": 16, "attention_headdim": 16, "cond_dim": 8}
    model = Denoiser(ModelConfig("diffutran", vocab_size=20, block_lengths=(4,), **shape)).eval().requires_grad_(False)
    ids, sigma, commit, capacity = torch.randint(19, (1, 4)), torch.zeros(1), torch.tensor([True]), 773
    cache, plain = (model.empty_cache(1, capacity) for _ in range(2))
    expected = model.hidden_in_place(ids, sigma, plain, commit, capacity)
    block = model.blocks[0]
    eager = block.forward_blocks
    block.forward_blocks = torch.compile(eager, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(model.hidden_in_place(ids, sigma, cache, commit, capacity), expected)
    torch.testing.assert_close(cache.layers[0].keys, plain.layers[0].keys)

    def write(graph: GraphLowering) -> None:
        raise Written(graph.codegen()[0].value)

    monkeypatch.setattr(GraphLowering, "compile_to_module", write)
    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", list)  # g++ would be asked for each
    block.forward_blocks = torch.compile(eager, dynamic=False)
    with config.patch(force_disable_caches=True), pytest.raises(Exception, match="Written") as caught:
        model.hidden_in_place(ids, sigma, model.empty_cache(1, capacity), commit, capacity)
    made = [line for line in str(caught.value).splitlines() if "= empty_" in line]
    assert made and not [line for line in made if f"(1, 2, {capacity}, 16)" in line]
