"""Block after block with a cache: the texts are those of a model that computes everything anew."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model import Denoiser
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.models import block_model

MASK, S = 11, 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> Denoiser:
    return block_model(request.param)


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


@pytest.mark.parametrize("strategy", STRATEGIES)
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


def test_a_prompt_and_finished_blocks_cost_no_pass_of_their_own(model: Denoiser) -> None:
    """Every pass denoises: with one token per pass, as many as there are holes."""
    filler, denoiser = sampler(), CachedDenoiser(model, S)
    generate(filler, denoiser, canvases("abcdefgh________"))
    assert denoiser.passes == 8
    generate(filler, denoiser, canvases("________________", "abcdefgh________"))
    assert denoiser.passes == 8 + 16 + 1, "one more where the rows have different amounts to commit"


@pytest.mark.parametrize("length", [1, 3, 6, 17])
def test_the_last_block_may_be_shorter(model: Denoiser, length: int) -> None:
    """Its end is the end of the text, as in a pass over the text up to there."""
    filler, denoiser = sampler(), CachedDenoiser(model, S)
    state = filler.start(canvases("_" * length))
    while not filler.done(state):
        ids, sigma, positions = filler.model_inputs(state)
        start = int(state.masked[0].argmax()) // S * S
        cache = model.empty_cache(1)
        cache = model.commit(ids[:, :start], cache, S) if start else cache
        block = slice(start, start + S)
        expected = model(ids[:, block], sigma, positions[:, block], cache=cache)
        assert (denoiser(ids, sigma, positions)[: len(expected)] - expected).abs().max() < 1e-12
        state = filler.advance(denoiser, state)


def test_the_noise_level_is_that_of_the_block(model: Denoiser) -> None:
    config = dataclasses.replace(model.config, time_conditioning=True)
    conditioned = Denoiser(config).double()
    conditioned.load_state_dict(model.state_dict())
    (canvas,) = canvases("abcda_c_________")
    positions = canvas.masked[None]
    logits = CachedDenoiser(conditioned, S)(canvas.ids[None], torch.ones(1), positions)
    cache = conditioned.commit(canvas.ids[None, :S], conditioned.empty_cache(1))
    half = -torch.tensor([0.5]).log()
    expected = conditioned(canvas.ids[None, S : 2 * S], half, positions[:, S : 2 * S], cache=cache)
    assert (logits[:2] - expected).abs().max() < 1e-12 and not logits[2:].any()


def test_caches_beyond_the_limit_are_dropped_and_what_is_in_use_stays(model: Denoiser) -> None:
    denoiser = CachedDenoiser(model, S)
    generate(sampler(), denoiser, canvases("_" * 16))
    assert len(denoiser._caches) == 3 and denoiser._kept_bytes == sum(c.bytes for c in denoiser._caches.values())
    denoiser.most_kept = 1
    generate(sampler(seed=4), denoiser, canvases("_" * 16))
    assert len(denoiser._caches) == 1
    assert denoiser._kept_bytes == denoiser.cache_bytes == next(iter(denoiser._caches.values())).bytes


def test_what_lies_behind_the_active_block_is_not_seen(model: Denoiser) -> None:
    first, second = (
        next(iter(generate(sampler(), CachedDenoiser(model, S), canvases(text))))[:S]
        for text in ("____abcd", "____jihg")
    )
    assert torch.equal(first, second)


def test_an_edited_text_gets_the_cache_of_its_own_past(model: Denoiser) -> None:
    """Also when the caches of earlier texts are gone."""
    denoiser, filler = CachedDenoiser(model, S, kept_bytes=1), sampler()
    state = filler.start(canvases("_" * 16))
    states = [state]
    while not filler.done(state):
        state = filler.advance(denoiser, state)
        states.append(state)
    for earlier in (states[13], states[2], states[9]):  # undo, in any order
        after = filler.advance(denoiser, earlier)
        assert (after.ids == filler.advance(anew(model), earlier).ids).all()


def test_a_model_that_was_not_trained_in_blocks_is_refused(model: Denoiser) -> None:
    full = Denoiser(ModelConfig("diffuapriel", 16, 1, vocab_size=12, d_state=4, headdim=16))
    with pytest.raises(ValueError, match="block_length is 4; it must be 1 or more, for a model that was trained in"):
        CachedDenoiser(full, 4)
    with pytest.raises(ValueError, match="block_length is 0"):
        CachedDenoiser(model, 0)
