"""How the blocks run changes memory and speed, not what they compute."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from diffuapriel.config import ARCHITECTURES
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.training.loop import backward, step_at_every_block_length
from diffuapriel.training.parallelize import checkpoint_blocks, compiled_blocks


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointed_activations_give_the_same_gradients_and_run_each_block_twice(options, tiny_model, architecture):
    ids = torch.randint(4000, (4, 24), generator=torch.Generator().manual_seed(1))
    losses, gradients, runs = [], [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = Denoiser(tiny_model(architecture))
        torch.nn.init.normal_(model.modulation.linear.weight)  # so that every block matters
        seen = []
        model.blocks[0].mlp.register_forward_hook(lambda *given, seen=seen: seen.append(1))
        if checkpointed:
            checkpoint_blocks(model)
        generator = torch.Generator().manual_seed(2)
        losses.append(backward(model, ids, options(architecture), generator))
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        runs.append(len(seen))
    assert torch.equal(*losses) and runs == [1, 2]
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        assert torch.equal(gradients[0][name], gradients[1][name]), name


@pytest.mark.parametrize("checkpointed", [False, True])
def test_blocks_of_a_kind_are_compiled_once_and_whole_checkpointed_or_not(monkeypatch, tiny_model, checkpointed):
    compile = torch.nn.Module.compile  # by a backend that only records: C++ would take minutes
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compile(self, backend="eager", **how))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Denoiser(tiny_model("diffutran"))
    assert len(model.blocks) == 2
    if checkpointed:
        checkpoint_blocks(model)

    def trial():
        model(torch.zeros(2, 8, dtype=torch.int64), torch.ones(2)).sum().backward()

    with compiled_blocks(model, trial, lambda mine: mine, pytest.fail):
        counters = torch._dynamo.utils.counters
        assert counters["frames"]["ok"] == counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_on_a_cpu_a_block_is_compiled_once_per_block_length_and_the_last_one_once_more(
    monkeypatch, tiny_model, options, architecture, checkpointed
):
    """Whole, without a graph break, and never again at a later step."""
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: None)
    monkeypatch.setattr(torch, "compile", lambda f, **_: compile(f, dynamic=False, fullgraph=True, backend=count))
    torch._dynamo.reset()
    # For the hybrid, whose blocks are of two kinds, more graphs than the compiler keeps by default.
    assert torch._dynamo.config.recompile_limit < 2 * 5
    lengths = (1, 3, 4, 6, 12) if architecture == "diffuapriel-h" else (1, 4)
    shape = dataclasses.replace(tiny_model(architecture), depth=3, block_lengths=lengths, time_conditioning=False)
    model, config = Denoiser(shape), options(architecture, model=shape)
    if checkpointed:
        checkpoint_blocks(model)
    ids = torch.randint(4000, (4, 24), generator=torch.Generator().manual_seed(1))
    trial = partial(step_at_every_block_length, model, ids, config, torch.Generator().manual_seed(2))
    with compiled_blocks(model, trial, lambda mine: mine, pytest.fail):
        *others, last = shape.layer_kinds
        kinds = {*((kind, False) for kind in others), (last, True)}
        assert len(compiled) == len(lengths) * len(kinds)
        trial()
        assert len(compiled) == len(lengths) * len(kinds)


def test_where_another_rank_s_compiler_fails_all_go_on_without(tiny_model):
    torch._dynamo.utils.counters.clear()
    model, heard = Denoiser(tiny_model()), []
    with compiled_blocks(model, lambda: None, lambda mine: True, heard.append):
        model(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1))  # not compiled: it would take seconds
        assert torch.compiler.is_compiling() is False and heard == []
    assert torch._dynamo.utils.counters["frames"]["total"] == 0
