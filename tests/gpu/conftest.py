"""Tests of what only a CUDA device can run: `make test-gpu`, or `pytest tests/gpu -m gpu`.

Without a device they are skipped in one line. The errors that they record are listed at the end, worst first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
NO_DEVICE = "no CUDA device; on a machine with an NVIDIA GPU: make gpu, then make test-gpu"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "xdist_group(name): with --dist loadgroup, a group stays in one process")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if not torch.cuda.is_available():
        pytest.skip(NO_DEVICE)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The CUDA device; mamba_ssm's kernels get one configuration each, or they would be tuned for every shape."""
    from diffuapriel.ops import mamba_ssm

    os.environ["MAMBA_DETERMINISTIC"] = "1"  # read while its modules are imported; the kernels are the usual ones
    try:
        mamba_ssm._load()
    finally:
        del os.environ["MAMBA_DETERMINISTIC"]
    return torch.device("cuda")


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[[str, str, dict[str, float]], None]:
    """`record(backend, case, errors)`: one line of the list at the end."""

    def add(backend: str, case: str, errors: dict[str, float]) -> None:
        record_property("errors", (backend, case, errors))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The largest error of every case, and of every backend; NaN is the largest of all."""
    lines = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "errors":
                    backend, case, errors = value
                    tensor = max(errors, key=lambda t: _rank(errors[t]))
                    lines.append((backend, errors[tensor], tensor, case))
    if not lines:
        return
    terminalreporter.section("relative errors")
    lines.sort(key=lambda line: (line[0], -_rank(line[1])))
    for backend, error, tensor, case in lines:
        terminalreporter.write_line(f"{error:8.1e}  {backend:22} {tensor:14} {case}")
    for worst in {line[0]: line for line in reversed(lines)}.values():
        terminalreporter.write_line(f"worst of {worst[0]}: {worst[1]:.1e}, {worst[2]} at {worst[3]}")
    if torch.cuda.is_available():
        from diffuapriel.ops.ssd import report as backends

        for line in backends(torch.empty(0, device="cuda")):
            terminalreporter.write_line(line)


def _rank(error: float) -> float:
    return error if error == error else float("inf")
