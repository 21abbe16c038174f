"""Measured results as files: JSON with everything, CSV with one row per entry or point."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.race.store import Kept, document

COLUMNS: tuple[str, ...] = (
    "result",
    "kind",
    "measured",
    "entry",
    "architecture",
    "weights",
    "parameters",
    "length",
    "batch",
    "steps",
    "strategy",
    "temperature",
    "seed",
    "repeats",
    "ms",  # of a step in a race, of a forward pass in a sweep
    "ms_min",
    "ms_max",
    "tokens_per_second",
    "forward_passes",
    "peak_memory_bytes",
    "dtype",
    "device",
    "attention",
    "scan",
    "form",
    "machine",
)
FACTS = ("architecture", "weights", "parameters", "dtype", "device", "attention", "scan", "form")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins so


@contextmanager
def saved(kept: Sequence[Kept]) -> Iterator[tuple[str, str, str]]:
    """The results as JSON, CSV and PNG files, for as long as the block lasts: Gradio takes copies."""
    from app.race.picture import draw

    with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
        base = Path(folder) / file_name(kept)
        files = [base.with_suffix(suffix) for suffix in (".json", ".csv", ".png")]
        files[0].write_text(
            json.dumps(document(kept), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        files[1].write_text(to_csv(kept), encoding="utf-8", newline="")
        draw(kept, files[2])
        json_file, csv_file, png_file = map(str, files)
        yield json_file, csv_file, png_file


def file_name(kept: Sequence[Kept]) -> str:
    """'race-1', 'sweep-2' or 'results-1-2-5'."""
    numbers = "-".join(str(one.number) for one in kept)
    return f"{kept[0].kind if len(kept) == 1 else 'results'}-{numbers}"


def to_csv(kept: Sequence[Kept]) -> str:
    """One row for each entry of a race and each point of a sweep."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    for one in kept:
        for row in rows_of(one):
            writer.writerow({name: harmless(value) for name, value in row.items()})
    return out.getvalue()


def rows_of(kept: Kept) -> list[dict[str, Any]]:
    """The rows of one result, by column."""
    head = {"result": kept.number, "kind": kept.kind, "measured": kept.measured}
    if kept.race:
        race = kept.race
        shared = {
            name: getattr(race, name) for name in ("length", "steps", "strategy", "temperature", "seed")
        }
        shared |= {"repeats": race.repeats, "machine": race.machine, "batch": 1}
        return [
            {
                **head,
                **shared,
                **{name: getattr(entry, name) for name in FACTS},
                "entry": entry.name,
                "ms": entry.ms_per_step,
                "ms_min": 1000 * entry.seconds_min / len(entry.step_ms),
                "ms_max": 1000 * entry.seconds_max / len(entry.step_ms),
                "tokens_per_second": entry.tokens_per_second,
                "forward_passes": entry.forward_passes,
                "peak_memory_bytes": entry.peak_memory_bytes,
            }
            for entry in race.entries
        ]
    sweep = kept.sweep
    assert sweep is not None, "a result is of a race or of a sweep"
    facts = {entry.name: {name: getattr(entry, name) for name in FACTS} for entry in kept.facts}
    shared = {"batch": sweep.batch, "repeats": sweep.repeats, "machine": sweep.machine, "forward_passes": 1}
    fields = ("entry", "length", "ms", "ms_min", "ms_max", "tokens_per_second", "peak_memory_bytes")
    return [
        {**head, **shared, **facts[point.entry], **{name: getattr(point, name) for name in fields}}
        for point in sweep.points
    ]


def harmless(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
