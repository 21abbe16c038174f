"""The backward kernels where only a GPU shows it: the same bits twice, offsets beyond 2^31, roundings at full size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffuapriel.ops.chunked import scan as plain_scan
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton import autograd as fused
from diffuapriel.ops.triton.mixer import mixer
from tests.gpu.parity import TOLERANCE, outer_gradient, poison, relative_error

BOTH = (False, True)
HEADS, HEADDIM, STATE = 64, 64, 128  # of the 1.3b preset
INNER, CHANNELS = HEADS * HEADDIM, HEADS * HEADDIM + 2 * STATE


def mixer_call(length: int, device: torch.device, batch: int = 1) -> list[Tensor]:
    """projected and the six parameters of `mixer`, requiring gradients."""
    projected = torch.randn(batch, length, 2 * (INNER + CHANNELS + HEADS), device=device, dtype=torch.bfloat16)
    sizes = ((2, 4, CHANNELS), (2, CHANNELS), (2, HEADS), (2, HEADS), (2, HEADS), (2, INNER))
    return [v.requires_grad_() for v in (projected, *(torch.randn(s, device=device) / 2 for s in sizes))]


@pytest.mark.parametrize("length", [64, 128, 200, 1024])
def test_the_same_call_gives_the_same_bits(length: int, device: torch.device) -> None:
    call = mixer_call(length, device, batch=2)
    runs = []
    for _ in range(2):
        poison(call)
        outputs = mixer(*call)
        runs.append(torch.autograd.grad(outputs, call, [torch.ones_like(v) for v in outputs]))
    for first, second in zip(*runs, strict=True):
        assert first.isfinite().all() and torch.equal(first, second)


@pytest.mark.parametrize("length", [1000, 2048])
def test_gradients_at_full_size_stay_close_to_float64(length: int, device: torch.device, record) -> None:
    """A strong decay and a gradient that leans on y: a token's own terms are large and must cancel exactly."""
    x = torch.randn(1, length, 2, HEADS, HEADDIM, device=device, dtype=torch.bfloat16)
    B, C = torch.randn(2, 1, length, 2, 1, STATE, device=device).bfloat16()
    dt = torch.rand(1, length, 2, HEADS, device=device) / 2 + 0.1
    A = -8 - 8 * torch.rand(2, HEADS, device=device)
    D, start = torch.randn(2, HEADS, device=device), torch.randn(1, 2, HEADS, HEADDIM, STATE, device=device)
    inputs = [v.requires_grad_() for v in (x, dt, A, B, C, D, start)]
    exact = [v.detach().double().requires_grad_() for v in inputs]
    outputs, expected = fused.scan(ScanInputs(*inputs), BOTH), plain_scan(ScanInputs(*exact), BOTH)
    outer = [outer_gradient(v.detach(), w.dtype) for v, w in zip(expected, outputs)]
    truth = torch.autograd.grad(expected, exact, [v.double() for v in outer])
    got = torch.autograd.grad(outputs, inputs, outer)
    names = ("x", "dt", "A", "B", "C", "D", "state")
    errors = {f"gradient of {n}": relative_error(g, t) for n, g, t in zip(names, got, truth)}
    record("triton bfloat16", f"own terms, 1x{length} h{HEADS}", errors)
    assert all(e <= TOLERANCE[torch.bfloat16] for e in errors.values()), errors


def test_a_text_of_more_than_2_to_the_31_numbers(device: torch.device) -> None:
    """The decay forgets within a token, so the end of a long text is that of a short one."""
    if torch.cuda.mem_get_info(device)[0] < 60e9:
        pytest.skip("needs 60 GB of the device's memory")
    length, last = 131_072, 2048
    long = mixer_call(length, device)
    assert long[0].numel() > 2**31
    with torch.no_grad():
        long[3].fill_(3)  # dt_bias
        long[4].fill_(3)  # A_log
    ends = []
    for projected in (long[0], long[0].detach()[:, -last:].clone().requires_grad_()):
        g, squares = mixer(projected, *(v.detach() for v in long[1:]))
        gradient = torch.autograd.grad(g.float().square().sum() + squares.sum(), projected)[0]
        ends.append((g[:, :, 64 - last :].clone(), gradient[:, 64 - last :].clone()))
        del g, squares, gradient
    for end_of_long, end_of_short in zip(*ends, strict=True):
        assert relative_error(end_of_long, end_of_short.double()) <= TOLERANCE[torch.bfloat16]
