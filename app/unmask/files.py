"""Traces as files: what a visitor saves, and what a visitor opens again."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.server.limits import Limits, Refused
from app.strings.language import texts
from diffuapriel.trace.trace import Trace

MAX_TRACE_LENGTH = 16_384  # tokens that the player draws


@contextmanager
def saved(trace: Trace) -> Iterator[tuple[str, str]]:
    """The trace as a JSON file and as a web page, for as long as the block lasts: Gradio takes copies."""
    with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
        base = Path(folder) / file_name(trace)
        json_file, html_file = base.with_suffix(".json"), base.with_suffix(".html")
        json_file.write_text(trace.to_json(), encoding="utf-8")
        html_file.write_text(trace.to_html(), encoding="utf-8")
        yield str(json_file), str(html_file)


def file_name(trace: Trace) -> str:
    """A name that says what ran: model, strategy, seed; letters, digits and dashes only."""
    words = "-".join(str(trace.meta.get(key, "")) for key in ("model", "strategy", "seed"))
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:80] or "trace"


def read_trace(path: str | None, limits: Limits) -> Trace:
    """The trace in an uploaded file. Raises Refused for a file that is too large, damaged or something else."""
    if not isinstance(path, str) or not Path(path).is_file():
        raise Refused(texts.NO_FILE)
    size = Path(path).stat().st_size
    if size > limits.max_upload_bytes:
        raise Refused(texts.FILE_TOO_LARGE.format(size=f"{size:,}", most=f"{limits.max_upload_bytes:,}"))
    try:
        trace = Trace.from_json(Path(path).read_bytes())
    except ValueError as error:  # also of invalid UTF-8
        raise Refused(texts.NOT_A_TRACE.format(why=error)) from error
    if len(trace.fixed) > MAX_TRACE_LENGTH:
        raise Refused(
            texts.TRACE_TOO_LONG.format(tokens=f"{len(trace.fixed):,}", most=f"{MAX_TRACE_LENGTH:,}")
        )
    return trace
