"""The opponent of the scan's bench computes what we compute, and both are timed alike."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.benchmark.cpu.scan import (
    compare_scans,
    largest_difference,
    minimal_bidirectional,
    scan_inputs,
    segsum,
    ssd_minimal_discrete,
)
from diffuapriel.benchmark.report import BenchReport, Machine
from diffuapriel.benchmark.targets import targets
from diffuapriel.ops.ssd import ssd, ssd_bidirectional


def test_segsum_sums_every_segment() -> None:
    a = torch.tensor([1.0, 2.0, 4.0])
    sums = segsum(a)
    assert sums.tril().tolist() == [[0, 0, 0], [2, 0, 0], [6, 4, 0]]
    assert torch.isinf(sums[0, 1]) and sums[0, 1] < 0


def test_the_listing_is_the_recurrence() -> None:
    inputs = {name: tensor.double() for name, tensor in scan_inputs(2, 12, 3, 4, 5).items()}
    x, dt, B, C = (inputs[name][:, :, 0] for name in ("x", "dt", "B", "C"))
    A = inputs["A"][0]
    listed = ssd_minimal_discrete(x * dt[..., None], dt * A, B, C, chunk=4)
    torch.testing.assert_close(listed, ssd(x, dt, A, B, C, backend="recurrent"))


@pytest.mark.parametrize("repeat", [True, False])
def test_the_listing_with_flips_is_our_bidirectional_scan(repeat: bool) -> None:
    inputs = {name: tensor.double() for name, tensor in scan_inputs(2, 16, 3, 4, 5).items()}
    arguments = [inputs[name] for name in ("x", "dt", "A", "B", "C")]
    torch.testing.assert_close(
        minimal_bidirectional(*arguments, chunk=8, repeat=repeat),
        ssd_bidirectional(*arguments, backend="recurrent"),
    )


def test_outputs_and_gradients_are_held_together_before_the_clock_starts() -> None:
    assert largest_difference(scan_inputs(2, 128, 2, 8, 8)) < 1e-5


def test_a_length_that_the_chunk_does_not_divide_is_refused() -> None:
    x = torch.zeros(1, 10, 1, 2)
    with pytest.raises(ValueError, match="length 10 is not a multiple of the listing's chunk, 64"):
        ssd_minimal_discrete(x, x[..., 0], x[:, :, 0], x[:, :, 0])


def test_a_small_comparison_runs_from_end_to_end() -> None:
    ours, listing, shared = compare_scans(batch=1, length=128, heads=2, headdim=8, state=8, repeats=2)
    assert ours.over(listing).median > 0 and ours.over(shared).median > 0
    assert max(listing.error, shared.error) < 1e-4
    machine = Machine("a processor")
    (target, *_) = targets(BenchReport(machine, "nano", "float32", "cpu", scan=(ours, listing, shared)))
    assert target.target == "1.7x" and target.measured
