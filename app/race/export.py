"""Measured results as files: JSON with everything, CSV with one row per entry or point, and a picture."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.race.store import SavedResult

SCHEMA = "diffuapriel-results"
VERSION = 1
FACTS = ("architecture", "weights", "parameters", "dtype", "device", "attention", "scan", "form")
COLUMNS = (
    *("result", "kind", "measured", "entry", *FACTS[:3]),
    *("length", "batch", "steps", "strategy", "temperature", "seed", "repeats"),
    *("ms", "ms_min", "ms_max"),  # per step of a race, per forward pass of a sweep
    *("tokens_per_second", "forward_passes", "peak_memory_bytes", *FACTS[3:], "machine"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins with one of these


@contextmanager
def exported(results: Sequence[SavedResult]) -> Iterator[tuple[str, str, str]]:
    """The results as JSON, CSV and PNG files, for as long as the block lasts: Gradio takes copies."""
    from app.race.picture import draw

    with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
        base = Path(folder) / file_name(results)
        json_file, csv_file, png_file = (base.with_suffix(suffix) for suffix in (".json", ".csv", ".png"))
        text = json.dumps(document(results), indent=1, ensure_ascii=False, allow_nan=False)
        json_file.write_text(text + "\n", encoding="utf-8")
        csv_file.write_text(to_csv(results), encoding="utf-8", newline="")
        draw(results, png_file)
        yield str(json_file), str(csv_file), str(png_file)


def file_name(results: Sequence[SavedResult]) -> str:
    """'race-1', 'sweep-2' or 'results-1-2-5'."""
    numbers = "-".join(str(one.number) for one in results)
    return f"{results[0].kind if len(results) == 1 else 'results'}-{numbers}"


def document(results: Sequence[SavedResult]) -> dict[str, Any]:
    """Several results as one JSON object."""
    return {"schema": SCHEMA, "version": VERSION, "results": [to_dict(one) for one in results]}


def to_dict(saved: SavedResult) -> dict[str, Any]:
    """Plain values for JSON: the package's own format of the result, its number, time, title and fairness."""
    result = saved.race or saved.sweep
    assert result is not None, "a result is that of a race or of a sweep"
    about = {name: getattr(saved, name) for name in ("number", "kind", "measured", "title")}
    facts = {"facts": [asdict(entry) for entry in saved.facts]} if saved.facts else {}
    return {**about, "result": result.to_dict(), **facts, "fairness": saved.fairness()}


def to_csv(results: Sequence[SavedResult]) -> str:
    """One row per entry of a race and per point of a sweep."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    for one in results:
        for row in csv_rows(one):
            writer.writerow({name: harmless(value) for name, value in row.items()})
    return out.getvalue()


def csv_rows(saved: SavedResult) -> Iterator[dict[str, Any]]:
    """The rows of one result, by column."""
    shared: dict[str, Any] = {"result": saved.number, "kind": saved.kind, "measured": saved.measured}
    if race := saved.race:
        names = ("length", "steps", "strategy", "temperature", "seed", "repeats", "machine")
        shared |= {name: getattr(race, name) for name in names} | {"batch": 1}
        for entry in race.entries:
            row = {name: getattr(entry, name) for name in COLUMNS if hasattr(entry, name)}
            least, most = entry.ms_ends
            row |= {"entry": entry.name, "ms": entry.ms_per_step, "ms_min": least, "ms_max": most}
            yield {**shared, **row}
    elif sweep := saved.sweep:
        shared |= {name: getattr(sweep, name) for name in ("batch", "repeats", "machine")}
        facts = {entry.name: {name: getattr(entry, name) for name in FACTS} for entry in saved.facts}
        for point in sweep.points:
            row = {name: getattr(point, name) for name in COLUMNS if hasattr(point, name)}
            yield {**shared, "forward_passes": 1, **facts[point.entry], **row}


def harmless(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
