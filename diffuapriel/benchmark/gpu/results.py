"""The figures of a GPU bench: rows of every part, and the report that holds, keeps and merges them.

Every row says who ran (`racer`), on what (`length` tokens, `batch` texts) and how long each round took (`ms`). Rows of
one shape were timed in turn, so two of them are compared round by round. What can be computed from a row is not
kept, but written to the JSON for readers without this code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuapriel.benchmark.timing import paired_ratio

SCHEMA = "diffuapriel-gpu-bench"
VERSION = 1


@dataclass(frozen=True)
class Machine:
    """The card and the versions: figures are merged only where all of this agrees."""

    device: str
    memory_bytes: int
    torch: str
    cuda: str
    cudnn: str
    triton: str
    mamba_ssm: str
    causal_conv1d: str
    python: str


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do, measured: bf16 matrix products in flops per second, copies in bytes per second."""

    matrix_rates: tuple[float, ...]
    bandwidths: tuple[float, ...]  # read plus written
    matrix: int  # side of the product
    copy_bytes: int

    @property
    def matrix_rate(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.matrix_rates)

    @property
    def bandwidth(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.bandwidths)


@dataclass(frozen=True)
class Row:
    """One racer at one shape."""

    derived: ClassVar[tuple[str, ...]] = ("median_ms", "min_ms", "max_ms", "tokens_per_second")

    racer: str
    length: int
    batch: int
    ms: tuple[float, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What a newer row must have in common to replace this one."""
        return (self.racer, self.length, self.batch, getattr(self, "gradient", False))

    @property
    def median_ms(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.ms)

    @property
    def min_ms(self) -> float:
        """The quickest round."""
        return min(self.ms)

    @property
    def max_ms(self) -> float:
        """The slowest round."""
        return max(self.ms)

    @property
    def tokens_per_second(self) -> float:
        """All texts' tokens over the median."""
        return 1000.0 * self.batch * self.length / self.median_ms

    def over(self, peer: Row) -> tuple[float, float, float]:
        """How many times as long `peer` takes, round by round: median, least, most."""
        return paired_ratio(self.ms, peer.ms)


@dataclass(frozen=True)
class ForwardRow(Row):
    """One forward pass of the backbone: hidden states at every position, no head."""

    derived: ClassVar[tuple[str, ...]] = (*Row.derived, "bound_share")

    peak_bytes: int  # most bytes allocated over the first call, weights included
    kernels: tuple[str, ...]  # attention and scan kernels as seen by the profiler
    bound_ms: float  # with the ceilings of the same run

    @property
    def bound_share(self) -> float:
        """Of the bound that is reached, 0 to 1."""
        return self.bound_ms / self.median_ms


@dataclass(frozen=True)
class GenerationRow(Row):
    """A whole generation from nothing, sampler and head included, in `steps` steps."""

    derived: ClassVar[tuple[str, ...]] = (*Row.derived, "ms_per_step")

    steps: int

    @property
    def ms_per_step(self) -> float:
        """Of the median generation."""
        return self.median_ms / self.steps


@dataclass(frozen=True)
class SamplerRow(GenerationRow):
    """A generation beside as many bare passes of the backbone (`hidden_ms`), in turn."""

    derived: ClassVar[tuple[str, ...]] = (*GenerationRow.derived, "outside_share")

    hidden_ms: tuple[float, ...]

    @property
    def outside_share(self) -> float:
        """Share of the generation spent in sampler, final norm and head: median over the rounds."""
        return statistics.median(1 - hidden / whole for hidden, whole in zip(self.hidden_ms, self.ms))


@dataclass(frozen=True)
class MixerRow(Row):
    """One Mamba-2 mixer between in_proj and out_proj; with `gradient`, forward and backward."""

    derived: ClassVar[tuple[str, ...]] = (*Row.derived, "floor_share")

    gradient: bool
    floor_ms: float  # the bytes that must move, at this run's copy bandwidth
    error: float  # relative difference of the output from that of the chunked backend in float32

    @property
    def floor_share(self) -> float:
        """Of the copy bandwidth that the unavoidable bytes reach, 0 to 1."""
        return self.floor_ms / self.median_ms


@dataclass(frozen=True)
class TrainingRow(Row):
    """One update of pure DiffuApriel with one backend: forward, backward, clip, optimizer."""

    compiled: bool


@dataclass(frozen=True)
class MemoryRow(Row):
    """Most bytes allocated during a first forward pass, weights included; `ms` is empty."""

    derived: ClassVar[tuple[str, ...]] = ()

    peak_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Problem:
    """A racer that could not run at a shape, and why."""

    part: str
    length: int
    batch: int
    racer: str = ""
    message: str = ""
    gradient: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of the row that is missing."""
        return (self.racer, self.length, self.batch, self.gradient)


@dataclass(frozen=True)
class Measured:
    """When a part was measured last: seconds it took, and a digest of the package's code then."""

    seconds: float
    code: str


ROWS: dict[str, type[Row]] = {
    "forward": ForwardRow,
    "generation": GenerationRow,
    "mixer": MixerRow,
    "training": TrainingRow,
    "sampler": SamplerRow,
    "memory": MemoryRow,
}


@dataclass(frozen=True)
class GpuReport:
    """Everything measured so far on one machine; a part that was not asked for is empty."""

    machine: Machine
    preset: str
    dtype: str
    ceilings: Ceilings | None = None
    forward: tuple[ForwardRow, ...] = ()
    generation: tuple[GenerationRow, ...] = ()
    mixer: tuple[MixerRow, ...] = ()
    training: tuple[TrainingRow, ...] = ()
    sampler: tuple[SamplerRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    problems: tuple[Problem, ...] = ()
    measured: dict[str, Measured] = dataclasses.field(default_factory=dict)

    def identity(self) -> tuple[Any, ...]:
        """What two reports must share to be merged."""
        return (self.machine, self.preset, self.dtype)

    def with_rows(self, part: str, rows: Iterable[Row | Problem]) -> GpuReport:
        """This report with newer rows of one part in place of those of the same racer and shape."""
        rows = list(rows)
        asked = {row.key for row in rows}
        kept = [row for row in getattr(self, part) if row.key not in asked]
        now = sorted(
            [*kept, *(row for row in rows if isinstance(row, Row))], key=lambda row: (row.length, row.batch)
        )
        problems = [p for p in self.problems if p.part != part or p.key not in asked]
        problems += [row for row in rows if isinstance(row, Problem)]
        return dataclasses.replace(self, **{part: tuple(now)}, problems=tuple(problems))

    def find(self, part: str, racer: str, length: int, batch: int, **about: Any) -> Any:
        """The row of one racer at one shape, or None."""
        for row in getattr(self, part):
            same = (row.racer, row.length, row.batch) == (racer, length, batch)
            if same and all(getattr(row, name) == value for name, value in about.items()):
                return row
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with what follows from each row."""
        values = dataclasses.asdict(self)
        for part in ROWS:
            for row, plain in zip(getattr(self, part), values[part], strict=True):
                plain |= {name: getattr(row, name) for name in row.derived}
        return {"schema": SCHEMA, "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GpuReport:
        """The inverse of `to_dict`. ValueError for another schema or version, or for fields that are not there."""
        found = (values.get("schema"), values.get("version"))
        if found != (SCHEMA, VERSION):
            raise ValueError(
                f"this is schema {found[0]!r} version {found[1]!r}; permitted: {SCHEMA!r} version {VERSION}"
            )
        try:
            rows = {part: tuple(_read(kind, row) for row in values[part]) for part, kind in ROWS.items()}
            return cls(
                machine=_read(Machine, values["machine"]),
                preset=values["preset"],
                dtype=values["dtype"],
                ceilings=_read(Ceilings, values["ceilings"]) if values["ceilings"] else None,
                problems=tuple(_read(Problem, row) for row in values["problems"]),
                measured={part: _read(Measured, row) for part, row in values["measured"].items()},
                **rows,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the figures are incomplete or damaged: {error!r}") from None

    def save(self, file: Path) -> None:
        """Write the JSON, whole or not at all; a list of numbers is one line."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.writing")
        aside.write_text(text + "\n", encoding="utf-8")
        os.replace(aside, file)

    @classmethod
    def load(cls, file: Path) -> GpuReport:
        """Read a JSON. Raises FileNotFoundError, or ValueError that names the file."""
        from diffuapriel.storage import read_json

        values = read_json(file)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None


def _read(kind: Any, values: dict[str, Any]) -> Any:
    """A row from its JSON: lists become tuples, derived values are left out."""
    if values.get("racer") == "official":  # the name of the mamba_ssm backend when the file was written
        values = values | {"racer": "mamba_ssm"}
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{n: tuple(values[n]) if isinstance(values[n], list) else values[n] for n in names})
