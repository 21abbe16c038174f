"""Block after block with a cache: the texts are those of a model that computes everything anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model import Denoiser
from diffuapriel.sampling import blocks
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import BLOCKWISE, SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler

MASK, S = 11, 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> Denoiser:
    torch.manual_seed(0)
    shape = {"d_model": 16, "depth": 2, "d_state": 4, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    config = ModelConfig(
        request.param, vocab_size=12, block_lengths=(1, S, 0), time_conditioning=False, edge_embedding=True, **shape
    )
    model = Denoiser(config)
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return model.double().eval()


def anew(model: Denoiser):
    """The same model without a cache: every call is one folded pass over the whole canvas."""

    def denoiser(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            return model(ids, sigma, positions, clean=ids.masked_fill(ids == MASK, 0), block_length=S)

    return denoiser


def sampler(strategy: str = "low_confidence", **options) -> Sampler:
    options = {"steps": 16, "block_length": S, "block_start": "zero", "threshold": 0.3, "seed": 3, **options}
    return Sampler(SamplerConfig(strategy, **options), get_schedule("log-linear"), MASK)


def canvases(*texts: str) -> list[Canvas]:
    """A letter is a token, "_" a hole."""
    found = []
    for text in texts:
        ids = torch.tensor([MASK if letter == "_" else ord(letter) - ord("a") for letter in text])
        found.append(Canvas(ids, ids != MASK, MASK))
    return found


TEXTS = canvases("_" * 16, "abcdefg_________", "ab_d" + "_" * 12, "abcd____abcd____")


@pytest.mark.parametrize("strategy", BLOCKWISE)
def test_texts_with_the_cache_are_those_without(model: Denoiser, strategy: str) -> None:
    filler = sampler(strategy)
    assert torch.equal(generate(filler, CachedDenoiser(model, S), TEXTS), generate(filler, anew(model), TEXTS))


@pytest.mark.parametrize("strategy", ["low_confidence", "threshold"])
def test_a_text_is_the_same_alone_and_in_any_batch(model: Denoiser, strategy: str) -> None:
    """With `threshold`, rows reach their next block at different times."""
    filler = sampler(strategy)
    together = generate(filler, CachedDenoiser(model, S), TEXTS)
    for row, canvas in enumerate(TEXTS):
        assert torch.equal(generate(filler, CachedDenoiser(model, S), canvas, first_row=row)[0], together[row])


def test_a_prompt_is_committed_in_one_call_and_each_block_in_one_more(model: Denoiser) -> None:
    denoiser = CachedDenoiser(model, S)
    generate(sampler(), denoiser, canvases("abcdefgh________"))
    assert denoiser.commits == 2, "the prompt's two blocks together, and the third; the last needs no cache"
    assert denoiser.passes == 8


def test_what_lies_behind_the_active_block_is_not_seen(model: Denoiser) -> None:
    first, second = (
        next(iter(generate(sampler(), CachedDenoiser(model, S), canvases(text))))[:S]
        for text in ("____abcd", "____jihg")
    )
    assert torch.equal(first, second)


def test_an_edited_text_gets_the_cache_of_its_own_past(model: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the caches of earlier texts are gone."""
    monkeypatch.setattr(blocks, "KEPT", 1)
    denoiser, filler = CachedDenoiser(model, S), sampler()
    state = filler.start(canvases("_" * 16))
    states = [state]
    while not filler.done(state):
        state = filler.advance(denoiser, state)
        states.append(state)
    for earlier in (states[13], states[2], states[9]):  # undo, in any order
        after = filler.advance(denoiser, earlier)
        assert (after.ids == filler.advance(anew(model), earlier).ids).all()


def test_a_block_length_that_the_model_does_not_know_is_refused(model: Denoiser) -> None:
    full = Denoiser(ModelConfig("diffuapriel", 16, 1, vocab_size=12, d_state=4, headdim=16))
    with pytest.raises(ValueError, match="block_length is 4; the model was trained for none"):
        CachedDenoiser(full, 4)
    with pytest.raises(ValueError, match="the canvas has 16 tokens; block_length, 5, must divide it"):
        generate(sampler(block_length=5), CachedDenoiser(model, 5), TEXTS)
