"""The bound over blocks: exact at one token per block, and by enumeration at four."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.diffusion.blocks import block_nelbo, block_noise_levels, mask_blocks, stratified_blocks
from diffuapriel.model import Denoiser

VOCABULARY, MASK = 5, 4  # tokens 0 to 3, of which 3 is <|endoftext|>


def awake(architecture: str = "diffuapriel", **changes) -> Denoiser:
    torch.manual_seed(0)
    shape = {"d_model": 16, "depth": 2, "d_state": 4, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    model = Denoiser(ModelConfig(architecture, vocab_size=VOCABULARY, edge_embedding=True, **{**shape, **changes}))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double()


def log_prob(model: Denoiser, ids: Tensor) -> Tensor:
    """Log-probability of each row, token after token with the cache: the autoregressive factorization."""
    cache, total = model.empty_cache(len(ids)), torch.zeros(len(ids), dtype=torch.float64)
    for token in ids.split(1, dim=1):
        hidden = torch.full_like(token, MASK)
        logits = model(hidden, block_noise_levels(hidden == MASK, 1)[:, 0], cache=cache)[:, 0, :MASK]
        total += logits.log_softmax(-1).gather(1, token)[:, 0]
        cache = model.commit(token, cache)
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_token_per_block_is_an_autoregressive_model(architecture: str) -> None:
    """The probabilities of all texts of three tokens sum to 1, and the bound is exact, whatever is drawn."""
    model = awake(architecture)
    texts = torch.tensor(list(itertools.product(range(MASK), repeat=3)))
    exact = log_prob(model, texts)
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-12)
    for seed in range(2):
        drawn = block_nelbo(model, texts, MASK, 1, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(drawn.nats, -exact, atol=1e-6)  # the cross-entropy is in float32


def enumerated(model: Denoiser, ids: Tensor, block_length: int) -> Tensor:
    """The bound of each row: the mean over l of S/l times the mean over all sets of l masked tokens of each block."""
    cache, total = model.empty_cache(len(ids)), torch.zeros(len(ids), dtype=torch.float64)
    for block in ids.split(block_length, dim=1):
        for count in range(1, block_length + 1):
            sets = list(itertools.combinations(range(block_length), count))
            for chosen in sets:
                masked = torch.zeros_like(block, dtype=torch.bool)
                masked[:, chosen] = True
                sigma = block_noise_levels(masked, block_length)[:, 0]
                logits = model(block.masked_fill(masked, MASK), sigma, cache=cache)[..., :MASK]
                nats = -logits.log_softmax(-1).gather(2, block[..., None])[..., 0]
                total += (nats * masked).sum(1) / count / len(sets)
        cache = model.commit(block, cache)
    return total


@pytest.mark.parametrize("architecture, time_conditioning", [(a, a != "diffutran") for a in ARCHITECTURES])
def test_the_bound_by_enumeration_lies_in_the_estimator_s_interval(architecture: str, time_conditioning: bool) -> None:
    model = awake(architecture, time_conditioning=time_conditioning)
    ids = torch.randint(0, MASK, (1, 8), generator=torch.Generator().manual_seed(3))
    exact = enumerated(model, ids, 4).item()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        means = torch.stack(
            [block_nelbo(model, ids.expand(256, -1), MASK, 4, generator=generator).nats.mean() for _ in range(16)]
        )
    error = means.std().item() / 4
    assert abs(means.mean().item() - exact) < 4 * error
    assert error < 0.02 * exact, "or the test says little"


def test_a_uniform_model_costs_exactly_log_v_whatever_is_drawn() -> None:
    class Uniform:
        def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None, **_: object) -> Tensor:
            return torch.zeros(*(ids if positions is None else ids[positions]).shape, VOCABULARY)

    ids = torch.randint(0, MASK, (6, 24))
    for block_length in (1, 3, 8, 24, 0):
        for seed in range(3):
            drawn = block_nelbo(Uniform(), ids, MASK, block_length, generator=torch.Generator().manual_seed(seed))
            assert drawn.loss.item() == pytest.approx(math.log(MASK), rel=1e-6)


def test_every_block_has_the_number_of_masks_drawn_for_it() -> None:
    u = stratified_blocks(64, 4, torch.Generator().manual_seed(0))
    masked = mask_blocks(u, torch.rand(64, 20))
    assert torch.equal(masked.view(64, 4, 5).sum(2), (u * 5).long() + 1)
    assert masked.view(64, 4, 5).sum(2).unique().tolist() == [1, 2, 3, 4, 5]


def test_levels_are_stratified_over_a_step_and_dealt_to_the_blocks_at_random() -> None:
    generator = torch.Generator().manual_seed(0)
    u = stratified_blocks(16, 8, generator)
    assert torch.equal((u.flatten().sort().values * 128).long(), torch.arange(128))
    place = torch.stack([stratified_blocks(16, 8, generator).mean(0) for _ in range(200)])
    assert (place.mean(0) - 0.5).abs().max() < 0.02, "no block of the text gets fewer masks"
    narrow = stratified_blocks(16, 8, generator, mask_rates=(0.45, 0.95))
    assert narrow.min() >= 0.45 and narrow.max() < 0.95
    with pytest.raises(ValueError, match="mask_rates are"):
        stratified_blocks(1, 1, mask_rates=(0.9, 0.1))


def test_the_number_of_masked_positions_may_be_fixed_in_advance() -> None:
    model = awake()
    ids = torch.randint(0, MASK, (4, 12))
    u, noise = stratified_blocks(4, 3), torch.rand(4, 12)
    plain = block_nelbo(model, ids, MASK, 4, u=u, noise=noise)
    fixed = block_nelbo(model, ids, MASK, 4, u=u, noise=noise, max_masked=int(plain.masked) + 5)
    assert fixed.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    assert block_nelbo(model, ids, MASK, 4, u=u, noise=noise, max_masked=int(plain.masked) - 1).loss.isnan()


def test_a_length_that_is_not_whole_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="block_length is 5; it must divide the length, 12, or be 0"):
        block_nelbo(awake(), torch.zeros(1, 12, dtype=torch.int64), MASK, 5)
