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
from diffuapriel.benchmark.timing import duel
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


def test_contestants_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    result = duel(lambda: calls.append("A"), lambda: calls.append("B"), repeats=3, warmup=1)
    assert "".join(calls) == "AB" + "ABBAAB"
    assert result.repeats == 3
    assert result.ratio_min <= result.ratio <= result.ratio_max
    assert result.ours.min_ms <= result.ours.median_ms <= result.ours.max_ms


@pytest.mark.parametrize("options", [{"repeats": 0}, {"warmup": 0}])
def test_a_duel_without_rounds_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        duel(lambda: None, lambda: None, **options)


def test_a_small_comparison_runs_from_end_to_end() -> None:
    result = compare_scans(batch=1, length=128, heads=2, headdim=8, state=8, repeats=2)
    assert result.against_listing.ratio > 0 and result.against_shared.ratio > 0
    assert result.target == 1.7
