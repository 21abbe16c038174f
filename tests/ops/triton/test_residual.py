"""The kernel between two products, and the pass that consists of kernels and products, against the plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.layers import EPS, modulate, rms_norm
from diffuapriel.ops import residual
from diffuapriel.ops.residual import Added, add_norm, split_product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("d_model", [32, 48])
@pytest.mark.parametrize("directions", [0, 1, 2])
@pytest.mark.parametrize("parts", [0, 1, 2, 4])
def test_sum_and_norm_are_those_of_the_plain_block(parts: int, directions: int, d_model: int) -> None:
    if directions and (not parts or parts % directions):
        pytest.skip("parts are whole numbers of directions")
    torch.manual_seed(parts)
    rows, length, heads, inner = 2, 3, 5, 80
    x, weight = torch.randn(rows, length, d_model, device=DEVICE), torch.randn(d_model, device=DEVICE)
    gate, shift, scale = torch.randn(rows, 1, 3 * d_model, device=DEVICE).chunk(3, dim=-1)
    y = torch.randn(parts, rows, length, d_model, device=DEVICE)
    squares = torch.rand(directions, rows, length, heads, device=DEVICE)
    added = Added(y, squares if directions else None, gate, inner) if parts else Added()
    after, u = add_norm(x, weight, shift, scale, added, EPS)
    exact = y.double()
    if directions:
        norm = torch.rsqrt(squares.double().sum(3) / inner + EPS)
        exact = exact * norm.repeat_interleave(parts // directions, 0)[..., None]
    expected = x.double() + gate.double() * exact.sum(0)
    torch.testing.assert_close(after.double(), expected, atol=1e-5, rtol=1e-5)
    plain = modulate(rms_norm(expected, weight.double()), shift.double(), scale.double())
    torch.testing.assert_close(u.double(), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length, parts", [(6, residual.PARTS), (residual.FEW_ROWS, 1)])
def test_the_parts_of_a_product_add_up_to_it(length: int, parts: int) -> None:
    x, weight = torch.randn(2, length, 32, dtype=torch.float64), torch.randn(5, 32, dtype=torch.float64)
    found = split_product(x, weight)
    assert len(found) == parts
    torch.testing.assert_close(found.sum(0), F.linear(x, weight))


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pass_of_kernels_is_the_plain_pass(architecture: str, reverse: bool, monkeypatch) -> None:
    """Rows of different age, one of which is committed: hidden states, and all of the cache."""
    if architecture == "diffutran" and not reverse:
        pytest.skip("it has no scan")
    monkeypatch.setenv("DIFFUAPRIEL_SSD", "triton")
    shape = {"d_model": 32, "depth": 2, "headdim": 16, "d_state": 16, "attention_headdim": 16, "cond_dim": 8}
    shape |= {"attention_every": 1, "edge_embedding": True, "block_reverse": reverse}
    torch.manual_seed(0)
    model = Denoiser(ModelConfig(architecture, vocab_size=20, block_lengths=(4,), **shape)).to(DEVICE).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    text, sigma = torch.randint(19, (2, 12), device=DEVICE), torch.rand(2, device=DEVICE)
    commit, results = torch.tensor([True, False], device=DEVICE), []
    with torch.no_grad():
        long = model.commit(text[1:, :8], model.empty_cache(1), 4)
        for takes in (False, True):
            monkeypatch.setattr(residual, "takes", lambda weight, takes=takes: takes)
            cache = model.empty_cache(2, 16)
            cache.set_rows(torch.tensor([1], device=DEVICE), long)
            x = model.hidden_in_place(text[:, 8:], sigma, cache, commit)
            results.append([x, cache.lengths, *(v for layer in cache.layers for v in vars(layer).values())])
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, atol=2e-5, rtol=2e-5)
