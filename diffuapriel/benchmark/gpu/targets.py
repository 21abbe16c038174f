"""What the GPU figures must reach, and whether they do. An aim that was not measured says so; none is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diffuapriel.benchmark.gpu.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, HYBRID, PURE
from diffuapriel.benchmark.gpu.results import ForwardRow, GpuReport, Row
from diffuapriel.benchmark.memory import format_bytes

LONGEST = 65_536
LONG = 8192  # from here on the mixer's aim counts


@dataclass(frozen=True)
class Aim:
    """One promise: what, what was aimed at, what was measured ("" where nothing was), and whether it was met."""

    what: str
    aim: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """'reached', 'MISSED' or 'not measured'."""
        return "not measured" if self.met is None else "reached" if self.met else "MISSED"


def aims(report: GpuReport) -> list[Aim]:
    """All promises, in the order in which they were made."""
    return [
        _speed(report, PURE, "best", 5.5, "pure over DiffuTran with its best attention kernel, 65K, forward"),
        _speed(
            report, PURE, DIFFUTRAN_FLASH_2, 8.8, "pure over DiffuTran with FlashAttention-2, 65K, forward"
        ),
        _speed(
            report, HYBRID, "best", 3.0, "hybrid over DiffuTran with its best attention kernel, 65K, forward"
        ),
        _from_which_length(report),
        _mixer(report),
        _training(report),
        _outside(report),
        _memory(report),
    ]


def best_diffutran(report: GpuReport, length: int, batch: int) -> ForwardRow | None:
    """DiffuTran's faster row at this shape: usually with cuDNN's kernel, but the strongest peer is the peer."""
    rows = [report.find("forward", name, length, batch) for name in (DIFFUTRAN, DIFFUTRAN_FLASH_2)]
    return min((row for row in rows if row), key=lambda row: row.median_ms, default=None)


def ratio_text(ours: Row, peer: Row) -> str:
    """'6.41x (6.38 to 6.45)': how many times as long the peer takes, and the spread over the rounds."""
    middle, least, most = ours.over(peer)
    return f"{middle:.2f}x ({least:.2f} to {most:.2f})"


def _speed(report: GpuReport, racer: str, peer: str, aim: float, what: str) -> Aim:
    ours = report.find("forward", racer, LONGEST, 1)
    theirs = (
        best_diffutran(report, LONGEST, 1) if peer == "best" else report.find("forward", peer, LONGEST, 1)
    )
    if not (ours and theirs):
        return Aim(what, f"{aim}x", "", None)
    return Aim(what, f"{aim}x", ratio_text(ours, theirs), ours.over(theirs)[0] >= aim)


def faster_from(report: GpuReport) -> int | None:
    """The length from which on pure is faster at batch 1, whole generation, at every length measured; None: never."""
    found = None
    for ours in sorted(report.generation, key=lambda row: -row.length):
        peer = report.find("generation", DIFFUTRAN, ours.length, 1)
        if ours.racer != PURE or ours.batch != 1 or not peer:
            continue
        if ours.over(peer)[0] <= 1:
            break
        found = ours.length
    return found


def _from_which_length(report: GpuReport) -> Aim:
    what, aim = "pure faster than DiffuTran from this length on, batch 1, whole generation", "2K or less"
    lengths = [row.length for row in report.generation if row.batch == 1 and row.racer == DIFFUTRAN]
    if not lengths:
        return Aim(what, aim, "", None)
    found = faster_from(report)
    if found is None:
        return Aim(what, aim, f"not up to {max(lengths):,}", False)
    first = " (the shortest measured)" if found == min(lengths) else ""
    return Aim(what, aim, f"{found:,}{first}", found <= 2048)


def _mixer(report: GpuReport) -> Aim:
    what = "our mixer over mamba_ssm's kernels with flips, 8K and above, forward"
    rows = [row for row in report.mixer if row.length >= LONG and not row.gradient]
    return _least(what, 1.8, _against_mamba_ssm(report, "mixer", rows, gradient=False))


def _training(report: GpuReport) -> Aim:
    what = "training step over the mamba_ssm backend with flips"
    return _least(what, 1.3, _against_mamba_ssm(report, "training", report.training))


def _against_mamba_ssm(
    report: GpuReport, part: str, rows: Iterable[Row], **about: bool
) -> list[tuple[Row, Row]]:
    pairs = [
        (row, report.find(part, "mamba_ssm", row.length, row.batch, **about))
        for row in rows
        if row.racer == "triton"
    ]
    return [pair for pair in pairs if pair[1]]


def _least(what: str, aim: float, pairs: list[tuple[Row, Row]]) -> Aim:
    """The aim holds at every shape, so the worst one is shown."""
    if not pairs:
        return Aim(what, f"{aim}x", "", None)
    ours, peer = min(pairs, key=lambda pair: pair[0].over(pair[1])[0])
    shape = f"{ours.batch} x {ours.length:,}"
    measured = f"{ratio_text(ours, peer)} at {shape}" + (
        ", the least of all shapes" if len(pairs) > 1 else ""
    )
    return Aim(what, f"{aim}x", measured, ours.over(peer)[0] >= aim)


def _outside(report: GpuReport) -> Aim:
    what = "sampler and head, share of a generation's time at 1K and at 65K"
    rows = [row for row in report.sampler if row.length in (1024, LONGEST)]
    if {row.length for row in rows} != {1024, LONGEST}:
        return Aim(what, "at most 10 %", "", None)
    shown = ", ".join(f"{100 * row.outside_share:.1f} % at {row.batch} x {row.length:,}" for row in rows)
    return Aim(what, "at most 10 %", shown, all(row.outside_share <= 0.1 for row in rows))


def _memory(report: GpuReport) -> Aim:
    what = "peak memory at 65K against DiffuTran"
    ours, peer = (report.find("memory", name, LONGEST, 1) for name in (PURE, DIFFUTRAN))
    if not (ours and peer):
        return Aim(what, "no more", "", None)
    shown = f"{format_bytes(ours.peak_bytes)} against {format_bytes(peer.peak_bytes)}"
    return Aim(what, "no more", shown, ours.peak_bytes <= peer.peak_bytes)
