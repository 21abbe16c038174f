"""The recorder of CUDA graphs, with a stand-in for torch.cuda; tests/gpu holds what it records to the plain path."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from diffuapriel.ops.cudagraph import WARM_UPS, record


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order."""
    events: list[str] = []

    def stream(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, wait_stream=lambda other: events.append(f"{name} waits for {other.name}"))

    @contextmanager
    def capturing(graph: object, pool: object, capture_error_mode: str):
        assert pool is None
        events.append(f"capture, {capture_error_mode}")
        yield

    graph = SimpleNamespace(replay=lambda: events.append("replay"))
    for name, stand_in in {
        "device": lambda device: nullcontext(),
        "Stream": lambda: stream("side"),
        "current_stream": lambda: stream("main"),
        "stream": lambda side: nullcontext(),
        "CUDAGraph": lambda: graph,
        "graph": capturing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return events


def test_a_step_is_warmed_up_on_a_side_stream_captured_and_replayed(log: list[str]) -> None:
    calls = []

    def step() -> int:
        log.append("step")
        calls.append(None)
        return len(calls)

    replay, result = record(step, torch.device("cuda"))
    warm_up = ["side waits for main", *["step"] * WARM_UPS, "main waits for side"]
    assert log == [*warm_up, "capture, thread_local", "step"]
    assert result == WARM_UPS + 1, "the result is the captured call's"
    replay()
    assert log[-1] == "replay" and len(calls) == WARM_UPS + 1


def test_a_step_that_cannot_be_captured_raises(log: list[str]) -> None:
    def step() -> None:
        if "capture, thread_local" in log:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        record(step, torch.device("cuda"))
