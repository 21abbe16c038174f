"""Speculative sampling writes the text of blocks of one token, in fewer passes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.config import ARCHITECTURES
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model import Denoiser
from diffuapriel.sampling import speculative
from diffuapriel.sampling.blocks import CachedDenoiser, SpeculativeDenoiser, denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import DRAFT_BEHIND, SamplerConfig, resolve_blocks
from diffuapriel.sampling.generate import generate, generate_counted
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.state import State
from tests.sampling.blocks.test_cached import MASK, TEXTS, canvases
from tests.sampling.models import block_model


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> Denoiser:
    return block_model(request.param)


def sampler(strategy: str = "speculative", block_length: int = 4, **options) -> Sampler:
    config = SamplerConfig(
        strategy, **{"steps": 32, "seed": 3, **options}, block_length=block_length, block_start="zero"
    )
    return Sampler(config, get_schedule("log-linear"), MASK)


def one_by_one(model: Denoiser, texts, **options) -> torch.Tensor:
    return generate(sampler("low_confidence", 1, **options), CachedDenoiser(model, 1), texts)


# Every length of the drafts with one rule for the tokens, and each rule with one length: they share no code.
HOW = [(1, {}), (2, {"temperature": 0.0}), (7, {}), (7, {"temperature": 0.3, "top_p": 0.8}), (16, {"top_k": 2})]


@pytest.mark.parametrize(("drafted", "how"), HOW, ids=str)
@pytest.mark.parametrize("behind", DRAFT_BEHIND)
def test_the_text_is_that_of_blocks_of_one_token(model: Denoiser, drafted: int, behind: str, how: dict) -> None:
    """Also where a canvas holds text behind a hole, which neither of the two sees."""
    filler = sampler(block_length=drafted, draft_behind=behind, **how)
    texts, calls = generate_counted(filler, denoiser_for(model, filler.config), TEXTS)
    assert torch.equal(texts, one_by_one(model, TEXTS, **how))
    holes = [int(canvas.masked.sum()) for canvas in TEXTS]
    assert all(0 < passes <= count for passes, count in zip(calls, holes, strict=True))


@pytest.mark.parametrize("behind", DRAFT_BEHIND)
@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"temperature": 0.3, "top_p": 0.8}, {"top_k": 2}], ids=str)
def test_several_drafts_write_the_same_text(model: Denoiser, behind: str, how: dict) -> None:
    filler = sampler(draft_behind=behind, drafts=5, **how)
    assert torch.equal(generate(filler, denoiser_for(model, filler.config), TEXTS), one_by_one(model, TEXTS, **how))


def test_several_drafts_are_for_the_same_positions_and_all_different(model: Denoiser) -> None:
    filler = sampler(drafts=5, draft_behind="tokens")
    denoiser, state = denoiser_for(model, filler.config), filler.start(TEXTS)
    several = 0
    while not filler.done(state):
        state = filler.advance(denoiser, state)
        for drafts, masked in zip(state.drafts, state.masked, strict=True):
            used = drafts[(drafts >= 0).any(1)]
            assert ((used >= 0) == (used[:1] >= 0)).all() and (used[:, ~masked] < 0).all()
            assert len(np.unique(used, axis=0)) == len(used)
            several += len(used) > 1
    assert several
    ids, _, positions = filler.model_inputs(filler.start(TEXTS))
    assert len(ids) == len(positions) == len(TEXTS)


def test_the_likeliest_sequences_come_first() -> None:
    shares = np.array([[0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]])
    tokens = np.arange(9).reshape(3, 3)
    found = [tuple(each.tolist()) for each in speculative._likeliest(tokens, shares)]
    every = product(*(range(int((row > 0).sum())) for row in shares))
    chance = {tuple(tokens[range(3), ranks].tolist()): shares[range(3), ranks].prod() for ranks in map(list, every)}
    assert set(found) == set(chance) and len(found) == len(chance) == 12
    assert [chance[each] for each in found] == pytest.approx(sorted(chance.values(), reverse=True))


@pytest.mark.parametrize("behind", DRAFT_BEHIND)
def test_a_text_is_the_same_alone_and_in_any_batch(model: Denoiser, behind: str) -> None:
    filler = sampler(draft_behind=behind)
    together = generate(filler, denoiser_for(model, filler.config), TEXTS)
    for row, canvas in enumerate(TEXTS):
        alone = generate(filler, denoiser_for(model, filler.config), canvas, first_row=row)
        assert torch.equal(alone[0], together[row])


def test_drafts_behind_every_token_and_several_of_them_take_fewer_passes() -> None:
    """A bundled model, whose blocks are worth drafting; the stories are the same."""
    model, tokenizer = load_checkpoint("tales-blocks-diffuapriel")
    calls = []
    for behind, drafts in (("text", 1), ("tokens", 1), ("tokens", 4)):
        how = {"temperature": 0.5, "draft_behind": behind, "drafts": drafts, "stop_at_eos": True}
        config = SamplerConfig("speculative", block_length=8, block_start="zero", **how)
        filler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
        calls.append(generate_counted(filler, denoiser_for(model, config), [Canvas.masks(64, tokenizer)] * 2))
    (texts, one), (same, many), (again, several) = calls
    assert torch.equal(texts, same) and sum(many) < 0.9 * sum(one)
    assert torch.equal(texts, again) and sum(several) < sum(many)


def test_a_sure_model_is_drafted_and_accepted_many_tokens_at_a_time() -> None:
    """At temperature 0 a model whose logits are those of the position alone accepts whole drafts: 1, 8, 1, 7."""
    model = block_model("diffuapriel", block_lengths=(1, 8))
    for layer in model.blocks:
        for parameter in layer.parameters():
            parameter.data.zero_()
    assert model.edges is not None
    for parameter in model.edges.parameters():
        parameter.data.zero_()
    text, calls = generate_counted(
        sampler(block_length=8, temperature=0.0), SpeculativeDenoiser(model, 8), canvases("_" * 17)
    )
    assert calls == [4] and torch.equal(text, one_by_one(model, canvases("_" * 17), temperature=0.0))


def test_every_pass_reveals_a_token_and_shows_why(model: Denoiser) -> None:
    filler, (canvas,) = sampler(), canvases("ab______________")
    *_, last = frames = list(filler.stream(SpeculativeDenoiser(model, 4), canvas))
    assert all(frame.revealed and set(frame.why) == set(frame.revealed) == set(frame.top_k) for frame in frames[1:])
    assert last.nfe == len(frames) - 1 and MASK not in last.ids
    plain = list(sampler("low_confidence", 1).stream(CachedDenoiser(model, 1), canvas))
    assert last.ids == plain[-1].ids and last.confidence == pytest.approx(plain[-1].confidence, nan_ok=True)


def test_a_draft_that_a_person_has_overtaken_costs_passes_and_changes_nothing(model: Denoiser) -> None:
    """A state is continued with tokens masked again, and with another draft."""
    filler, denoiser, (canvas,) = sampler(), SpeculativeDenoiser(model, 4), canvases("_" * 16)
    state = filler.start(canvas)
    for _ in range(3):
        state = filler.advance(denoiser, state)
    ids, wrong = state.ids.copy(), (state.drafts + 1) % 5
    ids[0, 2:] = MASK
    expected = fill(filler, denoiser, filler.start(canvas))
    for drafts in (state.drafts, wrong):
        assert torch.equal(fill(filler, denoiser, state.replace(ids=ids, drafts=drafts)), expected)


def fill(filler: Sampler, denoiser: SpeculativeDenoiser, state: State) -> torch.Tensor:
    while not filler.done(state):
        state = filler.advance(denoiser, state)
    return torch.from_numpy(state.ids.copy())


def test_a_text_that_ends_is_padded(model: Denoiser) -> None:
    how, ended = {"stop_at_eos": True, "temperature": 30.0}, 0
    for seed in range(12):
        texts = generate(sampler(seed=seed, **how), SpeculativeDenoiser(model, 4), canvases("_" * 24, "abc" + "_" * 21))
        expected = one_by_one(model, canvases("_" * 24, "abc" + "_" * 21), seed=seed, **how)
        assert torch.equal(texts, expected)
        ended += int((texts[:, -2:] == MASK - 1).all(1).sum())
    assert ended


def test_it_takes_models_of_blocks_of_one_token_and_blocks_to_draft(model: Denoiser) -> None:
    assert resolve_blocks("speculative", None, known=(1, 4)) == {"block_length": 16, "block_start": "zero"}
    assert resolve_blocks("speculative", 24, known=(1, 4))["block_length"] == 24
    with pytest.raises(ValueError, match=r"trained for 4, 0 .the whole canvas"):
        resolve_blocks("speculative", None, known=(4, 0))
    with pytest.raises(ValueError, match="not a model of blocks"):
        resolve_blocks("speculative", None)
    with pytest.raises(ValueError, match="give their block_length"):
        SamplerConfig("speculative")
    with pytest.raises(ValueError, match=r"repetition_penalty is 1\.2"):
        SamplerConfig("speculative", block_length=4, repetition_penalty=1.2)
    with pytest.raises(ValueError, match="needs those of 1 token"):
        SpeculativeDenoiser(block_model("diffuapriel", block_lengths=(4, 0)), 4)
    with pytest.raises(ValueError, match="not a model of blocks"):
        denoiser_for(lambda ids, sigma, positions: ids, sampler().config)
    filler, state = sampler(), sampler().start(TEXTS)
    with pytest.raises(ValueError, match=r"logits have shape \(3, 12\)"):
        filler.step(state, torch.zeros(3, 12), filler.noise(state))
