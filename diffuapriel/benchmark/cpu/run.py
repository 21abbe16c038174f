"""The whole bench: five parts, each a ratio or a figure beside its peer, in one run on one machine."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffuapriel.benchmark.cpu.generation import GenerationResult, default_entry, measure_generation
from diffuapriel.benchmark.cpu.memory import PeakResult, measure_peak
from diffuapriel.benchmark.cpu.scan import ScanResult, compare_scans
from diffuapriel.benchmark.cpu.training import TrainingResult, compare_training
from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.sweep import SweepResult, sweep
from diffuapriel.device import device_name

SCHEMA = "diffuapriel-bench"
VERSION = 1
PARTS = ("scan", "forward", "generation", "training", "memory")
FORWARD_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16_384)


@dataclass(frozen=True)
class Plan:
    """How much is measured. `memory_runs` are pairs of architecture and length."""

    preset: str = "nano"
    parts: tuple[str, ...] = PARTS
    repeats: int = 7
    forward_lengths: tuple[int, ...] = FORWARD_LENGTHS
    forward_repeats: int = 4
    generation_steps: tuple[int, ...] = (32, 64)
    memory_runs: tuple[tuple[str, int], ...] = (
        ("diffuapriel", 16_384),
        ("diffutran", 16_384),
        ("diffuapriel", 65_536),
    )

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise ValueError(f"parts are {self.parts!r}; permitted: {', '.join(PARTS)}")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; it must be 1 or more")

    def quick(self) -> Plan:
        """The same parts in a fraction of the time: fewer repeats, shorter lengths."""
        return dataclasses.replace(
            self,
            repeats=min(self.repeats, 3),
            forward_lengths=tuple(n for n in self.forward_lengths if n <= 2048),
            forward_repeats=2,
            generation_steps=self.generation_steps[:1],
            memory_runs=(("diffuapriel", 4096), ("diffutran", 4096)),
        )


@dataclass(frozen=True)
class BenchReport:
    """What was measured; a part that was not asked for is None or empty."""

    machine: str
    threads: int
    torch_version: str
    python_version: str
    preset: str
    scan: ScanResult | None = None
    forward: SweepResult | None = None
    generation: tuple[GenerationResult, ...] = ()
    training: TrainingResult | None = None
    memory: tuple[PeakResult, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = dataclasses.asdict(dataclasses.replace(self, forward=None))
        values["forward"] = self.forward.to_dict() if self.forward else None
        return {"schema": SCHEMA, "version": VERSION, **values}


def run_bench(plan: Plan, say: Callable[[str], None] = lambda line: None) -> BenchReport:
    """Measure every part of `plan`, one after the other; `say` hears what is being measured.

    Raises RuntimeError when two scans that must agree do not, or when a forward pass fails.
    """
    report = BenchReport(
        machine=device_name(torch.device("cpu")),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        python_version=platform.python_version(),
        preset=plan.preset,
    )
    measure: dict[str, Callable[[Plan, Callable[[str], None]], Any]] = {
        "memory": _memory,  # first: nothing else may hold memory while a child is measured
        "scan": _scan,
        "forward": _forward,
        "generation": _generation,
        "training": _training,
    }
    found = {part: work(plan, say) for part, work in measure.items() if part in plan.parts}
    return dataclasses.replace(report, **found)


def _memory(plan: Plan, say: Callable[[str], None]) -> tuple[PeakResult, ...]:
    results = []
    for architecture, length in plan.memory_runs:
        say(f"peak memory: {architecture} {plan.preset}, {length:,} tokens")
        results.append(measure_peak(plan.preset, architecture, length))
    return tuple(results)


def _scan(plan: Plan, say: Callable[[str], None]) -> ScanResult:
    say("scan: chunked against the minimal listing, forward and backward")
    return compare_scans(repeats=plan.repeats)


def _forward(plan: Plan, say: Callable[[str], None]) -> SweepResult:
    say(f"forward pass over length: diffuapriel against diffutran, {plan.preset}")
    entries: Sequence[Entry] = [Entry.random(plan.preset, name) for name in ("diffuapriel", "diffutran")]
    return sweep(entries, lengths=plan.forward_lengths, repeats=plan.forward_repeats)


def _generation(plan: Plan, say: Callable[[str], None]) -> tuple[GenerationResult, ...]:
    say("generation: time outside the denoiser")
    return tuple(measure_generation(default_entry(plan.preset), steps=plan.generation_steps, repeats=3))


def _training(plan: Plan, say: Callable[[str], None]) -> TrainingResult:
    say(f"training: our loop against a plain one, {plan.preset}")
    return compare_training(preset=plan.preset, repeats=plan.repeats)
