"""Whole generations on the device: the texts that the sampler and `CachedDenoiser` write on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffuapriel.config import ARCHITECTURES
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.engine import compile_denoiser
from diffuapriel.ops.cudagraph import WARM_UPS
from diffuapriel.sampling import blocks
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate_counted
from diffuapriel.sampling.graphs import blocks as graphs
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.tokens import Noise, block_uniforms
from tests.sampling.models import block_model

MASK, S = 11, 4
TEXTS = ("____" * 4, "abc_dafb____a___", "abcdabcdefga____", "a__b________abcd", "abcdabcdabcdabcd")


def sampler(strategy: str = "low_confidence", **options) -> Sampler:
    options = {"steps": 12, "block_length": S, "block_start": "zero", "threshold": 0.3, "seed": 3, **options}
    return Sampler(SamplerConfig(strategy, **options), get_schedule("log-linear"), MASK)


def canvases(*texts: str) -> list[Canvas]:
    """A letter is a token, "_" a hole."""
    rows = [torch.tensor([MASK if c == "_" else ord(c) - ord("a") for c in text]) for text in texts]
    return [Canvas(ids, ids != MASK, MASK) for ids in rows]


@pytest.mark.parametrize("strategy", graphs.STRATEGIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_and_calls_are_those_of_the_sampler_on_the_host(architecture: str, strategy: str) -> None:
    model, texts = block_model(architecture), canvases(*TEXTS)
    for options in ({"temperature": 0.0}, {}, {"temperature": 0.7, "top_k": 5, "seed": 8}):
        filler, denoiser = sampler(strategy, **options), CachedDenoiser(model, S)
        expected, calls = generate_counted(filler, CachedDenoiser(model, S), texts, first_row=2)
        filled, counted = denoiser.fill(filler, filler.start(texts, 2))
        assert torch.equal(filled, expected) and counted == calls


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_steps_change_nothing_and_the_pure_model_has_one(architecture: str, monkeypatch) -> None:
    """With a recorder that runs the step as often as a real one, and a graph that runs it again."""
    model, texts, made = block_model(architecture), canvases("____" * 6, "abcd" + "____" * 5), []

    def record(step, device):
        for _ in range(WARM_UPS):
            step()
        made.append(step)
        return step, None

    init = graphs.BlockGraph.__init__
    monkeypatch.setattr(
        graphs.BlockGraph, "__init__", lambda self, *a: init(self, *a) or setattr(self, "records", True)
    )
    monkeypatch.setattr(graphs, "record", record)
    for strategy in ("threshold", "threshold", "margin"):  # the second time with the graphs of the first
        filler, before = sampler(strategy, temperature=0.5), len(made)
        expected, _ = generate_counted(filler, CachedDenoiser(model, S), texts)
        assert torch.equal(CachedDenoiser(model, S).fill(filler, filler.start(texts))[0], expected)
        rooms = 1 if architecture == "diffuapriel" else 5  # of 8, 12, ... 24 tokens
        new = [step.args[1:] for step in made[before:]]  # (room, whether rows may commit)
        assert len({room for room, _ in new}) == (0 if strategy == "threshold" and before else rooms)
        assert len(set(new)) == len(new) and {commits for _, commits in new} >= (
            {False} if strategy == "margin" else set()
        )
    graphs.clear_cache(model)
    assert model not in graphs._kept


def test_a_pass_per_call_and_one_per_commit() -> None:
    model, text = block_model("diffuapriel"), canvases("____" * 4)
    filler, denoiser = sampler("margin", steps=8), CachedDenoiser(model, S)
    _, calls = denoiser.fill(filler, filler.start(text))
    assert calls == [8] and denoiser.passes == 8 + 3, "the last block is not committed"
    denoiser = CachedDenoiser(model, S)
    filler = sampler("threshold", threshold=0.0)
    _, calls = denoiser.fill(filler, filler.start(text))
    assert calls == [4] and denoiser.passes in (4 + 3, 4 + 3 + 1), "one pass may already run when the last mask is gone"
    assert denoiser.cache_bytes == model.empty_cache(1).bytes


def test_an_engine_writes_what_its_model_writes() -> None:
    model, text = block_model("diffuapriel-h").float(), canvases(*TEXTS)
    filler = sampler("threshold", temperature=0.0)
    expected = CachedDenoiser(model, S).fill(filler, filler.start(text))
    engine = compile_denoiser(model, dtype=None)
    assert torch.equal(CachedDenoiser(engine, S).fill(filler, filler.start(text))[0], expected[0])
    assert torch.equal(generate_counted(filler, CachedDenoiser(engine, S), text)[0], expected[0])


def test_logits_that_are_no_distribution_are_an_error() -> None:
    model, filler = block_model("diffuapriel"), sampler()
    model.head.weight.data[:] = torch.nan
    with pytest.raises(ValueError, match="logits hold NaN or infinity"):
        CachedDenoiser(model, S).fill(filler, filler.start(canvases(TEXTS[0])))


def test_what_runs_on_the_host_is_said_with_its_reason(monkeypatch) -> None:
    model, text = block_model("diffuapriel"), canvases(TEXTS[0])
    for said, options in {
        "the strategy is 'ancestral'": {"strategy": "ancestral"},
        "stop_at_eos is True": {"stop_at_eos": True},
        "confidence is 'drawn'": {"confidence": "drawn"},
        "alg_temp is 0.5": {"alg_temp": 0.5},
        "repetition_penalty is 1.2": {"repetition_penalty": 1.2},
        "remask_below is 0.5": {"strategy": "threshold", "remask_below": 0.5},
    }.items():
        filler = sampler(**options)
        assert said in str(graphs.unsupported_reason(filler.config, model, filler.start(text), S))
    filler = sampler()
    state = filler.start(canvases("____a"))
    assert "5 tokens, which are not whole blocks of 4" in str(graphs.unsupported_reason(filler.config, model, state, S))
    state = filler.start(text)
    assert graphs.unsupported_reason(filler.config, model, state, S) is None
    assert "canvas is on cpu" in str(CachedDenoiser(model, S).unsupported_reason(filler.config, state))
    asked = []
    monkeypatch.setattr(blocks.CachedDenoiser, "unsupported_reason", lambda *a: asked.append(a))
    generate_counted(filler, CachedDenoiser(model, S), text)
    assert asked, "generate asks, and takes the recorded passes where nothing speaks against them"


def test_the_noise_of_a_block_is_cut_from_that_of_its_text() -> None:
    for row, step, start, count in ((0, 0, 0, 4), (3, 7, 5, 6), (1, 2, 17, 1)):
        whole = Noise.draw(5, row, 1, step, 23).for_tokens[0, start : start + count]
        assert np.array_equal(block_uniforms(5, 23, row, step, start, count), whole)
