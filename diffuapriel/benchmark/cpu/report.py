"""A bench report as text: small tables that can be pasted into a README."""

from __future__ import annotations

from collections.abc import Sequence

from diffuapriel.benchmark.cpu.generation import GenerationResult
from diffuapriel.benchmark.cpu.memory import TARGET_BYTES, TARGET_LENGTH, PeakResult
from diffuapriel.benchmark.cpu.run import BenchReport
from diffuapriel.benchmark.cpu.scan import ScanResult
from diffuapriel.benchmark.cpu.training import TrainingResult
from diffuapriel.benchmark.memory import format_bytes
from diffuapriel.benchmark.sweep import SweepResult
from diffuapriel.benchmark.table import table
from diffuapriel.benchmark.timing import Duel


def format_report(report: BenchReport) -> str:
    """All parts that were measured, each under a heading, with the target where there is one."""
    threads = f"{report.threads} thread{'s' if report.threads != 1 else ''}"
    blocks = [
        f"{report.machine}, {threads}, PyTorch {report.torch_version}, Python {report.python_version}, float32"
    ]
    if report.scan:
        blocks.append(_scan(report.scan))
    if report.forward:
        blocks.append(_forward(report.forward, report.preset))
    if report.generation:
        blocks.append(_generation(report.generation))
    if report.training:
        blocks.append(_training(report.training))
    if report.memory:
        blocks.append(_memory(report.memory))
    return "\n\n".join(blocks)


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def _scan(result: ScanResult) -> str:
    named, shared = result.against_listing, result.against_shared
    rows = [
        [name, f"{t.median_ms:,.0f}", f"{t.min_ms:,.0f} to {t.max_ms:,.0f}", ratio]
        for name, t, ratio in (
            ("chunked SSD, no flips", named.ours, ""),
            ("Listing 1, flips", named.peer, _ratio(named)),
            ("Listing 1, flips, heads share B and C", shared.peer, _ratio(shared)),
        )
    ]
    return "\n".join(
        [
            "Bidirectional scan, forward and backward, against Listing 1 of the Mamba-2 paper (chunk 64)",
            f"batch {result.batch}, length {result.length:,}, 2 x {result.heads} heads of {result.headdim}, state "
            f"{result.state}; {named.repeats} pairs in turn; outputs and gradients agree to {result.error:.0e}",
            table(["", "median ms", "ms, range", "over ours"], rows),
            f"Listing 1 over ours must reach {result.target}x: {_verdict(named.ratio >= result.target)}",
        ]
    )


def _ratio(fought: Duel) -> str:
    return f"{fought.ratio:.2f}x ({fought.ratio_min:.2f} to {fought.ratio_max:.2f})"


def _forward(result: SweepResult, preset: str) -> str:
    ours, peer = result.entries
    points = {(p.entry, p.length): p for p in result.points}
    rows = []
    for length in sorted({p.length for p in result.points}):
        a, b = points.get((ours, length)), points.get((peer, length))
        ratio = f"{b.ms / a.ms:.2f}x" if a and b else ""
        rows.append([f"{length:,}", *(f"{p.ms:,.1f}" if p else "not run" for p in (a, b)), ratio])
    lines = [
        f"Forward pass, {preset}, batch {result.batch}, medians of {result.repeats} runs in turn",
        table(["length", "DiffuApriel ms", "DiffuTran ms", "DiffuTran / DiffuApriel"], rows),
        *(refused.message for refused in result.refusals),
        *(cross.message for cross in result.crossovers),
        *(f"{entry}: time grows as length^{e:.2f}" for entry, e in result.exponents.items() if e is not None),
    ]
    return "\n".join(lines)


def _generation(results: Sequence[GenerationResult]) -> str:
    rows = [[str(r.steps), f"{r.seconds:.2f}", f"{r.outside_share:.1%}"] for r in results]
    worst, target = max(r.outside_share for r in results), results[0].target_share
    return "\n".join(
        [
            f"Generation of {results[0].length} tokens, {results[0].model}, strategy confidence",
            table(["steps", "seconds", "outside the denoiser"], rows),
            f"must be {target:.0%} or less: {_verdict(worst <= target)}",
        ]
    )


def _training(result: TrainingResult) -> str:
    named = (("train(), with average, log and clock", result.ours), ("a plain loop", result.plain))
    rows = [[name, f"{t.median_ms:,.0f}", f"{t.min_ms:,.0f} to {t.max_ms:,.0f}"] for name, t in named]
    return "\n".join(
        [
            f"Training of {result.architecture} {result.preset}, {result.batch} x {result.length} tokens per update, "
            f"{result.repeats} runs of {result.updates} updates each in turn; both end at the same losses",
            table(["", "median ms per update", "ms, range"], rows),
            f"speed of ours over the plain loop's, {result.ratio:.3f} ({result.ratio_min:.3f} to "
            f"{result.ratio_max:.3f}), must reach {result.target}: {_verdict(result.ratio >= result.target)}",
        ]
    )


def _memory(results: Sequence[PeakResult]) -> str:
    rows = [
        [
            r.architecture,
            f"{r.length:,}",
            format_bytes(r.peak_bytes),
            format_bytes(r.peak_bytes - r.baseline_bytes),
        ]
        for r in results
    ]
    lines = [
        f"Peak memory of a forward pass with all logits, {results[0].preset}, batch 1, a process of its own each",
        table(["", "length", "whole process", "added by the pass"], rows),
    ]
    for r in results:
        if (r.preset, r.architecture, r.length) == ("nano", "diffuapriel", TARGET_LENGTH):
            lines.append(
                f"{r.length:,} tokens must stay below {format_bytes(TARGET_BYTES)}: "
                f"{_verdict(r.peak_bytes < TARGET_BYTES)}"
            )
    return "\n".join(lines)
