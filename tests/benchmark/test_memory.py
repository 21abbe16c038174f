"""Memory: what was taken is seen, what would not fit is refused with the figure."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.benchmark import memory
from diffuapriel.benchmark.memory import PeakMemory, available_bytes, estimate_bytes, format_bytes, refusal
from diffuapriel.config import ARCHITECTURES, preset

SIZE = 64_000_000


def allocate() -> None:
    torch.ones(SIZE // 4).add_(1)  # written to: pages that nobody touches are not resident


def test_a_passing_allocation_is_seen():
    with PeakMemory() as taken:
        allocate()
    assert SIZE * 0.9 <= taken.peak <= SIZE * 1.5


def test_it_is_seen_again_although_it_was_freed_before():
    for _ in range(2):
        with PeakMemory() as taken:
            allocate()
        assert taken.peak >= SIZE * 0.9


def test_nothing_taken_is_next_to_nothing():
    with PeakMemory() as taken:
        pass
    assert taken.peak < SIZE / 8


def test_sampling_sees_it_too_where_the_peak_cannot_be_reset(monkeypatch):
    monkeypatch.setattr(memory, "_can_reset_peak", lambda: False)
    with PeakMemory() as taken:
        allocate()
        held = torch.ones(SIZE // 4)
        torch.mm(torch.ones(256, 256), torch.ones(256, 256))
    assert held.numel()
    assert "sampled" in taken.method
    assert taken.peak >= SIZE * 0.9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_estimate_grows_with_everything(architecture):
    nano, tiny = preset("nano", architecture), preset("tiny", architecture)
    assert estimate_bytes(nano, 2048) == 2 * estimate_bytes(nano, 1024)
    assert estimate_bytes(nano, 1024, batch=3) == 3 * estimate_bytes(nano, 1024)
    assert estimate_bytes(tiny, 1024) > estimate_bytes(nano, 1024)


def test_what_fits_is_not_refused():
    assert refusal(1, "cpu", "a byte") is None
    assert available_bytes() > 1


def test_what_does_not_fit_is_refused_with_both_figures(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_000_000_000)
    assert refusal(800_000_000, "cpu", "x") is None
    said = refusal(2_500_000_000, "cpu", "nano at 99 tokens")
    assert said is not None
    for part in ("nano at 99 tokens needs about 2.5 GB", "1.0 GB is available", "800 MB"):
        assert part in said


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (310e6, "310 MB"), (2.25e9, "2.2 GB")]
)
def test_figures_are_short(count, text):
    assert format_bytes(count) == text
