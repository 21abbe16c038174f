"""The map is the one that the layer itself uses."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.interpret.attention_maps import attention_layers, attention_map
from tests.interpret.models import LENGTH, small, text


@pytest.mark.parametrize("architecture", ["diffuapriel-h", "diffutran"])
def test_every_row_is_a_distribution_over_all_positions(architecture):
    model = small(architecture)
    for layer in attention_layers(model):
        found = attention_map(model, text(model), 0.3, layer)
        assert found.shape == (2, LENGTH, LENGTH)
        assert (found > 0).all(), "attention is bidirectional: every position is seen"
        assert torch.allclose(found.sum(-1), torch.ones(2, LENGTH), atol=1e-5)


@pytest.mark.parametrize("document_boundaries", [False, True])
def test_the_map_times_the_values_is_what_the_layer_hands_on(document_boundaries):
    model = small("diffutran", document_boundaries=document_boundaries)
    ids = text(model)
    ids[4] = model.config.eos_id
    layer, mixer = 1, model.blocks[1].mixer
    seen = {}
    hooks = [
        mixer.in_proj.register_forward_hook(lambda _, inputs, output: seen.update(projected=output)),
        mixer.out_proj.register_forward_pre_hook(lambda _, inputs: seen.update(mixed=inputs[0])),
    ]
    found = attention_map(model, ids, 0.3, layer)
    assert bool((found[:, :5, 5:] == 0).all()) is document_boundaries
    for hook in hooks:
        hook.remove()
    values = seen["projected"].unflatten(-1, (3, -1, mixer.headdim))[0, :, 2].transpose(0, 1)
    assert torch.allclose((found @ values).transpose(0, 1).flatten(1), seen["mixed"][0], atol=1e-5)


def test_equal_keys_are_looked_at_equally():
    model = small("diffutran")
    with torch.no_grad():
        model.blocks[0].mixer.q_norm_weight.zero_()
    found = attention_map(model, text(model), 0.3, 0)
    assert torch.allclose(found, torch.full_like(found, 1 / LENGTH))


def test_the_layers_differ_and_only_attention_layers_have_a_map():
    hybrid = small("diffuapriel-h", attention_every=1, depth=4)
    assert attention_layers(hybrid) == [1, 3]
    ids = text(hybrid)
    assert not torch.equal(attention_map(hybrid, ids, 0.3, 1), attention_map(hybrid, ids, 0.3, 3))
    with pytest.raises(ValueError, match="layer 0 has no attention; attention layers of this model: 1, 3"):
        attention_map(hybrid, ids, 0.3, 0)
    mamba = small("diffuapriel")
    with pytest.raises(ValueError, match="of this model: none"):
        attention_map(mamba, text(mamba), 0.3, 0)
