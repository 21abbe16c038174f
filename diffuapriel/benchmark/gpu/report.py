"""A GPU bench as text: the machine, what was aimed at, and a table for every part that was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from diffuapriel.benchmark.gpu.plan import BACKENDS, DIFFUTRAN, DIFFUTRAN_FLASH_2, HYBRID, PURE, RACERS
from diffuapriel.benchmark.gpu.results import ForwardRow, GpuReport, Row
from diffuapriel.benchmark.gpu.targets import aims, best_diffutran, ratio_text
from diffuapriel.benchmark.memory import format_bytes
from diffuapriel.benchmark.table import table

LABELS = {
    PURE: "DiffuApriel",
    HYBRID: "DiffuApriel-H",
    DIFFUTRAN: "DiffuTran",
    DIFFUTRAN_FLASH_2: "DiffuTran, FA2",
}


def format_gpu_report(report: GpuReport) -> str:
    """Everything that was measured; FA2 is FlashAttention-2, forced."""
    formats = {
        "forward": _forward,
        "generation": _generation,
        "mixer": _mixer,
        "training": _training,
        "sampler": _sampler,
        "memory": _memory,
        "problems": _problems,
    }
    blocks = [_machine(report), f"What it must show\n{aims_table(report)}"]
    return "\n\n".join([*blocks, *(show(report) for name, show in formats.items() if getattr(report, name))])


def machine_line(report: GpuReport) -> str:
    """The card, the versions and the ceilings in a sentence or two."""
    m = report.machine
    versions = [f"PyTorch {m.torch}", f"Triton {m.triton}", f"cuDNN {m.cudnn}", f"mamba_ssm {m.mamba_ssm}"]
    known = ", ".join(version for version in versions if not version.endswith(" "))
    line = f"{m.device}, {known}, {report.dtype}, preset {report.preset}, random weights."
    if report.ceilings:
        c = report.ceilings
        line += (
            f" Measured there: {c.matrix_rate / 1e12:,.0f} TFLOP/s in a bf16 product of side {c.matrix:,}, "
            f"{c.bandwidth / 1e12:.2f} TB/s copying {format_bytes(c.copy_bytes)}."
        )
    return line if report.dtype == "bfloat16" else line.replace("a bf16 product", f"a {report.dtype} product")


def _machine(report: GpuReport) -> str:
    took = ", ".join(f"{part} {done.seconds:.0f} s" for part, done in report.measured.items())
    lines = [machine_line(report), f"Parts measured: {took}."]
    if len({done.code for done in report.measured.values()}) > 1:
        codes = ", ".join(f"{part} {done.code}" for part, done in report.measured.items())
        lines.append(f"NOT all with the same code: {codes}. Measure the older parts again before comparing.")
    return "\n".join(lines)


def aims_table(report: GpuReport) -> str:
    """The promises as a table."""
    rows = [[aim.what, aim.aim, aim.measured or "", aim.verdict] for aim in aims(report)]
    return table(["", "aim", "measured", ""], rows)


def shapes_of(rows: Sequence[Row], filling: bool) -> list[tuple[int, int]]:
    """(length, batch) of the rows at batch 1, or of those at the largest batch of their length."""
    largest: dict[int, int] = {}
    for row in rows:
        largest[row.length] = max(largest.get(row.length, 1), row.batch)
    return [(length, batch if filling else 1) for length, batch in sorted(largest.items())]


def forward_table(report: GpuReport, filling: bool) -> str:
    """Milliseconds of the racers over length, ratios to DiffuTran and, in brackets, what the bound allows.

    FlashAttention-2 has a column at batch 1 alone, where it is measured.
    """
    racers = [name for name in RACERS if not (filling and name == DIFFUTRAN_FLASH_2)]
    rows = []
    for length, batch in shapes_of(report.forward, filling):
        found = {name: report.find("forward", name, length, batch) for name in racers}
        peers = {"best": best_diffutran(report, length, batch), "FA2": found.get(DIFFUTRAN_FLASH_2)}
        cells = [f"{row.median_ms:,.2f}" if row else "not run" for row in found.values()]
        ratios = [_against(found[ours], peers[peer]) for ours, peer, _ in _ratios(racers)]
        rows.append([f"{batch} x {length:,}", *cells, *ratios])
    titles = [title for _, _, title in _ratios(racers)]
    return table(["ms", *(LABELS[name] for name in racers), *titles], rows)


def _ratios(racers: Sequence[str]) -> list[tuple[str, str, str]]:
    """Whose ratio over which peer, and the column's title."""
    ratios = [(PURE, "best", "pure, over best"), (HYBRID, "best", "hybrid, over best")]
    if DIFFUTRAN_FLASH_2 in racers:
        ratios.insert(1, (PURE, "FA2", "pure, over FA2"))
    return ratios


def _against(ours: ForwardRow | None, peer: ForwardRow | None) -> str:
    if not (ours and peer):
        return ""
    return f"{ours.over(peer)[0]:.2f}x ({peer.bound_ms / ours.bound_ms:.2f})"


def _forward(report: GpuReport) -> str:
    detail = [
        [
            f"{row.batch} x {row.length:,}",
            LABELS[row.racer],
            f"{row.min_ms:,.2f} to {row.max_ms:,.2f}",
            f"{len(row.ms)}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.bound_share:.0%}",
            format_bytes(row.peak_bytes),
            ", ".join(row.kernels),
        ]
        for row in report.forward
    ]
    lines = [
        "Forward pass of the backbone, medians; in brackets the ratio that the bound allows (bench/bound.py)",
        "Batch 1",
        forward_table(report, filling=False),
        "A batch that fills the card",
        forward_table(report, filling=True),
        "Spread, rounds, and what ran",
        table(["", "", "ms, range", "rounds", "tokens/s", "of the bound", "peak", "kernels seen"], detail),
    ]
    return "\n".join(lines)


def generation_table(report: GpuReport) -> str:
    """Milliseconds a step of a whole generation, DiffuApriel against DiffuTran."""
    rows = []
    for ours in report.generation:
        if ours.racer == PURE:
            peer = report.find("generation", DIFFUTRAN, ours.length, ours.batch)
            rows.append(
                [
                    f"{ours.batch} x {ours.length:,}",
                    str(ours.steps),
                    f"{ours.ms_per_step:,.2f}",
                    f"{peer.ms_per_step:,.2f}" if peer else "not run",
                    ratio_text(ours, peer) if peer and peer.steps == ours.steps else "",
                    f"{ours.tokens_per_second:,.0f}",
                ]
            )
    header = ["", "steps", "DiffuApriel ms/step", "DiffuTran ms/step", "DiffuTran / DiffuApriel", "tokens/s"]
    return table(header, rows)


def _generation(report: GpuReport) -> str:
    return "Whole generation, head and sampler included, strategy confidence\n" + generation_table(report)


def _mixer(report: GpuReport) -> str:
    blocks = []
    for gradient, title in ((False, "forward"), (True, "forward and backward")):
        rows = [row for row in report.mixer if row.gradient == gradient]
        if rows:
            blocks += [
                f"Mixer between in_proj and out_proj, {title}; in brackets the share of the memory floor",
                _backends(report, "mixer", rows, gradient=gradient),
            ]
    worst = max(row.error for row in report.mixer)
    return "\n".join([*blocks, f"All agree with the plain float32 mixer to {worst:.1e} (relative norm)."])


def _training(report: GpuReport) -> str:
    plain = sorted({row.racer for row in report.training if not row.compiled})
    note = f"\nNot compiled: {', '.join(plain)}." if plain else ""
    title = "One update of pure DiffuApriel: forward, backward, clipping, optimizer"
    return f"{title}\n{_backends(report, 'training', report.training)}{note}"


def _backends(report: GpuReport, part: str, rows: Sequence[Row], **about: bool) -> str:
    """The backends side by side, and how much longer the others take than ours."""
    lines = []
    for length, batch in sorted({(row.length, row.batch) for row in rows}):
        found = {name: report.find(part, name, length, batch, **about) for name in BACKENDS}
        ours = found[BACKENDS[0]]
        cells = [_milliseconds(row) for row in found.values()]
        ratios = [ratio_text(ours, row) if ours and row else "" for row in list(found.values())[1:]]
        lines.append([f"{batch} x {length:,}", *cells, *ratios])
    over = [f"{name} / {BACKENDS[0]}" for name in BACKENDS[1:]]
    return table(["ms", *BACKENDS, *over], lines)


def _milliseconds(row: Row | None) -> str:
    if row is None:
        return "not run"
    share = getattr(row, "floor_share", None)
    return f"{row.median_ms:,.3f}" + (f" ({share:.0%})" if share is not None else "")


def _sampler(report: GpuReport) -> str:
    rows = [
        [
            f"{row.batch} x {row.length:,}",
            str(row.steps),
            f"{row.ms_per_step:,.2f}",
            f"{row.ms_per_step * (1 - row.outside_share):,.2f}",
            f"{row.outside_share:.1%}",
        ]
        for row in report.sampler
    ]
    header = ["", "steps", "ms/step", "of it backbone", "sampler and head"]
    return "Share of a generation outside the backbone, DiffuApriel\n" + table(header, rows)


def _memory(report: GpuReport) -> str:
    rows = [
        [LABELS[row.racer], f"{row.length:,}", format_bytes(row.peak_bytes), format_bytes(row.weight_bytes)]
        for row in report.memory
    ]
    title = "Peak memory of a first forward pass, batch 1 (compiled before, recorded within)"
    return f"{title}\n{table(['', 'length', 'most bytes allocated', 'of them weights'], rows)}"


def _problems(report: GpuReport) -> str:
    """What could not run, one line for each reason."""
    where: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for problem in report.problems:
        part = f"{problem.part}, backward" if problem.gradient else problem.part
        where[part, problem.racer, problem.message].append(f"{problem.batch} x {problem.length:,}")
    lines = [f"{part}, {racer}, at {', '.join(at)}: {why}" for (part, racer, why), at in where.items()]
    return "\n".join(["NOT RUN", *lines])
