"""The scans over blocks equal the recurrence, block after block, in float64: outputs, states and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffuapriel.ops.block_scan import by_block, scan
from diffuapriel.ops.chunked import chunk_length
from diffuapriel.ops.recurrent import ScanInputs

CHUNK = chunk_length(torch.device("cpu"))
BLOCKS = (1, 3, 15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 4 * CHUNK + 1)


def make_inputs(texts: int, length: int, streams: int, dtype: torch.dtype = torch.float64) -> ScanInputs:
    """x, dt, A, B, C, D and a state that is not zero, two groups of two heads."""
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    rows, (h, p, g, n) = texts * streams, (4, 5, 2, 6)
    inputs = [draw(rows, length, 2, h, p), draw(rows, length, 2, h).sigmoid(), -draw(2, h).exp()]
    inputs += [draw(rows, length, 2, g, n), draw(rows, length, 2, g, n), draw(2, h), draw(texts, h, p, n)]
    return ScanInputs(*(v.requires_grad_() for v in inputs))


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("block_length", BLOCKS)
def test_the_scan_over_blocks_is_the_recurrence(block_length: int, streams: int) -> None:
    inputs = make_inputs(2, block_length * (2 if block_length > CHUNK else 5), streams)
    found = scan(inputs, block_length=block_length, streams=streams)
    expected = by_block(inputs, block_length=block_length, streams=streams, backend="recurrent")
    weights = [torch.randn_like(v) for v in found]
    gradients = [
        torch.autograd.grad(sum((v * w).sum() for v, w in zip(result, weights)), inputs) for result in (found, expected)
    ]
    for got, wanted in (*zip(found, expected), *zip(*gradients)):
        assert (got - wanted).abs().max() < 1e-12 * (1 + wanted.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_decays_and_states_in_float32(dtype: torch.dtype) -> None:
    inputs = ScanInputs(*(v.detach() for v in make_inputs(2, 96, 2)))
    lower = ScanInputs(*(v.to(dtype) if i in (0, 3, 4) else v.float() for i, v in enumerate(inputs)))
    y, state = scan(lower, block_length=16, streams=2)
    exact, exact_state = scan(inputs, block_length=16, streams=2)
    assert y.dtype == dtype and state.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (y.double() - exact).abs().max() < tolerance * exact.abs().max()
    assert (state.double() - exact_state).abs().max() < tolerance * exact_state.abs().max()


def test_large_decays_do_not_overflow() -> None:
    inputs = ScanInputs(*(v.detach().float() for v in make_inputs(1, 64, 2)))
    inputs = inputs._replace(A=inputs.A * 1e4)
    for value in scan(inputs, block_length=16, streams=2):
        assert value.isfinite().all()


def test_lengths_and_rows_that_do_not_fit_are_refused() -> None:
    inputs = make_inputs(2, 10, 1)
    with pytest.raises(ValueError, match="length is 10; it must be a multiple of block_length, 4"):
        scan(inputs, block_length=4)
    with pytest.raises(ValueError, match="2 rows are not 2 streams of 2 texts"):
        scan(inputs, block_length=5, streams=2)
