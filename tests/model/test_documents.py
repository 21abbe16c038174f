"""Documents packed into one row do not see each other: the denoiser gives each what it would get alone."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.diffusion.objective import nelbo
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.masks import masked_nats, noise_level
from diffuapriel.model import Denoiser
from diffuapriel.model.mamba2 import two_way_convolution
from diffuapriel.ops.document_ids import make_document_ids

LENGTHS = (1, 30, 1, 2, 30, 9, 17)  # in a row of 90; chunks end at 32 and 64, the first on a boundary + 1
SIGMA = torch.tensor([0.7])


def awake(architecture: str) -> Denoiser:
    """A small denoiser whose zero-initialised layers are drawn at random: what training would make of it."""
    torch.manual_seed(0)
    shape = {"d_model": 32, "depth": 3, "d_state": 8, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    model = Denoiser(ModelConfig(architecture=architecture, vocab_size=20, edge_embedding=True, **shape))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def packed() -> tuple[Tensor, Tensor]:
    """Clean ids (1, 90), every document closed by <|endoftext|>, and their document_ids."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 18, (1, sum(LENGTHS)), generator=generator)
    ids[0, torch.tensor(LENGTHS).cumsum(0) - 1] = 18
    document_ids = make_document_ids(ids, eos_id=18)
    assert document_ids[0].bincount().tolist() == list(LENGTHS)
    return ids, document_ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_documents_get_the_logits_and_gradients_of_each_alone(architecture: str) -> None:
    model = awake(architecture)
    ids, document_ids = packed()
    together = model(ids, SIGMA, document_ids=document_ids)
    alone = torch.cat([model(document, SIGMA) for document in ids.split(LENGTHS, dim=1)], dim=1)
    assert (together - alone).abs().max() < 1e-5
    weight = torch.randn_like(together)
    gradients = (torch.autograd.grad(y, tuple(model.parameters()), weight) for y in (together, alone))
    for got, expected in zip(*gradients, strict=True):
        assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_changed_token_moves_its_own_document_only_and_all_without_document_ids(architecture: str) -> None:
    model = awake(architecture)
    ids, document_ids = packed()
    for changed in (40, 0, 89):  # inside a document, and both ends of the row
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 18
        mine = document_ids[0] == document_ids[0, changed]
        apart = (model(other, SIGMA, document_ids=document_ids) - model(ids, SIGMA, document_ids=document_ids))[0].abs()
        assert apart[~mine].max() < 1e-6  # sums of dt A run over the whole chunk: their rounding moves, no more
        assert (apart[mine].amax(1) > 1e-6).all()
        joined = (model(other, SIGMA) - model(ids, SIGMA))[0].abs()
        assert joined[~mine].max() > 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_document_is_what_it_is_without_document_ids(architecture: str) -> None:
    model = awake(architecture)
    ids, _ = packed()
    one = torch.zeros_like(ids)
    assert torch.allclose(model(ids, SIGMA, document_ids=one), model(ids, SIGMA), atol=1e-5)


def test_the_head_on_chosen_positions_and_numbers_that_come_again() -> None:
    model = awake("diffuapriel-h")
    ids, document_ids = packed()
    positions = torch.rand(ids.shape) < 0.5
    expected = model(ids, SIGMA, document_ids=document_ids)[positions]
    assert torch.allclose(model(ids, SIGMA, positions, document_ids % 2), expected, atol=1e-5)


def test_no_tap_of_the_convolution_crosses_a_boundary() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 12, 2, 3), torch.randn(2, 4, 3), torch.randn(2, 3)
    lengths = (1, 2, 5, 1, 3)
    document_ids = torch.tensor([[number for number, n in enumerate(lengths) for _ in range(n)]])
    alone = [two_way_convolution(part, weight, bias) for part in x.split(lengths, dim=1)]
    assert torch.allclose(two_way_convolution(x, weight, bias, document_ids), torch.cat(alone, dim=1))


def test_the_objective_hands_the_document_ids_of_the_clean_text_on() -> None:
    ids, document_ids = packed()
    schedule, generator = get_schedule("log-linear"), torch.Generator()
    model = awake("diffuapriel")
    draw = partial(nelbo, ids=ids, schedule=schedule, mask_id=19, t=torch.tensor([0.6]), generator=generator)

    def apart(noisy: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        return model(noisy, sigma, positions, document_ids)

    nats = []
    for denoiser, given in ((model, {"document_ids": document_ids}), (apart, {}), (model, {})):
        generator.manual_seed(3)
        nats.append(draw(denoiser, **given).nats)
    assert torch.equal(nats[0], nats[1])
    assert not torch.equal(nats[0], nats[2])


def told(model: Denoiser) -> Denoiser:
    """The same weights in a model that keeps documents apart by itself."""
    copy = Denoiser(dataclasses.replace(model.config, document_boundaries=True))
    copy.load_state_dict(model.state_dict())
    return copy


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_with_document_boundaries_keeps_apart_what_the_visible_ends_separate(architecture: str) -> None:
    model = awake(architecture)
    ids, document_ids = packed()
    apart = told(model)
    assert torch.allclose(apart(ids, SIGMA), model(ids, SIGMA, document_ids=document_ids), atol=1e-5)
    assert torch.allclose(apart.hidden(ids, SIGMA).detach() @ apart.head.weight.T, apart(ids, SIGMA, padded=True))
    ends = (ids == 18).nonzero()[:, 1]
    ids[0, ends[2]] = 19  # the end of the third document under a [MASK]: it joins the fourth
    joined = document_ids - (document_ids > 2).long()
    assert torch.allclose(apart(ids, SIGMA), model(ids, SIGMA, document_ids=joined), atol=1e-5)
    assert not torch.allclose(apart(ids, SIGMA), model(ids, SIGMA, document_ids=document_ids), atol=1e-3)


def test_scores_give_a_model_with_document_boundaries_those_of_the_clean_text() -> None:
    model = awake("diffuapriel-h")
    ids, document_ids = packed()
    masked = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    assert (masked & (ids == 18)).any(), "an <|endoftext|> is hidden"
    given = partial(model, document_ids=document_ids)
    expected = masked_nats(given, ids, masked, mask_id=19)
    assert torch.allclose(masked_nats(told(model), ids, masked, mask_id=19), expected, atol=1e-4)
    blind = partial(told(model), ids.masked_fill(masked, 19), noise_level(masked), masked)
    assert not torch.allclose(blind(), blind(document_ids=document_ids), atol=1e-3), "and it matters"


def test_document_ids_of_another_shape_are_refused_by_name() -> None:
    ids, document_ids = packed()
    with pytest.raises(ValueError, match=r"document_ids are \(1, 89\) torch.int64; they must be \(1, 90\)"):
        awake("diffutran")(ids, SIGMA, document_ids=document_ids[:, 1:])
