"""Measured results as files: JSON with everything, CSV with one row per entry or point, and a picture.

The JSON can be opened again, by `read_results`; that of a race holds its recording, so that it can be replayed.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from app.race.outcome import outcome
from app.race.store import MOST_RESULTS, SavedResult
from app.server.limits import Limits, Refused
from app.strings.language import texts
from diffuapriel.benchmark.result import EntryFacts, RaceResult, read_record, read_schema
from diffuapriel.benchmark.sweep import SweepResult
from diffuapriel.options import shown
from diffuapriel.storage import parse_json
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.recording import Recording

SCHEMA = "diffuapriel-results"
VERSION = 1
FACTS = ("architecture", "weights", "parameters", "dtype", "device", "attention", "scan", "form")
COLUMNS = (
    *("result", "kind", "measured", "entry", *FACTS[:3]),
    *("length", "batch", "steps", "strategy", "temperature", "seed", "repeats"),
    *("ms", "ms_min", "ms_max"),  # per step of a race, per forward pass of a sweep
    *(
        "tokens_per_second",
        "forward_passes",
        "tokens_per_pass",
        "peak_memory_bytes",
        *FACTS[3:],
        "block_length",
        "cache_bytes",
        "machine",
    ),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins with one of these


@contextmanager
def exported(results: Sequence[SavedResult]) -> Iterator[tuple[str, str, str]]:
    """The results as JSON, CSV and PNG files, for as long as the block lasts: Gradio takes copies."""
    from app.race.picture import draw

    with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
        base = Path(folder) / file_name(results)
        json_file, csv_file, png_file = (base.with_suffix(suffix) for suffix in (".json", ".csv", ".png"))
        text = json.dumps(document(results, recordings=True), indent=1, ensure_ascii=False, allow_nan=False)
        json_file.write_text(text + "\n", encoding="utf-8")
        csv_file.write_text(to_csv(results), encoding="utf-8", newline="")
        draw(results, png_file)
        yield str(json_file), str(csv_file), str(png_file)


def file_name(results: Sequence[SavedResult]) -> str:
    """'race-1', 'sweep-2' or 'results-1-2-5'."""
    numbers = "-".join(str(one.number) for one in results)
    return f"{results[0].kind if len(results) == 1 else 'results'}-{numbers}"


def document(results: Sequence[SavedResult], *, recordings: bool = False) -> dict[str, Any]:
    """Several results as one JSON object; `recordings`: with those of the races that still have one."""
    return {"schema": SCHEMA, "version": VERSION, "results": [to_dict(one, recordings) for one in results]}


def to_dict(saved: SavedResult, recordings: bool = False) -> dict[str, Any]:
    """Plain values for JSON: the package's own format of the result, its number, time, title and fairness."""
    result = saved.race or saved.sweep
    assert result is not None, "a result is that of a race or of a sweep"
    about: dict[str, Any] = {name: getattr(saved, name) for name in ("number", "kind", "measured", "title")}
    about |= {"result": result.to_dict()}
    if saved.facts:
        about["facts"] = [asdict(entry) for entry in saved.facts]
    if saved.race:
        about["outcome"] = outcome(saved.race)
        kept = [entry.recording for entry in saved.race.entries]
        if recordings and all(kept):
            about["recordings"] = [recording.to_dict() for recording in kept if recording]
    return {**about, "fairness": saved.fairness()}


def read_results(path: Any, limits: Limits) -> list[SavedResult]:
    """The results in a file that was saved here. Raises Refused, with the reason, for any other file."""
    if not isinstance(path, str) or not Path(path).is_file():
        raise Refused(texts.NO_RESULTS_FILE)
    name, size = Path(path).name, Path(path).stat().st_size
    if size > limits.max_upload_bytes:
        raise Refused(texts.RESULTS_TOO_LARGE.format(name=name, size=size, most=limits.max_upload_bytes))
    try:
        values = read_schema(parse_json(Path(path).read_bytes()), SCHEMA, VERSION)["results"]
        if not isinstance(values, list) or not 1 <= len(values) <= MOST_RESULTS:
            raise ValueError(f"results must be a list of 1 to {MOST_RESULTS}")
        found = [from_dict(one) for one in values]
        to_csv(found)  # what cannot be shown is no result either
        document(found)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ArithmeticError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)
        raise Refused(texts.NOT_RESULTS.format(name=name, why=f": {why}" if texts.LANGUAGE == "en" else "")) from error
    return found


def from_dict(values: Any) -> SavedResult:
    """The inverse of `to_dict`. Raises one of several errors for values that do not fit."""
    kind, measured = values["kind"], str(values["measured"])[:40]
    if kind == "sweep":
        facts = read_record(tuple[EntryFacts, ...], values["facts"])
        return SavedResult(measured=measured, sweep=SweepResult.from_dict(values["result"]), facts=facts)
    if kind != "race":
        raise ValueError(f"kind is {shown(kind)}; permitted: race, sweep")
    race = RaceResult.from_dict(values["result"])
    recordings = [Recording.from_dict(one) for one in values.get("recordings", ())]
    if recordings:
        tokenizers = [get_tokenizer(entry.tokenizer) for entry in race.entries]
        for recording, tokenizer in zip(recordings, tokenizers, strict=True):
            if (recording.length, recording.mask_id) != (race.length, tokenizer.mask_id):
                raise ValueError("a recording is of another length or tokenizer than its race")
        pairs = zip(race.entries, recordings, strict=True)
        race = replace(race, entries=tuple(replace(entry, recording=recording) for entry, recording in pairs))
    return SavedResult(measured=measured, race=race)


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
            row |= {"strategy": race.sampler(entry).strategy}
            if entry.block_length is None:  # no model of blocks: those of the race
                row["block_length"] = race.block_length or 0
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
