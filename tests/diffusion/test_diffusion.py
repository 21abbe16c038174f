"""Schedules, corruption and the bound: each identity of MDLM that the rest stands on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffuapriel.config import SCHEDULES, ModelConfig
from diffuapriel.diffusion import objective
from diffuapriel.diffusion.objective import T_MIN, corrupt, nelbo, stratified_t, subs_log_probs
from diffuapriel.diffusion.schedule import EPS, get_schedule
from diffuapriel.model import Denoiser
from diffuapriel.training.config import TrainConfig

VOCABULARY, MASK = 12, 11


class UniformDenoiser:
    """Every clean token equally likely; records where it was asked."""

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        rows = ids if positions is None else ids[positions]
        return torch.zeros(*rows.shape, VOCABULARY)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_runs_from_clean_to_noise(name: str) -> None:
    schedule = get_schedule(name)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha = schedule.alpha(t)
    assert alpha[0] == 1
    assert alpha[-1].item() == pytest.approx(EPS)
    assert (alpha.diff() < 0).all()
    assert torch.allclose(schedule.sigma(t), -alpha.log())


@pytest.mark.parametrize("name", SCHEDULES)
def test_derivative_and_weight_follow_from_alpha(name: str) -> None:
    schedule = get_schedule(name)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    assert torch.allclose(schedule.alpha_prime(t.detach()), derivative)
    assert torch.allclose(schedule.weight(t.detach()), -derivative / (1 - schedule.alpha(t.detach())), rtol=1e-9)


def test_the_weight_of_the_log_linear_schedule_is_one_over_t() -> None:
    t = torch.rand(100, dtype=torch.float64)
    assert torch.equal(get_schedule("log-linear").weight(t), 1 / t)


def test_cosine_is_mdlm_s_and_maskgit_s_is_its_mirror_image() -> None:
    """Against both references: `CosineNoise` of MDLM's noise_schedule.py, `schedule` of MaskGIT's mask_schedule.py."""
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    total_noise = -torch.log(EPS + (1 - EPS) * torch.cos(t * math.pi / 2))
    cos, sin = (1 - EPS) * torch.cos(t * math.pi / 2), (1 - EPS) * torch.sin(t * math.pi / 2)
    rate_noise = (math.pi / 2) * sin / (cos + EPS)
    cosine = get_schedule("cosine")
    torch.testing.assert_close(cosine.sigma(t), total_noise)
    torch.testing.assert_close(cosine.weight(t), rate_noise / torch.expm1(total_noise))  # MDLM's weight of the loss

    steps = 20
    maskgit = get_schedule("maskgit")
    for step in range(steps):
        ratio = (step + 1) / steps  # of the steps done
        mask_ratio = math.cos(math.pi / 2 * ratio)
        share = 1 - maskgit.alpha(torch.tensor(1 - ratio, dtype=torch.float64)).item()
        assert share / (1 - EPS) == pytest.approx(mask_ratio, abs=1e-12)
    mirrored = (1 - cosine.alpha(1 - t)) / (1 - EPS)
    torch.testing.assert_close((1 - maskgit.alpha(t)) / (1 - EPS), 1 - mirrored)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'linear'; permitted: log-linear, cosine, maskgit, polynomial, quadratic"):
        get_schedule("linear")


def test_the_old_name_of_the_quadratic_schedule_is_accepted() -> None:
    assert get_schedule("squared") is get_schedule("quadratic")
    assert TrainConfig(steps=1, schedule="squared") == TrainConfig(steps=1, schedule="quadratic")


def test_times_are_stratified() -> None:
    t = stratified_t(64, torch.Generator().manual_seed(0))
    assert t.min() >= T_MIN
    assert t.max() <= 1
    assert sorted(((t - T_MIN) / (1 - T_MIN) * 64).floor().int().tolist()) == list(range(64))


@pytest.mark.parametrize("name", SCHEDULES)
def test_tokens_are_masked_with_probability_one_minus_alpha(name: str) -> None:
    schedule = get_schedule(name)
    t = torch.tensor([0.05, 0.5, 0.95])
    ids = torch.randint(0, MASK, (3, 200_000), generator=torch.Generator().manual_seed(0))
    noisy = corrupt(ids, t, schedule, MASK, torch.Generator().manual_seed(1))
    masked = noisy == MASK
    assert torch.equal(noisy[~masked], ids[~masked])
    assert torch.allclose(masked.float().mean(1), 1 - schedule.alpha(t), atol=0.005)


def test_mask_is_never_predicted() -> None:
    logits = torch.randn(5, VOCABULARY)
    logits[:, MASK] = 100.0
    log_probs = subs_log_probs(logits, MASK)
    assert (log_probs[:, MASK] == -math.inf).all()
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(5))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_loss_of_a_uniform_model_is_log_v(name: str) -> None:
    ids = torch.randint(0, MASK, (4096, 16), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    got = nelbo(UniformDenoiser(), ids, get_schedule(name), MASK, generator=generator)
    assert got.loss.item() == pytest.approx(math.log(VOCABULARY - 1), rel=0.02)
    assert got.nats.sum().item() / ids.numel() == pytest.approx(got.loss.item())


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_is_the_same_number_under_every_schedule(name: str) -> None:
    """Of a text of one token only, by a denoiser that is sure of it when little is masked, and unsure when much is."""
    ids = torch.zeros(8192, 32, dtype=torch.int64)

    def denoiser(noisy: torch.Tensor, sigma: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*noisy.shape, VOCABULARY)
        logits[..., 0] = 9 * torch.exp(-sigma)[:, None]
        return logits[positions]

    alpha = (torch.arange(100_000) + 0.5) / 100_000  # over which the bound is the mean of a masked token's cost
    costs = torch.log(VOCABULARY - 2 + torch.exp(9 * alpha)) - 9 * alpha
    found = nelbo(denoiser, ids, get_schedule(name), MASK, generator=torch.Generator().manual_seed(0)).loss
    assert found.item() == pytest.approx(costs.mean().item(), rel=0.01)


def test_only_masked_tokens_cost_and_all_tokens_divide() -> None:
    ids = torch.randint(0, MASK, (1, 1000), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.25])
    got = nelbo(UniformDenoiser(), ids, get_schedule(), MASK, t=t, generator=torch.Generator().manual_seed(1))
    assert got.loss.item() == pytest.approx(4 * got.masked.item() * math.log(VOCABULARY - 1) / 1000, rel=1e-5)


@pytest.mark.parametrize(
    "how", [{}, {"max_masked": 70}, {"compiled": True}, {"compiled": True, "max_masked": 70}], ids=str
)
def test_the_head_on_masked_rows_gives_the_loss_and_gradient_of_every_position(how: dict, monkeypatch) -> None:
    traced = torch.compile(objective._cross_entropy, dynamic=True, backend="eager")  # as compiled, in a second
    monkeypatch.setattr(objective, "_compiled_cross_entropy", lambda dynamic: traced)
    torch.manual_seed(0)
    shape = {"d_model": 32, "depth": 2, "d_state": 8, "headdim": 16, "cond_dim": 8}
    model = Denoiser(ModelConfig(architecture="diffuapriel", vocab_size=VOCABULARY, **shape))
    ids, t, noise = torch.randint(0, MASK, (4, 20)), torch.tensor([0.2, 0.5, 0.7, 0.9]), torch.rand(4, 20)
    schedule, losses, gradients = get_schedule(), [], []

    def at_every_position() -> torch.Tensor:
        noisy = corrupt(ids, t, schedule, MASK, noise=noise)
        log_probs = subs_log_probs(model(noisy, schedule.sigma(t)), MASK)
        nll = -log_probs.gather(-1, ids[..., None])[..., 0] * (noisy == MASK)
        return (schedule.weight(t) * nll.sum(1)).sum() / ids.numel()

    def at_masked_ones() -> torch.Tensor:
        return nelbo(model, ids, schedule, MASK, t=t, noise=noise, **how).loss

    for draw in (at_every_position, at_masked_ones):
        model.zero_grad()
        loss = draw()
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_more_masked_positions_than_there_is_room_for_make_the_loss_nan() -> None:
    torch.manual_seed(0)
    model = Denoiser(ModelConfig("diffuapriel", d_model=32, depth=1, vocab_size=VOCABULARY, d_state=8, headdim=16))
    ids, t = torch.randint(0, MASK, (2, 20)), torch.tensor([0.5, 0.5])
    masked = nelbo(model, ids, get_schedule(), MASK, t=t, noise=torch.full((2, 20), 0.4)).masked.item()
    assert masked == 40
    full = nelbo(model, ids, get_schedule(), MASK, t=t, noise=torch.full((2, 20), 0.4), max_masked=40)
    assert full.loss.isfinite()
    short = nelbo(model, ids, get_schedule(), MASK, t=t, noise=torch.full((2, 20), 0.4), max_masked=39)
    assert short.loss.isnan()


def test_wrong_times_are_refused() -> None:
    with pytest.raises(ValueError, match="t has shape"):
        corrupt(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0.5]), get_schedule(), MASK)
    with pytest.raises(ValueError, match="n is 0"):
        stratified_t(0)
