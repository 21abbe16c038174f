"""Influence is found where information flows, and is zero where it cannot."""

from __future__ import annotations

import math

import pytest
import torch

from diffuapriel.interpret.adaln import open_gates, time_of_text
from diffuapriel.interpret.influence import gradient_influence, occlusion_influence
from diffuapriel.model.denoiser import Denoiser
from tests.interpret.models import LENGTH, small, text

MIDDLE = 5


def occluded(model, ids, position=MIDDLE, sigma=0.3, **options):
    *_, last = occlusion_influence(model, ids, position, sigma, **options)
    return last


def measures(model, ids):
    """Both measures at every position but the chosen one."""
    others = torch.arange(len(ids)) != MIDDLE
    return [found.values[others] for found in (gradient_influence(model, ids, MIDDLE, 0.3), occluded(model, ids))]


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h", "diffutran"])
def test_every_model_looks_to_both_sides(architecture):
    model = small(architecture)
    for values in measures(model, text(model)):
        assert (values[:MIDDLE] > 0).all() and (values[MIDDLE:] > 0).all()


@pytest.mark.parametrize(("direction", "unseen"), [(0, slice(MIDDLE, None)), (1, slice(0, MIDDLE))])
def test_with_one_direction_shut_that_side_has_no_influence_at_all(direction, unseen):
    """Only the forward scan is left: what stands to the right cannot matter; and the other way round."""
    model = small("diffuapriel")
    with torch.no_grad():
        for block in model.blocks:
            half = block.mixer.config.d_inner
            shut = slice(half, None) if direction == 0 else slice(0, half)
            block.mixer.out_proj.weight[:, shut] = 0
    for values in measures(model, text(model)):
        assert (values[unseen] == 0).all()
        seen = torch.ones(LENGTH - 1, dtype=torch.bool)
        seen[unseen] = False
        assert (values[seen] > 1e-9).all()


def test_a_model_fresh_from_its_initialization_looks_at_nothing():
    """Its gates are zero, so that each block is the identity."""
    torch.manual_seed(0)
    model = Denoiser(small("diffuapriel").config).eval()
    gradient, occlusion = measures(model, text(model))
    assert (gradient == 0).all() and (occlusion == 0).all()
    assert gradient_influence(model, text(model), MIDDLE, 0.3).values[MIDDLE] > 0
    assert (measures(open_gates(model), text(model))[0] > 0).all()


def test_the_gradient_is_the_slope_of_the_top_logit():
    model = small("diffutran").double()
    ids = text(model)
    found = gradient_influence(model, ids, MIDDLE, 0.3)
    asked = ids.clone()
    asked[MIDDLE] = model.config.mask_id
    one_hot = torch.arange(LENGTH) == MIDDLE

    def top_logit() -> float:
        with torch.no_grad():
            logits = model(asked[None], torch.tensor([0.3]), one_hot[None])
        return logits[0, found.token].item()

    token, step, slopes = int(asked[2]), 1e-5, []
    for channel in range(model.config.d_model):
        row = model.embedding.weight.data[token]
        row[channel] += step
        above = top_logit()
        row[channel] -= 2 * step
        slopes.append((above - top_logit()) / (2 * step))
        row[channel] += step
    assert (asked == token).sum() == 1
    assert math.hypot(*slopes) == pytest.approx(found.values[2].item(), rel=1e-4)


def test_occlusion_is_the_divergence_of_the_two_answers():
    model = small("diffuapriel-h")
    ids = text(model)
    found = occluded(model, ids)
    mask_id = model.config.mask_id
    asked = ids.clone()
    asked[MIDDLE] = mask_id
    without = asked.clone()
    without[3] = mask_id
    with torch.no_grad():
        logits = model(torch.stack([asked, without]), torch.tensor([0.3, 0.3]))[:, MIDDLE, :mask_id].double()
    p, q = logits.softmax(-1)
    assert found.values[3] == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-3)
    assert found.token == int(p.argmax()) and found.probability == pytest.approx(p.max().item(), rel=1e-5)


def test_what_is_masked_anyway_tells_nothing_and_the_chosen_token_is_hidden_first():
    model = small("diffuapriel")
    ids = text(model)
    ids[1] = model.config.mask_id
    found = occluded(model, ids)
    assert found.values.isnan().nonzero()[:, 0].tolist() == [1, MIDDLE]
    other = ids.clone()
    other[MIDDLE] += 1  # which token it was must not matter
    assert torch.equal(occluded(model, other).values.nan_to_num(), found.values.nan_to_num())
    same = gradient_influence(model, other, MIDDLE, 0.3)
    assert torch.equal(same.values, gradient_influence(model, ids, MIDDLE, 0.3).values)


def test_occlusion_arrives_from_the_nearest_to_the_farthest_whatever_the_batch():
    model = small("diffutran")
    ids = text(model)
    known = [~found.values.isnan() for found in occlusion_influence(model, ids, MIDDLE, 0.3, batch_size=4)]
    assert [int(k.sum()) for k in known] == [0, 4, 8, 11]
    assert known[1].nonzero()[:, 0].tolist() == [3, 4, 6, 7]
    a, b = (occluded(model, ids, batch_size=size).values.nan_to_num() for size in (1, 16))
    assert torch.allclose(a, b, atol=1e-7)


def test_shares_sum_to_one_over_what_is_known():
    model = small("diffutran")
    assert gradient_influence(model, text(model), MIDDLE, 0.3).share.sum() == pytest.approx(1.0)
    assert occluded(model, text(model)).share.nansum() == pytest.approx(1.0)


@pytest.mark.parametrize("position", [-1, LENGTH])
def test_a_position_outside_the_text_is_refused(position):
    model = small("diffutran")
    with pytest.raises(ValueError, match=f"position is {position}; the text has the positions 0 to 11"):
        gradient_influence(model, text(model), position, 0.3)
    with pytest.raises(ValueError, match="the positions 0 to 11"):
        next(occlusion_influence(model, text(model), position, 0.3))


def test_nothing_is_left_behind_in_the_model():
    model = small("diffutran")
    gradient_influence(model, text(model), MIDDLE, 0.3)
    assert not model.embedding._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_time_of_a_text_is_where_the_schedule_masks_as_much():
    ids = torch.tensor([7, 7, 9, 9])
    assert time_of_text(ids, mask_id=9) == pytest.approx(0.5 / 0.999)
    assert time_of_text(ids, mask_id=8) == 0.0
    assert time_of_text(torch.tensor([9]), mask_id=9) == 1.0
