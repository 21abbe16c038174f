"""Run a bench part by part; `diffuapriel bench --help` says what each part measures.

The GPU's parts take any device: tests run them on a CPU with a small preset, where the figures mean nothing.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import diffuapriel
from diffuapriel.benchmark.cpu.blocks import measure_blocks
from diffuapriel.benchmark.cpu.memory import measure_memory as measure_cpu_memory
from diffuapriel.benchmark.cpu.scan import measure_scan
from diffuapriel.benchmark.cpu.training import measure_training as measure_cpu_training
from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.generation import race
from diffuapriel.benchmark.gpu.blocks import measure_blocks as measure_gpu_blocks
from diffuapriel.benchmark.gpu.mixer import measure_mixer
from diffuapriel.benchmark.gpu.models import strict_compilation
from diffuapriel.benchmark.gpu.passes import (
    measure_forward,
    measure_generation,
    measure_memory,
    measure_sampler,
)
from diffuapriel.benchmark.gpu.training import measure_folded, measure_training
from diffuapriel.benchmark.plan import DIFFUTRAN, PURE, Bench, BenchPlan
from diffuapriel.benchmark.report import BenchReport, Machine, Measured, SamplerRow
from diffuapriel.benchmark.roofline import MeasuredPeaks, measure_peaks
from diffuapriel.benchmark.sweep import SweepResult, sweep
from diffuapriel.checkpoint import bundled
from diffuapriel.device import device_name

NEED_PEAKS = {"forward", "mixer", "blocks"}  # on a GPU: their figures are compared with the peaks of the same run
# Where a part's rows go, if not to the field of its name.
FIELDS = {("cpu", "generation"): "sampler", ("gpu", "folded"): "blocks"}
MEASURED_CODE = ("config.py", "diffusion", "model", "sampling", "ops", "training")
CHECKPOINT = "tales-diffuapriel"


def require_gpu() -> None:
    """Raises RuntimeError, one line, if PyTorch sees no NVIDIA GPU."""
    if not torch.cuda.is_available():
        built = "a CUDA build" if torch.version.cuda else "a CPU build"
        raise RuntimeError(
            f"no NVIDIA GPU answers here (PyTorch {torch.__version__}, {built}), and bench --gpu measures one; "
            "`diffuapriel bench` measures the CPU, `diffuapriel bench --gpu --from FILE` shows saved figures"
        )


def run_bench(
    plan: BenchPlan,
    device: torch.device | str = "cpu",
    known: BenchReport | None = None,
    *,
    keep: Callable[[BenchReport], object] = lambda report: None,
    say: Callable[[str], None] = lambda line: None,
) -> BenchReport:
    """Measure each part of `plan` on `device`; `keep` gets the report after each shape.

    `known` is a report to add to: its parts are kept, and its rows of the same shapes are replaced. Raises ValueError
    if it is of another machine, other versions or another preset, and RuntimeError if two things that must compute
    the same do not.
    """
    bench = Bench(plan, torch.device(device), say)
    code = code_digest()
    report = BenchReport(describe_machine(plan, bench.device), plan.preset, plan.dtype, plan.device)
    if known:
        known.check_same(report)
        report = known
    with strict_compilation() if plan.device == "gpu" else nullcontext():
        for part, measure in PARTS[plan.device].items():
            if part not in plan.parts and not (part == "peaks" and NEED_PEAKS & set(plan.parts)):
                continue
            began = time.perf_counter()
            for found in measure(bench):
                field = FIELDS.get((plan.device, part), part)
                if isinstance(found, tuple):  # a part with rows of several kinds says where they go
                    field, found = found
                if isinstance(found, list):
                    report = report.with_rows(field, found)
                else:
                    name = "sweep" if isinstance(found, SweepResult) else "peaks"
                    report = dataclasses.replace(report, **{name: found})
                done = Measured(round(time.perf_counter() - began, 1), code)
                report = dataclasses.replace(report, measured={**report.measured, part: done})
                keep(report)
                gc.collect()  # what the last shape held: its graphs, its activations, the allocator's reserve
                if bench.device.type == "cuda":
                    torch.cuda.empty_cache()
    return report


def _peaks(bench: Bench) -> Iterator[MeasuredPeaks]:
    bench.say("peaks: FLOP/s and bandwidth")
    plan = bench.plan
    sizes = {"matrix": plan.matrix, "copy_bytes": plan.copy_bytes}
    peaks = measure_peaks(bench.device, **sizes, dtype=plan.torch_dtype, seconds=plan.seconds)
    bench.measured_peaks = peaks
    yield peaks


def _cpu_forward(bench: Bench) -> Iterator[SweepResult]:
    plan = bench.plan
    bench.say(f"forward pass over length: diffuapriel against diffutran, {plan.preset}")
    entries = [Entry.random(plan.preset, name) for name in (PURE, DIFFUTRAN)]
    yield sweep(entries, lengths=plan.lengths, repeats=plan.forward_repeats)


def _cpu_generation(bench: Bench) -> Iterator[list[SamplerRow]]:
    bench.say("generation: time outside the denoiser")
    yield time_generations(default_entry(bench.plan.preset), steps=bench.plan.generation_steps)


def time_generations(
    entry: Entry, *, length: int = 256, steps: Sequence[int] = (32, 64), repeats: int = 3
) -> list[SamplerRow]:
    """Races of one entry that split its time: a row for each number of steps, strategy `low_confidence`."""
    rows = []
    for count in steps:
        runs = race([entry], length, count, repeats=repeats).runs
        whole, denoiser = (sum(run.step_ms) for run in runs), (run.denoiser_ms for run in runs)
        rows.append(SamplerRow(entry.name, length, 1, tuple(whole), count, tuple(denoiser)))
    return rows


def default_entry(preset: str) -> Entry:
    """The bundled DiffuApriel, or random weights of `preset`, which are as fast, in a clone without checkpoints."""
    return Entry.from_checkpoint(CHECKPOINT) if CHECKPOINT in bundled() else Entry.random(preset, PURE)


# In the order in which they run. A part yields lists of rows, shape after shape, or its one result.
PARTS: dict[str, dict[str, Callable[[Bench], Iterator[Any]]]] = {
    "cpu": {
        "memory": measure_cpu_memory,  # first: nothing else may hold memory while a child is measured
        "scan": measure_scan,
        "forward": _cpu_forward,
        "generation": _cpu_generation,
        "training": measure_cpu_training,
        "blocks": measure_blocks,
    },
    "gpu": {
        "peaks": _peaks,
        "forward": measure_forward,
        "generation": measure_generation,
        "mixer": measure_mixer,
        "training": measure_training,
        "sampler": measure_sampler,
        "memory": measure_memory,
        "blocks": measure_gpu_blocks,
        "folded": measure_folded,
    },
}


def describe_machine(plan: BenchPlan, device: torch.device) -> Machine:
    """The device and the versions of everything that computes."""
    on_gpu = device.type == "cuda"
    return Machine(
        device=device_name(device),
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_gpu else 0,
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        cudnn=str((on_gpu and torch.backends.cudnn.version()) or ""),
        triton=_version("triton"),
        mamba_ssm=_version("mamba-ssm"),
        causal_conv1d=_version("causal-conv1d"),
        python=platform.python_version(),
        threads=torch.get_num_threads() if plan.device == "cpu" else 0,
    )


def code_digest() -> str:
    """Twelve hexadecimal digits that change with the code that is measured."""
    root = Path(diffuapriel.__file__).parent
    parts = [root / name for name in MEASURED_CODE]
    files = [file for part in parts for file in (part.rglob("*.py") if part.suffix != ".py" else [part])]
    code = b"".join(file.read_bytes() for file in sorted(files))
    return hashlib.sha256(code).hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
