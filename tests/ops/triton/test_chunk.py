"""The masked product of a chunk, the scan over blocks on it, and the mixer of a short text: forward and gradients of
the plain code in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.ops.block_scan import _weigh, by_block, scan
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton import chunk
from diffuapriel.ops.triton.masked_product import MASKS, masked_product
from diffuapriel.ops.triton.mixer import mixer
from tests.gpu.parity import poison, relative_error
from tests.ops.triton.test_backward import TOLERANCE as MIXER_TOLERANCE
from tests.ops.triton.test_backward import plain_mixer, toward

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: tests/gpu runs the full grid"),
]
TOLERANCE = 1e-5  # relative to the largest value, float32


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("more", [False, True], ids=["alone", "with D and H"])
@pytest.mark.parametrize("q, block_length", [(64, 16), (48, 3), (34, 17), (8, 1)])
def test_the_masked_product_and_its_gradients(mask: str, q: int, block_length: int, more: bool) -> None:
    torch.manual_seed(q)
    b, c, g, h, p, n = 2, 2, 2, 3, 16, 16
    rows = torch.randn(b, c, q, 2, g * (2 * n + h * p))  # all of a token in one row, as a convolution leaves them
    C, B, x = rows[:, :, :, 1].split([g * n, g * n, g * h * p], dim=-1)
    C, B = (v.unflatten(-1, (g, n)).movedim(2, 3) for v in (C, B))
    x = x.unflatten(-1, (g, h, p)).movedim(2, 4)
    r = -torch.rand(b, c, g, h, q).cumsum(-1)
    s = -torch.rand(b, c, g, h, q).cumsum(-1)
    if mask == "ahead in block":
        r, s = r.flip(-1), s.flip(-1)
    D, H = torch.randn(g, h), torch.randn(b, c, g, h, p, n)
    given = [v.detach().requires_grad_() for v in (C, B, x, r, s, *((D, H) if more else ()))]
    exact = [v.detach().double().requires_grad_() for v in given]
    y, truth = (
        product(*v[:5], mask, block_length, **dict(zip("DH", v[5:])))
        for product, v in ((masked_product, given), (_weigh, exact))
    )
    assert relative_error(y, truth) < TOLERANCE
    weight = torch.randn_like(y)
    found = torch.autograd.grad((y * weight).sum(), given)
    expected = torch.autograd.grad((truth * weight).sum(), exact)
    for got, wanted in zip(found, expected, strict=True):
        assert relative_error(got, wanted) < TOLERANCE


@pytest.mark.parametrize("block_length, length", [(1, 65), (16, 80), (3, 66), (64, 128)])
def test_a_folded_scan_is_the_recurrence(block_length: int, length: int, monkeypatch) -> None:
    """Clean and corrupted rows from a state that is not zero; every masked product is the kernel's."""
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    texts, (h, p, g, n) = 1, (4, 16, 2, 16)
    inputs = [draw(2 * texts, length, 2, h, p), draw(2 * texts, length, 2, h).sigmoid(), -draw(2, h).exp()]
    inputs += [draw(2 * texts, length, 2, g, n) / 4 for _ in range(2)]
    inputs += [draw(2, h), draw(texts, h, p, n)]
    ours = ScanInputs(*(v.requires_grad_() for v in inputs))
    exact = ScanInputs(*(v.detach().double().requires_grad_() for v in inputs))
    calls, forward = [], chunk.forward
    monkeypatch.setattr(chunk, "forward", lambda *given: calls.append(given[7]) or forward(*given))
    found = scan(ours, block_length=block_length, streams=2, backend="triton")
    assert sorted(calls) == [0, 1, 2, 3]
    expected = by_block(exact, block_length=block_length, streams=2, backend="recurrent")
    weights = [torch.randn_like(v) for v in found]
    got = torch.autograd.grad(sum((v * w).sum() for v, w in zip(found, weights, strict=True)), ours)
    truth = torch.autograd.grad(sum((v * w).sum() for v, w in zip(expected, weights, strict=True)), exact)
    for one, wanted in (*zip(found, expected, strict=True), *zip(got, truth, strict=True)):
        assert relative_error(one, wanted) < TOLERANCE


def test_a_later_block_changes_no_bit() -> None:
    torch.manual_seed(0)
    x, dt = torch.randn(2, 64, 2, 2, 16), torch.rand(2, 64, 2, 2)
    B, C = torch.randn(2, 64, 2, 1, 16), torch.randn(2, 64, 2, 1, 16)
    rest = -torch.ones(2, 2), B, C, torch.ones(2, 2), torch.zeros(1, 2, 16, 16)
    changed = x.clone()
    changed[:, 32:] += torch.randn(2, 32, 2, 2, 16)
    before, after = (
        scan(ScanInputs(v, dt, *rest), block_length=16, streams=2, backend="triton")[0] for v in (x, changed)
    )
    assert torch.equal(before[:, :32], after[:, :32]) and not torch.equal(before, after)


@pytest.mark.parametrize(
    ("length", "groups"), [(1, 1), (3, 2), (16, 1), (63, 2), (64, 1), (65, 2), (100, 1), (128, 2)], ids=str
)
def test_the_mixer_of_a_short_text_and_its_gradients(length: int, groups: int) -> None:
    torch.manual_seed(length)
    sizes = heads, _, headdim, state = 2 * groups, groups, 16, 16
    inner, channels = heads * headdim, heads * headdim + 2 * groups * state
    given = [torch.randn(2, length, 2, inner + channels + heads)]
    given += [torch.randn(2, 4, channels) / 2, torch.randn(2, channels) / 2, torch.randn(2, heads) - 1]
    given += [torch.randn(2, heads), torch.randn(2, heads), torch.randn(2, inner)]
    given = [v.requires_grad_() for v in given]
    exact = [v.detach().double().requires_grad_() for v in given]
    expected = plain_mixer(*exact[:4], -torch.exp(exact[4]), *exact[5:], sizes)[:2]
    outer = [toward(expected[0]), torch.randn_like(expected[1]) / 10]
    poison([v.detach() for v in given])
    found = mixer(given[0].flatten(2), *given[1:], groups=groups)
    got = torch.autograd.grad(found, given, [v.float() for v in outer])
    truth = torch.autograd.grad(expected, exact, outer)
    largest = max(v.abs().max().item() for v in truth)
    for one, wanted in (*zip(found, expected, strict=True), *zip(got, truth, strict=True)):
        if wanted.abs().max() > 1e-12 * largest:  # a single token has no use for A
            assert relative_error(one, wanted) < MIXER_TOLERANCE[torch.float32]
        else:
            assert one.abs().max() < 1e-6 * largest
