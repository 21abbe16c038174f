"""A bench report as text: Markdown tables that are padded, so that they read well in a terminal too.

A table is declared by its columns: a title, and the text of a cell for one item. An item is a row of the report, or a
`Shape`: all rows of a part at one length and batch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from diffuapriel.benchmark.memory import format_bytes
from diffuapriel.benchmark.plan import BACKENDS, DIFFUTRAN, DIFFUTRAN_FLASH_2, ENTRIES, FULL, HYBRID, PURE
from diffuapriel.benchmark.report import BenchReport, BlockGenerationRow, RooflineRow, Row
from diffuapriel.benchmark.sweep import SweepResult
from diffuapriel.benchmark.targets import faster_from, targets

BEST = "best"  # the faster of the two DiffuTrans
LABELS = {
    PURE: "DiffuApriel",
    HYBRID: "DiffuApriel-H",
    DIFFUTRAN: "DiffuTran",
    DIFFUTRAN_FLASH_2: "DiffuTran, FA2",
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, padded: first column left, the others right."""
    grid = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(grid[0]), line(rule), *(line(row) for row in grid[1:])])


class Column(NamedTuple):
    """The title of a column, and the text of its cell for one item."""

    title: str
    cell: Callable[[Any], str]


def columns_table(columns: Sequence[Column], items: Iterable[Any]) -> str:
    """The table of `items`, one per line."""
    return table([column.title for column in columns], [[c.cell(item) for c in columns] for item in items])


class Shape(NamedTuple):
    """All rows of one part at one length and batch, by entry."""

    length: int
    batch: int
    rows: dict[str, Any]

    @property
    def shape(self) -> str:
        return f"{self.batch} x {self.length:,}"

    def get(self, entry: str) -> Any:
        """The row of an entry, or None; BEST is the faster of the two DiffuTrans."""
        if entry != BEST:
            return self.rows.get(entry)
        found = [self.rows[name] for name in (DIFFUTRAN, DIFFUTRAN_FLASH_2) if name in self.rows]
        return min(found, key=lambda row: row.median_ms, default=None)


def shapes_of(rows: Iterable[Row], filling: bool | None = None) -> list[Shape]:
    """All shapes; with `filling` False those of batch 1, with True those of the largest batch of each length."""
    found: dict[tuple[int, int], dict[str, Any]] = defaultdict(dict)
    for row in rows:
        found[row.length, row.batch][row.entry] = row
    largest = {length: batch for length, batch in sorted(found)}
    return [
        Shape(length, batch, by_entry)
        for (length, batch), by_entry in sorted(found.items())
        if filling is None or batch == (largest[length] if filling else 1)
    ]


SHAPE = Column("", lambda item: item.shape)


def _ms(entry: str, title: str, value: Callable[[Any], str]) -> Column:
    """A figure of one entry at a shape."""
    return Column(title, lambda shape: value(row) if (row := shape.get(entry)) else "not run")


def _ratio(peer: str, ours: str, title: str, value: Callable[[Any, Any], str]) -> Column:
    """How much longer the peer takes than our entry at a shape."""

    def cell(shape: Shape) -> str:
        a, b = shape.get(ours), shape.get(peer)
        return value(a, b) if a and b else ""

    return Column(title, cell)


def _milliseconds(row: Row) -> str:
    share = f" ({row.roofline_share:.0%})" if isinstance(row, RooflineRow) else ""
    return f"{row.median_ms:,.3f}{share}"


def _over(ours: Row, peer: Row) -> str:
    ratio = ours.over(peer)
    return ratio.text("x") if len(ours.ms) > 1 else f"{ratio.median:.2f}x"


def _over_with_roofline(ours: Any, peer: Any) -> str:
    return f"{ours.over(peer).median:.2f}x ({peer.roofline_ms / ours.roofline_ms:.2f})"


def forward_table(report: BenchReport, filling: bool) -> str:
    """Milliseconds of the entries over length, and ratios to DiffuTran with those of the rooflines in brackets.

    FlashAttention-2 has columns at batch 1 only, where it is measured.
    """
    names = [name for name in ENTRIES if not (filling and name == DIFFUTRAN_FLASH_2)]
    flash_2 = [] if filling else [(DIFFUTRAN_FLASH_2, PURE, "pure, over FA2")]
    ratios = [(BEST, PURE, "pure, over best"), *flash_2, (BEST, HYBRID, "hybrid, over best")]
    columns = [
        SHAPE._replace(title="ms"),
        *(_ms(name, LABELS[name], lambda row: f"{row.median_ms:,.2f}") for name in names),
        *(_ratio(*about, _over_with_roofline) for about in ratios),
    ]
    return columns_table(columns, shapes_of(report.forward, filling))


FORWARD_DETAILS = (
    SHAPE,
    Column("", lambda row: LABELS[row.entry]),
    Column("ms, range", lambda row: f"{row.min_ms:,.2f} to {row.max_ms:,.2f}"),
    Column("rounds", lambda row: f"{len(row.ms)}"),
    Column("tokens/s", lambda row: f"{row.tokens_per_second:,.0f}"),
    Column("of the roofline", lambda row: f"{row.roofline_share:.0%}"),
    Column("peak", lambda row: format_bytes(row.peak_bytes)),
    Column("kernels seen", lambda row: ", ".join(row.kernels)),
)
GENERATION = (
    SHAPE,
    Column("steps", lambda shape: str(shape.rows[PURE].steps)),
    _ms(PURE, "DiffuApriel ms/step", lambda row: f"{row.ms_per_step:,.2f}"),
    _ms(DIFFUTRAN, "DiffuTran ms/step", lambda row: f"{row.ms_per_step:,.2f}"),
    _ratio(
        DIFFUTRAN,
        PURE,
        "DiffuTran / DiffuApriel",
        lambda ours, peer: _over(ours, peer) if ours.steps == peer.steps else "",
    ),
    Column("tokens/s", lambda shape: f"{shape.rows[PURE].tokens_per_second:,.0f}"),
)
BACKEND_COLUMNS = (
    SHAPE._replace(title="ms"),
    *(_ms(name, name, _milliseconds) for name in BACKENDS),
    *(_ratio(name, BACKENDS[0], f"{name} / {BACKENDS[0]}", _over) for name in BACKENDS[1:]),
)
SAMPLER = (
    SHAPE,
    Column("steps", lambda row: str(row.steps)),
    Column("seconds", lambda row: f"{row.median_ms / 1000:.2f}"),
    Column("ms/step", lambda row: f"{row.ms_per_step:,.2f}"),
    Column("denoiser ms/step", lambda row: f"{row.ms_per_step * (1 - row.outside_share):,.2f}"),
    Column("outside the denoiser", lambda row: f"{row.outside_share:.1%}"),
)
MEMORY = (
    Column("", lambda row: LABELS[row.entry]),
    Column("length", lambda row: f"{row.length:,}"),
    Column("peak", lambda row: format_bytes(row.peak_bytes)),
    Column("before the pass", lambda row: format_bytes(row.baseline_bytes)),
    Column("added by the pass", lambda row: format_bytes(row.peak_bytes - row.baseline_bytes)),
)
TARGETS = (
    Column("", lambda target: target.what),
    Column("target", lambda target: target.target),
    Column("measured", lambda target: target.measured),
    Column("", lambda target: target.verdict),
)
IN_BLOCKS = (PURE, HYBRID, DIFFUTRAN)
OVER_DIFFUTRAN = (
    _ratio(DIFFUTRAN, PURE, "pure, over DiffuTran", _over),
    _ratio(DIFFUTRAN, HYBRID, "hybrid, over DiffuTran", _over),
)
BLOCK_PASSES = (
    SHAPE._replace(title="ms"),
    *(_ms(name, LABELS[name], _milliseconds) for name in IN_BLOCKS),
    *OVER_DIFFUTRAN,
)
BLOCK_CACHES = (
    Column("tokens", lambda shape: f"{shape.length:,}"),
    *(_ms(name, f"{LABELS[name]}, cache", lambda row: format_bytes(row.cache_bytes)) for name in IN_BLOCKS),
    *(_ms(name + FULL, f"{LABELS[name]}, full, ms", lambda row: f"{row.median_ms:,.1f}") for name in IN_BLOCKS),
)
BLOCK_GENERATIONS = (
    SHAPE,
    Column("rounds", lambda shape: str(len(next(iter(shape.rows.values())).ms))),
    Column("passes", lambda shape: f"{next(iter(shape.rows.values())).passes:,}"),
    *(_ms(name, f"{LABELS[name]}, ms/pass", lambda row: f"{row.ms_per_pass:,.3f}") for name in IN_BLOCKS),
    *OVER_DIFFUTRAN,
)
FULL_OVER_BLOCKS = (
    SHAPE,
    Column("calls per block", lambda shape: str(_calls_per_block(next(iter(shape.rows.values()))))),
    *(
        _ratio(name + FULL, name, f"{LABELS[name]}, {what}", ratio)
        for what, ratio in (
            ("equal tokens per pass", lambda ours, full: f"{ours.steps * full.median_ms / ours.median_ms:,.1f}x"),
            ("equal passes", lambda ours, full: f"{_calls_per_block(ours) * full.median_ms / ours.median_ms:,.2f}x"),
        )
        for name in IN_BLOCKS
    ),
)
ROUNDS = (
    Column("", lambda row: row.entry),
    Column("median ms", lambda row: f"{row.median_ms:,.0f}"),
    Column("ms, range", lambda row: f"{row.min_ms:,.0f} to {row.max_ms:,.0f}"),
)


def machine_line(report: BenchReport) -> str:
    """The device, the versions and the peaks in a sentence or two."""
    m = report.machine
    if report.device == "cpu":
        threads = f"{m.threads} thread{'s' if m.threads != 1 else ''}"
        return f"{m.device}, {threads}, PyTorch {m.torch}, Python {m.python}, {report.dtype}"
    versions = [f"PyTorch {m.torch}", f"Triton {m.triton}", f"cuDNN {m.cudnn}", f"mamba_ssm {m.mamba_ssm}"]
    known = ", ".join(version for version in versions if not version.endswith(" "))
    line = f"{m.device}, {known}, {report.dtype}, preset {report.preset}, random weights."
    if report.peaks:
        peaks, kind = report.peaks.median, "bf16" if report.dtype == "bfloat16" else report.dtype
        product = f"{peaks.flops / 1e12:,.0f} TFLOP/s in a {kind} product of side {report.peaks.matrix:,}"
        copy = f"{peaks.bandwidth / 1e12:.2f} TB/s copying {format_bytes(report.peaks.copy_bytes)}"
        line += f" Measured peaks: {product}, {copy}."
    return line


def format_report(report: BenchReport) -> str:
    """All parts that were measured, each with its title. FA2 is FlashAttention-2, forced."""
    took = ", ".join(f"{part} {done.seconds:.0f} s" for part, done in report.measured.items())
    head = [machine_line(report), f"Parts measured: {took}."]
    if len({done.code for done in report.measured.values()}) > 1:
        codes = ", ".join(f"{part} {done.code}" for part, done in report.measured.items())
        head.append(f"NOT all with the same code: {codes}. Measure the older parts again before comparing.")
    parts = part_texts(report)
    if report.forward:
        details = columns_table(FORWARD_DETAILS, report.forward)
        parts.insert(1, f"Spread, rounds, and what ran\n{details}")
    if report.problems:
        parts.append(_problems(report))
    return "\n\n".join(["\n".join(head), f"Targets\n{columns_table(TARGETS, targets(report))}", *parts])


def part_texts(report: BenchReport) -> list[str]:
    """Each part that was measured: a line with its title, notes, tables."""
    return ["\n".join(text for text in part if text) for part in _parts(report)]


def _parts(report: BenchReport) -> Iterator[tuple[str, ...]]:
    on_cpu = report.device == "cpu"
    if report.scan:
        row, error = report.scan[0], max(row.error for row in report.scan)
        ratio = Column("over ours", lambda peer: "" if peer is row else _over(row, peer))
        yield (
            "Bidirectional scan, forward and backward, against Listing 1 of the Mamba-2 paper",
            f"Chunk 64, batch {row.batch}, length {row.length:,}, 2 x {row.heads} heads of {row.headdim}, state "
            f"{row.state}; {len(row.ms)} interleaved rounds; outputs and gradients agree to {error:.0e}.",
            columns_table([*ROUNDS, ratio], report.scan),
        )
    if report.sweep:
        yield from _sweep(report, report.sweep)
    if report.forward:
        yield (
            "Forward pass of the backbone",
            "Medians in ms; in brackets the ratio of the rooflines (diffuapriel/benchmark/roofline.py). Batch 1:",
            forward_table(report, filling=False),
            "With a batch that fills the card:",
            forward_table(report, filling=True),
        )
    if report.generation:
        note = "Head and sampler included, strategy low_confidence."
        shapes = [shape for shape in shapes_of(report.generation) if PURE in shape.rows]
        yield "Whole generation", note, columns_table(GENERATION, shapes)
    for gradient, title in ((False, "forward"), (True, "forward and backward")):
        if rows := [row for row in report.mixer if row.gradient == gradient]:
            yield (
                f"Mixer between in_proj and out_proj, {title}",
                "In brackets the share of the memory roofline. All agree with the plain float32 mixer to "
                f"{max(row.error for row in rows):.1e} (relative norm).",
                columns_table(BACKEND_COLUMNS, shapes_of(rows)),
            )
    if report.training and on_cpu:
        row = report.training[0]
        yield (
            f"Training of {PURE} {report.preset}",
            f"Per step of {row.batch} x {row.length} tokens, {len(row.ms)} interleaved rounds; both loops reach the "
            "same losses.",
            columns_table(ROUNDS, report.training),
        )
    elif report.training:
        plain = sorted({row.entry for row in report.training if not row.compiled})
        yield (
            "One training step of pure DiffuApriel: forward, backward, clipping, optimizer",
            f"Not compiled: {', '.join(plain)}." if plain else "",
            columns_table(BACKEND_COLUMNS, shapes_of(report.training)),
        )
    if report.blocks:
        row = report.blocks[0]
        plain = {r.entry.partition(",")[0]: r for r in report.blocks if r.entry.endswith(", plain")}
        share = Column("of plain tokens/s", lambda r: _over(r, plain[r.entry.partition(",")[0]]))
        yield (
            "Training in blocks of S tokens",
            f"Forward and backward of {row.batch} x {row.length} tokens, {len(row.ms)} interleaved rounds.",
            columns_table([*ROUNDS, share], report.blocks),
        )
    if report.sampler:
        note = "" if on_cpu else "Final norm and head count as outside."
        title = f"Share of a generation outside the denoiser, {report.sampler[0].entry}"
        yield title, note, columns_table(SAMPLER, report.sampler)
    yield from _blocks(report)
    if report.memory:
        how = "The whole process, one process per pass." if on_cpu else "Bytes allocated, weights included."
        yield "Peak memory of a forward pass, batch 1", how, columns_table(MEMORY, report.memory)


def _blocks(report: BenchReport) -> Iterator[tuple[str, ...]]:
    """The blocks part of a GPU."""
    if report.block_passes:
        S = min(row.block_length for row in report.block_passes)
        yield (
            f"One pass over a block of {S} tokens, after a context",
            "Medians in ms; in brackets the share of the roofline.",
            columns_table(BLOCK_PASSES, shapes_of(report.block_passes)),
            "Batch 1: the cache after that many tokens, with room for the block, and (full) the pass of the same model "
            "over a text of that length.",
            columns_table(BLOCK_CACHES, shapes_of(report.block_passes, filling=False)),
        )
    if report.block_generations:
        shapes = shapes_of(report.block_generations)
        full = [row for row in report.block_passes if row.entry.endswith(FULL)]
        both = [shape for shape in shapes_of([*report.block_generations, *full]) if shape.rows.keys() & {*IN_BLOCKS}]
        yield (
            "Whole generation in blocks",
            "Commits, head and sampler included.",
            columns_table(BLOCK_GENERATIONS, shapes),
            "The time of full sequences over that of blocks. Full sequences take the measured pass times the calls, "
            "without a head: as many calls as all blocks together (equal tokens per pass), or as one block (equal "
            "passes).",
            columns_table(FULL_OVER_BLOCKS, both),
        )


def _calls_per_block(row: BlockGenerationRow) -> int:
    return row.steps * row.block_length // row.length


def _sweep(report: BenchReport, result: SweepResult) -> Iterator[tuple[str, ...]]:
    """The forward part of a CPU."""
    ours, peer = (result.curve(entry) for entry in result.entries)
    rows = []
    for length in sorted({*ours, *peer}):
        a, b = ours.get(length), peer.get(length)
        cells = [f"{ms:,.1f}" if ms else "not run" for ms in (a, b)]
        rows.append([f"{length:,}", *cells, f"{b / a:.2f}x" if a and b else ""])
    yield (
        f"Forward pass, {report.preset}, batch {result.batch}, medians of {result.repeats} interleaved runs",
        table(["length", "DiffuApriel ms", "DiffuTran ms", "DiffuTran / DiffuApriel"], rows),
        *(refused.message for refused in result.refusals),
        *(cross.message for cross in result.crossovers),
        *(f"{entry}: time grows as length^{e:.2f}" for entry, e in result.exponents.items() if e is not None),
    )


def _problems(report: BenchReport) -> str:
    """What could not run, one line per reason."""
    where: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for problem in report.problems:
        part = f"{problem.part}, backward" if problem.gradient else problem.part
        where[part, problem.entry, problem.message].append(problem.shape)
    lines = [f"{part}, {entry}, at {', '.join(at)}: {why}" for (part, entry, why), at in where.items()]
    return "\n".join(["NOT RUN", *lines])


END = "<!-- end of the GPU tables -->"
BLOCK = re.compile(rf"<!-- GPU tables(?: of (?P<source>\S+))? -->\n(?P<text>.*?){re.escape(END)}", re.S)


def docs_tables(report: BenchReport) -> str:
    """Markdown: the machine, and the tables of all parts."""
    parts = [machine_line(report), *(f"### {text}" for text in part_texts(report))]
    if first := faster_from(report):
        parts.insert(1, f"In a whole generation at batch 1 DiffuApriel is faster from {first:,} tokens on.")
    lines = []
    for old, line in pairwise(["", *"\n\n".join(parts).split("\n")]):
        if old and line and (old.startswith("|") != line.startswith("|") or old.startswith("#")):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def write_tables(page: Path, report: BenchReport, source: str) -> None:
    """Put the tables of `report` into `page`, between two comments; the first names `source`, its JSON.

    They replace the tables of the same source, or stand between comments that name none. Raises ValueError unless the
    page has one such pair.
    """
    text = page.read_text(encoding="utf-8")
    block = f"<!-- GPU tables of {source} -->\n{docs_tables(report)}{END}"
    places = [found for found in BLOCK.finditer(text) if found["source"] in (source, None)]
    if len(places) != 1:
        raise ValueError(
            f"{page} has {len(places)} places for GPU tables of {source} (<!-- GPU tables --> ... {END}); one is needed"
        )
    page.write_text(text[: places[0].start()] + block + text[places[0].end() :], encoding="utf-8")
