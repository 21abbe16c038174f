"""The figures of a bench: a row per entry and shape, and the report that holds, keeps and merges them.

A row says what ran (`entry`), on what (`length` tokens, `batch` texts) and how long each round took (`ms`). Rows of one
shape were timed interleaved, so two of them are compared round by round. Values that follow from a row are properties;
the JSON has them too, for readers without this code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffuapriel.benchmark.result import read_record, read_schema
from diffuapriel.benchmark.roofline import MeasuredPeaks
from diffuapriel.benchmark.sweep import SweepResult
from diffuapriel.benchmark.timing import Spread, paired_ratio
from diffuapriel.storage import read_json

SCHEMAS = {"cpu": "diffuapriel-bench", "gpu": "diffuapriel-gpu-bench"}
VERSION = 2
OLD_KEYS = {  # of version 1
    "ceilings": "peaks",
    "matrix_rates": "flops_rounds",
    "bandwidths": "bandwidth_rounds",
    "racer": "entry",
    "bound_ms": "roofline_ms",
    "floor_ms": "roofline_ms",
    "weight_bytes": "baseline_bytes",
}
OLD_ENTRIES = {"official": "mamba_ssm"}
ROW_VALUES = ("median_ms", "min_ms", "max_ms", "tokens_per_second")
DERIVED = (*ROW_VALUES, "roofline_share", "ms_per_step", "ms_per_pass", "outside_share")  # what follows from a row


@dataclass(frozen=True)
class Machine:
    """The device and the versions: figures are merged only if all of this agrees."""

    device: str
    memory_bytes: int = 0
    torch: str = ""
    cuda: str = ""
    cudnn: str = ""
    triton: str = ""
    mamba_ssm: str = ""
    causal_conv1d: str = ""
    python: str = ""
    threads: int = 0  # of a CPU


class AtShape:
    """A row or a problem of `entry` at a shape."""

    entry: str
    length: int
    batch: int

    @property
    def key(self) -> tuple[Any, ...]:
        """A newer row or problem with the same key replaces this one."""
        return (self.entry, self.length, self.batch, getattr(self, "gradient", False))

    @property
    def shape(self) -> str:
        """'64 x 1,024': batch and length."""
        return f"{self.batch} x {self.length:,}"


@dataclass(frozen=True)
class Row(AtShape):
    """One entry at one shape."""

    entry: str
    length: int
    batch: int
    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.ms)

    @property
    def min_ms(self) -> float:
        return min(self.ms)

    @property
    def max_ms(self) -> float:
        return max(self.ms)

    @property
    def tokens_per_second(self) -> float:
        """The tokens of all texts per second, at the median."""
        return 1000.0 * self.batch * self.length / self.median_ms

    def over(self, peer: Row) -> Spread:
        """How many times as long `peer` takes, round by round."""
        return paired_ratio(self.ms, peer.ms)


@dataclass(frozen=True)
class ScanRow(Row):
    """A bidirectional scan on a CPU, forward and backward; `error` is its largest relative difference from ours."""

    heads: int
    headdim: int
    state: int
    error: float


@dataclass(frozen=True)
class RooflineRow(Row):
    """A row with the least time that the peaks of the same run allow."""

    roofline_ms: float

    @property
    def roofline_share(self) -> float:
        """The roofline's time over the median, 0 to 1."""
        return self.roofline_ms / self.median_ms


@dataclass(frozen=True)
class ForwardRow(RooflineRow):
    """One forward pass of the backbone: hidden states at every position, no head."""

    peak_bytes: int  # most bytes allocated over the first call, weights included
    kernels: tuple[str, ...]  # attention and scan kernels as seen by the profiler


@dataclass(frozen=True)
class GenerationRow(Row):
    """A whole generation from nothing, sampler and head included, in `steps` steps."""

    steps: int

    @property
    def ms_per_step(self) -> float:
        return self.median_ms / self.steps


@dataclass(frozen=True)
class SamplerRow(GenerationRow):
    """A generation, and the time of its denoiser calls alone (`hidden_ms`, a value per round).

    On a CPU the calls are timed within the generation. On a GPU as many passes of the bare backbone are timed
    interleaved with it; final norm and head then count as part of the sampler.
    """

    hidden_ms: tuple[float, ...]

    @property
    def outside_share(self) -> float:
        """Share of the generation spent outside `hidden_ms`: median over the rounds."""
        return statistics.median(1 - hidden / whole for hidden, whole in zip(self.hidden_ms, self.ms))


@dataclass(frozen=True)
class MixerRow(RooflineRow):
    """One Mamba-2 mixer between in_proj and out_proj; with `gradient`, forward and backward.

    Its roofline is the bytes that must move, at peak bandwidth.
    """

    gradient: bool
    error: float  # relative difference of the output from that of the chunked backend in float32


@dataclass(frozen=True)
class BlockRow(RooflineRow):
    """One pass over a block after `length` tokens in the cache, or over a full sequence of `length` tokens."""

    block_length: int
    cache_bytes: int  # of all rows; 0 without a cache


@dataclass(frozen=True)
class BlockGenerationRow(GenerationRow):
    """A text of `length` tokens, block after block: `steps` denoiser calls in `passes` passes, commits included."""

    passes: int
    block_length: int
    cache_bytes: int

    @property
    def ms_per_pass(self) -> float:
        return self.median_ms / self.passes


@dataclass(frozen=True)
class TrainingRow(Row):
    """One training step: forward, backward, clipping, optimizer."""

    compiled: bool = False


@dataclass(frozen=True)
class MemoryRow(Row):
    """Peak memory of a forward pass; `ms` is empty.

    On a CPU it is the highest resident size of a process, and `baseline_bytes` its size before the pass.
    On a GPU it is the most bytes allocated, and `baseline_bytes` are the weights.
    """

    peak_bytes: int
    baseline_bytes: int


@dataclass(frozen=True)
class Problem(AtShape):
    """An entry that could not run at a shape, and why."""

    part: str
    length: int
    batch: int
    entry: str = ""
    message: str = ""
    gradient: bool = False


@dataclass(frozen=True)
class Measured:
    """The last measurement of a part: seconds it took, and a digest of the measured code."""

    seconds: float
    code: str


ROWS: dict[str, type[Row]] = {
    "scan": ScanRow,
    "forward": ForwardRow,
    "generation": GenerationRow,
    "mixer": MixerRow,
    "training": TrainingRow,
    "blocks": TrainingRow,
    "sampler": SamplerRow,
    "memory": MemoryRow,
    "block_passes": BlockRow,
    "block_generations": BlockGenerationRow,
}


@dataclass(frozen=True)
class BenchReport:
    """All parts that were measured; `problems` are rows that could not be."""

    machine: Machine
    preset: str
    dtype: str
    device: str = "gpu"  # or "cpu": whose parts
    peaks: MeasuredPeaks | None = None
    sweep: SweepResult | None = None  # the forward part of a CPU
    scan: tuple[ScanRow, ...] = ()
    forward: tuple[ForwardRow, ...] = ()
    generation: tuple[GenerationRow, ...] = ()
    mixer: tuple[MixerRow, ...] = ()
    training: tuple[TrainingRow, ...] = ()
    blocks: tuple[TrainingRow, ...] = ()
    sampler: tuple[SamplerRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    block_passes: tuple[BlockRow, ...] = ()
    block_generations: tuple[BlockGenerationRow, ...] = ()
    problems: tuple[Problem, ...] = ()
    measured: dict[str, Measured] = field(default_factory=dict)

    def check_same(self, other: BenchReport) -> None:
        """Raises ValueError, with the first difference, if a new run `other` must not be merged into this report."""
        known, now = ({**vars(r.machine), "preset": r.preset, "dtype": r.dtype} for r in (self, other))
        for name, value in known.items():
            if value != now[name]:
                raise ValueError(
                    f"the figures kept so far have {name} {value!r}, this run {now[name]!r}; "
                    "give another --json file, or remove that one"
                )

    def with_rows(self, part: str, rows: Iterable[Row | Problem]) -> BenchReport:
        """This report with newer rows of one part in place of those of the same entry and shape."""
        rows = list(rows)
        replaced = {row.key for row in rows}
        found = [row for row in getattr(self, part) if row.key not in replaced]
        found += [row for row in rows if isinstance(row, Row)]
        found.sort(key=lambda row: (row.length, row.batch))
        problems = [p for p in self.problems if p.part != part or p.key not in replaced]
        problems += [row for row in rows if isinstance(row, Problem)]
        return dataclasses.replace(self, **{part: tuple(found)}, problems=tuple(problems))

    def find(self, part: str, entry: str, length: int, batch: int) -> Any:
        """The row of one entry at one shape, or None."""
        at = (entry, length, batch)
        return next((row for row in getattr(self, part) if (row.entry, row.length, row.batch) == at), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the values that follow from each row."""
        values = dataclasses.asdict(dataclasses.replace(self, sweep=None))
        for part in ROWS:
            for row, plain in zip(getattr(self, part), values[part], strict=True):
                plain |= {name: getattr(row, name) for name in DERIVED if row.ms and hasattr(row, name)}
        values["sweep"] = self.sweep.to_dict() if self.sweep else None
        return {"schema": SCHEMAS[self.device], "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BenchReport:
        """The inverse of `to_dict`. Raises ValueError for another schema or version, and for missing fields.

        Reads version 1 of a GPU's figures too, with its older names.
        """
        device = "cpu" if isinstance(values, dict) and values.get("schema") == SCHEMAS["cpu"] else "gpu"
        known = read_schema(values, SCHEMAS[device], VERSION, OLD_KEYS)
        try:
            for row in (row for part in (*ROWS, "problems") for row in known.get(part, ())):
                row["entry"] = OLD_ENTRIES.get(row["entry"], row["entry"])
            return read_record(cls, {**known, "device": device})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the figures are incomplete or damaged: {error!r}") from None

    def save(self, file: Path) -> None:
        """Write the JSON atomically; a list of numbers is one line."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.writing")
        aside.write_text(text + "\n", encoding="utf-8")
        os.replace(aside, file)

    @classmethod
    def load(cls, file: Path) -> BenchReport:
        """Read a JSON. Raises FileNotFoundError, or ValueError that names the file."""
        values = read_json(file)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
