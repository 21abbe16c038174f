"""The GPU bench as a whole: parts, one after the other, each kept as soon as a shape is done.

    ceilings    this machine's own matrix rate and copy bandwidth
    forward     the backbone's forward pass over length, three architectures and FlashAttention-2
    generation  whole generations, pure DiffuApriel against DiffuTran
    mixer       our Mamba-2 mixer against mamba_ssm's with flips and the plain one
    training    one update with each backend of the scan
    sampler     the share of a generation that is spent outside the backbone
    memory      peak memory at the longest length

The runner takes a device: on a CPU and a small preset every line of it is tested, the figures mean nothing.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import diffuapriel
from diffuapriel.benchmark.gpu.forward import measure_forward, measure_memory
from diffuapriel.benchmark.gpu.generation import measure_generation, measure_sampler
from diffuapriel.benchmark.gpu.mixer import measure_mixer
from diffuapriel.benchmark.gpu.models import strict_compilation
from diffuapriel.benchmark.gpu.plan import PARTS, GpuPlan
from diffuapriel.benchmark.gpu.results import GpuReport, Machine, Measured
from diffuapriel.benchmark.gpu.training import measure_training
from diffuapriel.benchmark.roofline import measure_ceilings, rates
from diffuapriel.device import device_name

Device = torch.device | str
Say = Callable[[str], None]
NEED_CEILINGS = ("forward", "mixer")  # their figures are held against the ceilings of the same run
MEASURED_CODE = (
    "config.py",
    "diffusion",
    "model",
    "sampling",
    "ops",
    "training",
)  # what the figures depend on


def require_gpu() -> None:
    """Raises RuntimeError, one line, where PyTorch sees no NVIDIA GPU."""
    if not torch.cuda.is_available():
        built = "a CUDA build" if torch.version.cuda else "a CPU build"
        raise RuntimeError(
            f"no NVIDIA GPU answers here (PyTorch {torch.__version__}, {built}), and bench --gpu measures one; "
            "`diffuapriel bench` measures the CPU, `diffuapriel bench --gpu --from FILE` shows figures of elsewhere"
        )


def run_gpu_bench(
    plan: GpuPlan,
    device: Device = "cuda",
    known: GpuReport | None = None,
    *,
    keep: Callable[[GpuReport], None] = lambda report: None,
    say: Say = lambda line: None,
) -> GpuReport:
    """Measure every part of `plan` on `device`; `keep` gets the report after every shape, `say` hears what goes on.

    `known`: a report to go on from, whose parts are kept and whose rows of the same shapes are replaced. Raises
    ValueError when it is of another machine, other versions or another preset.
    """
    code = code_digest()
    report = GpuReport(describe_machine(device), plan.preset, plan.dtype)
    if known:
        check_same(known, report)
        report = known
    parts = set(plan.parts) | ({"ceilings"} if set(plan.parts) & set(NEED_CEILINGS) else set())
    with strict_compilation():
        for part in (name for name in PARTS if name in parts):
            began = time.perf_counter()
            for rows in _measure(part, plan, device, report, say):
                if isinstance(rows, list):
                    report = report.with_rows(part, rows)
                else:
                    report = dataclasses.replace(report, ceilings=rows)
                seconds = round(time.perf_counter() - began, 1)
                done = {**report.measured, part: Measured(seconds, code)}
                report = dataclasses.replace(report, measured=done)
                keep(report)
                _free(device)
    return report


def _measure(part: str, plan: GpuPlan, device: Device, report: GpuReport, say: Say) -> Iterator:
    """What a part yields: lists of rows, shape after shape; the ceilings yield themselves."""
    if part == "ceilings":
        say("ceilings: matrix rate and copy bandwidth")
        yield measure_ceilings(plan, device)
        return
    if part in NEED_CEILINGS:
        assert report.ceilings, "the ceilings are measured first"
        found = rates(report.ceilings)
        yield from {"forward": measure_forward, "mixer": measure_mixer}[part](plan, device, found, say)
        return
    measures = {
        "generation": measure_generation,
        "training": measure_training,
        "sampler": measure_sampler,
        "memory": measure_memory,
    }
    yield from measures[part](plan, device, say)


def check_same(known: GpuReport, now: GpuReport) -> None:
    """Raises ValueError, with the first difference, when two reports' figures must not stand in one table."""
    if known.identity() == now.identity():
        return
    pairs = [
        *(
            (f.name, getattr(known.machine, f.name), getattr(now.machine, f.name))
            for f in dataclasses.fields(Machine)
        ),
        ("preset", known.preset, now.preset),
        ("dtype", known.dtype, now.dtype),
    ]
    name, old, new = next(pair for pair in pairs if pair[1] != pair[2])
    raise ValueError(
        f"the figures kept so far have {name} {old!r}, this run {new!r}; give another --json file, or remove that one"
    )


def describe_machine(device: Device) -> Machine:
    """The device and the versions of everything that computes."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    cudnn = torch.backends.cudnn.version() if on_gpu else None
    return Machine(
        device=device_name(device),
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_gpu else 0,
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        cudnn=str(cudnn or ""),
        triton=_version("triton"),
        mamba_ssm=_version("mamba-ssm"),
        causal_conv1d=_version("causal-conv1d"),
        python=platform.python_version(),
    )


def code_digest() -> str:
    """Twelve hexadecimal digits that change with the code that is measured."""
    root = Path(diffuapriel.__file__).parent
    files = [
        file
        for name in MEASURED_CODE
        for file in ([root / name] if "." in name else (root / name).rglob("*.py"))
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _free(device: Device) -> None:
    """Give back what the last shape held: its graphs, its activations, the allocator's reserve."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
