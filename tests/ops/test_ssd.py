"""Which backend a call takes: by the tensors, by name, by what is installed; and what is said about it."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from diffuapriel.ops import mamba_ssm
from diffuapriel.ops import ssd as dispatch
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.ssd import BACKENDS, choose_backend, ssd, ssd_bidirectional
from diffuapriel.ops.triton import autograd, launch

CPU = torch.zeros(1)


def on_cuda(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Something with a tensor's device and dtype: no CUDA device is needed to choose for one."""
    return cast(Tensor, SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    """A process that has not chosen yet."""
    monkeypatch.delenv("DIFFUAPRIEL_SSD", raising=False)
    dispatch._resolved_once.cache_clear()
    dispatch._log_once.cache_clear()
    yield
    dispatch._resolved_once.cache_clear()


def machine_with(monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
    """A machine on which of the CUDA backends only `runs` can run; `torch.empty` serves for a CUDA device."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device=None, **options: empty(*size, **options))

    def say(name: str) -> Any:
        return lambda *call: None if name in runs else f"{name} is not installed (make gpu)"

    monkeypatch.setattr(launch, "unsupported_reason", say("triton"))
    monkeypatch.setattr(mamba_ssm, "unsupported_reason", say("mamba_ssm"))


def test_the_five_backends_have_their_names() -> None:
    assert list(BACKENDS) == ["recurrent", "chunked", "minimal", "mamba_ssm", "triton"]


@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_without_cuda_the_plain_chunked_scan_runs(device: str) -> None:
    tensor = cast(Tensor, SimpleNamespace(device=torch.device(device), dtype=torch.float32))
    assert choose_backend("auto", tensor, 64, 128) == "chunked"


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        (("triton", "mamba_ssm"), "triton"),
        (("triton",), "triton"),
        (("mamba_ssm",), "mamba_ssm"),
        ((), "chunked"),
    ],
)
def test_on_cuda_the_fastest_that_can_run_is_taken(
    monkeypatch: pytest.MonkeyPatch, runs: tuple[str, ...], chosen: str
) -> None:
    machine_with(monkeypatch, *runs)
    assert choose_backend("auto", on_cuda(), 64, 128) == chosen


def test_float64_goes_to_the_chunked_scan_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine_with(monkeypatch)
    assert choose_backend("auto", on_cuda(torch.float64), 64, 128) == "chunked"
    assert not caplog.records


def test_what_is_missing_is_said_once_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine_with(monkeypatch)
    with caplog.at_level(logging.WARNING):
        for state in (64, 128):
            for dtype in (torch.bfloat16, torch.float32):
                choose_backend("auto", on_cuda(dtype), 64, state)
    (record,) = caplog.records
    line = record.getMessage()
    assert "\n" not in line
    assert line.startswith("the scan runs on SSD backend 'chunked'")
    assert "triton is not installed (make gpu)" in line and "mamba_ssm is not installed (make gpu)" in line


def test_nothing_is_said_when_the_fastest_runs_or_there_is_no_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine_with(monkeypatch, "triton")
    choose_backend("auto", on_cuda(), 64, 128)
    choose_backend("auto", CPU, 64, 128)
    assert not caplog.records


@pytest.mark.parametrize("name", ["mamba_ssm", "triton"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_forced_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    machine_with(monkeypatch)
    if how == "environment":
        monkeypatch.setenv("DIFFUAPRIEL_SSD", name)
    with pytest.raises(ValueError, match=rf"'{name}' cannot run: {name} is not installed \(make gpu\)"):
        choose_backend(name if how == "argument" else "auto", on_cuda(), 64, 128)


def test_a_forced_backend_goes_before_a_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, "triton", "mamba_ssm")
    monkeypatch.setenv("DIFFUAPRIEL_SSD", "mamba_ssm")
    assert choose_backend("auto", on_cuda(), 64, 128) == "mamba_ssm"
    assert choose_backend("chunked", on_cuda(), 64, 128) == "chunked", "the argument goes before the environment"
    monkeypatch.setenv("DIFFUAPRIEL_SSD", "")
    assert choose_backend("auto", on_cuda(), 64, 128) == "triton"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_the_old_name_of_mamba_ssm_is_accepted(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    machine_with(monkeypatch, "mamba_ssm")
    if how == "environment":
        monkeypatch.setenv("DIFFUAPRIEL_SSD", "official")
    assert choose_backend("official" if how == "argument" else "auto", on_cuda(), 64, 128) == "mamba_ssm"
    machine_with(monkeypatch)
    dispatch._resolved_once.cache_clear()
    with pytest.raises(ValueError, match="'mamba_ssm' cannot run: mamba_ssm is not installed"):
        choose_backend("official" if how == "argument" else "auto", on_cuda(), 64, 128)


def test_a_forced_backend_gets_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, "triton")
    monkeypatch.setattr(autograd, "scan", lambda inputs, reverse: (inputs.x + 1, inputs.initial_state))
    x, dt, A, B = torch.zeros(2, 5, 4, 16), torch.ones(2, 5, 4), -torch.ones(4), torch.ones(2, 5, 1, 16)
    assert (ssd(x, dt, A, B, B, backend="triton") == 1).all()


def test_the_real_reasons_name_the_way_out() -> None:
    for name in ("mamba_ssm", "triton"):
        assert dispatch.unsupported_reason(name, CPU.double(), 64, 128), "no CUDA, no Triton, or no float64"
    assert dispatch.unsupported_reason("chunked", CPU.double(), 64, 128) is None
    with pytest.raises(ValueError, match=r"SSD backend 'triton' cannot run: .*24"):
        autograd.scan(ScanInputs(*(torch.zeros(1, 1, 1, 1, 24),) * 7), reverse=(False,))


def test_the_report_has_a_line_for_every_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, "triton")
    assert dispatch.report(CPU) == [
        "SSD backend recurrent  runs",
        "SSD backend chunked    runs",
        "SSD backend minimal    runs",
        "SSD backend mamba_ssm  mamba_ssm is not installed (make gpu)",
        "SSD backend triton     runs",
    ]


def test_compiled_calls_are_one_graph() -> None:
    def call(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
        y = ssd_bidirectional(x, dt, A, B, B)
        assert isinstance(y, Tensor)
        return y

    x, dt, A, B = (
        torch.randn(1, 9, 2, 2, 8),
        torch.rand(1, 9, 2, 2),
        -torch.rand(2, 2),
        torch.randn(1, 9, 2, 1, 8),
    )
    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x, dt, A, B), call(x, dt, A, B), atol=1e-6)


def test_the_choice_is_a_constant_of_a_compiled_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm, "unsupported_reason", lambda x: None)

    def call(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 16))  # as the model does: lengths may vary, sizes of heads are numbers
        return x * len(choose_backend("mamba_ssm", heads, heads.shape[-1], 16))

    compiled = torch.compile(call, backend="eager", fullgraph=True, dynamic=True)
    assert (compiled(torch.ones(3, 5, 32)) == len("mamba_ssm")).all()


def test_a_laptop_needs_none_of_the_gpu_packages() -> None:
    code = (
        "import sys\n"
        "for name in ('triton', 'mamba_ssm', 'causal_conv1d', 'einops'): sys.modules[name] = None\n"
        "import torch\n"
        "from diffuapriel.ops.ssd import ssd\n"
        "ssd(torch.ones(1, 3, 2, 4), torch.ones(1, 3, 2), -torch.ones(2), *[torch.ones(1, 3, 1, 4)] * 2)\n"
        "try: ssd(*[torch.ones(1, 3, 2, 4), torch.ones(1, 3, 2), -torch.ones(2)], *[torch.ones(1, 3, 1, 4)] * 2,"
        " backend='triton')\n"
        "except ValueError as problem: print(problem)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Triton is not installed" in done.stdout
