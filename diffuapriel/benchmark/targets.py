"""The speed and memory that the project aims at, and whether a report reaches them.

A target that was not measured says so; none is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from diffuapriel.benchmark.cpu import scan, training
from diffuapriel.benchmark.memory import format_bytes
from diffuapriel.benchmark.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, HYBRID, PURE
from diffuapriel.benchmark.report import BenchReport, ForwardRow, MemoryRow, Row, SamplerRow

LONGEST = 65_536
LONG = 8192  # the mixer's target holds from here on
Pairs = Iterable[tuple[Row | None, Row | None]]  # (ours, peer); None for one that was not measured


@dataclass(frozen=True)
class Target:
    """What is to be reached, what was measured ("" if nothing was), and whether it was reached."""

    what: str
    target: str
    measured: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """'reached', 'MISSED' or 'not measured'."""
        return "not measured" if self.met is None else "reached" if self.met else "MISSED"


def targets(report: BenchReport) -> list[Target]:
    """All targets of a CPU or of a GPU."""
    return _cpu_targets(report) if report.device == "cpu" else _gpu_targets(report)


def _cpu_targets(report: BenchReport) -> list[Target]:
    scans, loops = ({row.entry: row for row in rows} for rows in (report.scan, report.training))
    peak = report.find("memory", PURE, LONGEST, 1) if report.preset == "nano" else None
    whole = f"peak memory of nano over {LONGEST:,} tokens, whole process"
    plain = [(loops.get(training.OURS), loops.get(training.PLAIN))]
    return [
        _ratio("Listing 1 over our scan", 1.7, [(scans.get(scan.OURS), scans.get(scan.LISTING))]),
        _at_most_a_tenth("share of a generation's time outside the denoiser", report.sampler),
        _ratio("a plain loop's time over that of train()", 0.95, plain),
        _memory(whole, "below 4.0 GB", peak, 4e9 - 1),
    ]


def _gpu_targets(report: BenchReport) -> list[Target]:
    best, flash_2 = best_diffutran(report, LONGEST, 1), report.find("forward", DIFFUTRAN_FLASH_2, LONGEST, 1)
    pure, hybrid = (report.find("forward", name, LONGEST, 1) for name in (PURE, HYBRID))
    mixers = [row for row in report.mixer if row.length >= LONG and not row.gradient]
    mixer = "our mixer over mamba_ssm's kernels with flips, 8K and above, forward"
    step = "training step over the mamba_ssm backend with flips"
    ends = [row for row in report.sampler if row.length in (1024, LONGEST)]
    ends = ends if len({row.length for row in ends}) == 2 else []
    peak, most = (report.find("memory", name, LONGEST, 1) for name in (PURE, DIFFUTRAN))
    against = f" against {format_bytes(most.peak_bytes)}" if most else ""
    return [
        _ratio("pure over DiffuTran with its best attention kernel, 65K, forward", 5.5, [(pure, best)]),
        _ratio("pure over DiffuTran with FlashAttention-2, 65K, forward", 8.8, [(pure, flash_2)]),
        _ratio("hybrid over DiffuTran with its best attention kernel, 65K, forward", 3.0, [(hybrid, best)]),
        _crossover(report),
        _ratio(mixer, 1.8, _over_mamba_ssm(mixers), shapes=True),
        _ratio(step, 1.3, _over_mamba_ssm(report.training), shapes=True),
        _at_most_a_tenth("sampler and head, share of a generation's time at 1K and at 65K", ends),
        _memory("peak memory at 65K against DiffuTran", "no more", peak, most and most.peak_bytes, against),
    ]


def best_diffutran(report: BenchReport, length: int, batch: int) -> ForwardRow | None:
    """DiffuTran's faster row at this shape, usually with cuDNN's kernel: the strongest peer."""
    rows = [report.find("forward", name, length, batch) for name in (DIFFUTRAN, DIFFUTRAN_FLASH_2)]
    return min((row for row in rows if row), key=lambda row: row.median_ms, default=None)


def faster_from(report: BenchReport) -> int | None:
    """The length from which pure is faster in a whole generation at batch 1, at every length measured, or None."""
    found = None
    for ours in sorted(report.generation, key=lambda row: -row.length):
        peer = report.find("generation", DIFFUTRAN, ours.length, 1)
        if ours.entry != PURE or ours.batch != 1 or not peer:
            continue
        if ours.over(peer).median <= 1:
            break
        found = ours.length
    return found


def _ratio(what: str, target: float, pairs: Pairs, *, shapes: bool = False) -> Target:
    """A ratio that must be reached by every pair: the lowest one is shown, with `shapes` its shape too."""
    found = [(ours.over(peer), ours.shape) for ours, peer in pairs if ours and peer]
    if not found:
        return Target(what, f"{target}x")
    ratio, shape = min(found, key=lambda pair: pair[0].median)
    where = f" at {shape}" if shapes else ""
    least = ", the least of all shapes" if len(found) > 1 else ""
    return Target(what, f"{target}x", f"{ratio.text('x')}{where}{least}", ratio.median >= target)


def _over_mamba_ssm(rows: Iterable[Row]) -> Pairs:
    by_key = {row.key: row for row in rows}
    ours = [row for row in by_key.values() if row.entry == "triton"]
    return [(row, by_key.get(("mamba_ssm", *row.key[1:]))) for row in ours]


def _crossover(report: BenchReport) -> Target:
    target = Target("pure faster than DiffuTran from this length on, batch 1, whole generation", "2K or less")
    lengths = [row.length for row in report.generation if row.batch == 1 and row.entry == DIFFUTRAN]
    if not lengths:
        return target
    found = faster_from(report)
    if found is None:
        return replace(target, measured=f"not up to {max(lengths):,}", met=False)
    first = " (the shortest measured)" if found == min(lengths) else ""
    return replace(target, measured=f"{found:,}{first}", met=found <= 2048)


def _at_most_a_tenth(what: str, rows: Sequence[SamplerRow]) -> Target:
    shown = ", ".join(f"{100 * row.outside_share:.1f} % at {row.shape}" for row in rows)
    met = all(row.outside_share <= 0.1 for row in rows) if rows else None
    return Target(what, "at most 10 %", shown, met)


def _memory(what: str, target: str, row: MemoryRow | None, limit: float | None, peer: str = "") -> Target:
    if not row or limit is None:
        return Target(what, target)
    return Target(what, target, format_bytes(row.peak_bytes) + peer, row.peak_bytes <= limit)
