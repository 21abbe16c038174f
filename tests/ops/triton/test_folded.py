"""The kernels of a folded pass: forward and gradients of the plain code in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.config import ModelConfig
from diffuapriel.model.blocks import BlockPass, MambaCache
from diffuapriel.model.mamba2 import BidirectionalMamba2, block_convolution
from diffuapriel.ops.triton.folded import convolve_blocks, gate
from tests.gpu.parity import relative_error

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: tests/gpu runs the full grid"),
]
TOLERANCE = 1e-5  # relative to the largest value, float32


@pytest.mark.parametrize(
    "block_length, length, taps", [(1, 5, 4), (2, 8, 4), (3, 66, 4), (16, 80, 4), (17, 136, 3), (64, 64, 4), (4, 8, 1)]
)
def test_the_convolution_of_a_folded_pass_and_its_gradients(block_length: int, length: int, taps: int) -> None:
    torch.manual_seed(length)
    texts, channels = 2, 48
    rows = torch.randn(2 * texts, length, 2, channels + 12)  # the channels lie among others
    given = [rows[..., 5 : 5 + channels], torch.randn(2, taps, channels), torch.randn(2, channels)]
    given.append(torch.randn(texts, taps - 1, channels))
    given = [v.detach().requires_grad_() for v in given]
    exact = [v.detach().double().requires_grad_() for v in given]
    found = convolve_blocks(*given, block_length)
    truth = F.silu(block_convolution(*exact, block_length=block_length, streams=2)[0])
    assert relative_error(found, truth) < TOLERANCE
    weight = torch.randn_like(found)
    got = torch.autograd.grad((found * weight).sum(), given)
    expected = torch.autograd.grad((truth * weight).sum(), exact)
    for one, wanted in zip(got, expected, strict=True):
        assert not wanted.numel() or relative_error(one, wanted) < TOLERANCE


@pytest.mark.parametrize("length, channels", [(1, 16), (65, 96)])
def test_gate_and_norm_and_their_gradients(length: int, channels: int) -> None:
    torch.manual_seed(length)
    z = torch.randn(2, length, 2, channels + 12)[..., 5 : 5 + channels]
    given = [v.detach().requires_grad_() for v in (torch.randn(2, length, 2, channels), z, torch.randn(2, channels))]
    exact = [v.detach().double().requires_grad_() for v in given]
    gated = exact[0] * F.silu(exact[1])
    truth = (gated * exact[2]).permute(2, 0, 1, 3), gated.square().sum(3).permute(2, 0, 1)
    found = gate(*given)
    weights = [torch.randn_like(v) for v in found]
    expected = torch.autograd.grad(sum((v * w).sum() for v, w in zip(truth, weights, strict=True)), exact)
    got = torch.autograd.grad(sum((v * w).sum() for v, w in zip(found, weights, strict=True)), given)
    for one, wanted in (*zip(found, truth, strict=True), *zip(got, expected, strict=True)):
        assert relative_error(one, wanted) < TOLERANCE


@pytest.mark.parametrize(
    "block_length, length, noisy_only",
    [(1, 5, False), (3, 66, False), (4, 12, True), (16, 80, True), (17, 34, False), (64, 128, False), (65, 130, True)],
)
def test_the_mixer_of_a_folded_pass_and_its_gradients(block_length: int, length: int, noisy_only: bool) -> None:
    """From a state and a history that are not zero; the plain mixer in float64 scans by the recurrence."""
    torch.manual_seed(length)
    config = ModelConfig("diffuapriel", d_model=32, depth=1, headdim=16, d_state=16, n_groups=2)
    ours = BidirectionalMamba2(config, backend="triton")
    for weight in (ours.D, ours.norm_weight, ours.conv_bias):
        weight.data.normal_()
    exact = copy.deepcopy(ours).double()
    exact.backend = "recurrent"
    shapes = (1, config.n_heads, 16, 16), (1, 3, config.d_inner + 64), (2, length, 32)
    given = [torch.randn(shape) for shape in shapes]
    over = BlockPass(block_length, length, torch.zeros(1, dtype=torch.int64), True, 2, noisy_only=noisy_only)
    found = []
    for mixer in (exact, ours):
        state, history, u = (v.to(mixer.D.dtype).requires_grad_() for v in given)
        y, after = mixer.forward_blocks(u, over, MambaCache(state, history))
        assert len(y) == (1 if noisy_only else 2)
        generator = torch.Generator().manual_seed(0)
        results = [y, after.state, after.history]
        loss = sum((v * torch.randn(v.shape, generator=generator)).sum() for v in results)
        found.append(results + list(torch.autograd.grad(loss, [state, history, u, *mixer.parameters()])))
    for wanted, got in zip(*found, strict=True):
        assert relative_error(got, wanted) < TOLERANCE
