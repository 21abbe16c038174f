"""The GPU tables of docs/benchmarks.md, written from a bench's JSON between two comments, never by hand.

The first comment names the JSON, so that a test can compare the tables with it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from diffuapriel.benchmark.format import machine_line, part_texts
from diffuapriel.benchmark.report import BenchReport
from diffuapriel.benchmark.targets import faster_from

END = "<!-- end of the GPU tables -->"
BLOCK = re.compile(rf"<!-- GPU tables(?: of (?P<source>\S+))? -->\n(?P<text>.*?){re.escape(END)}", re.S)


def tables(report: BenchReport) -> str:
    """Markdown: the machine, and the tables of all parts."""
    parts = [machine_line(report), *(f"### {text}" for text in part_texts(report))]
    if first := faster_from(report):
        parts.insert(1, f"In a whole generation at batch 1 DiffuApriel is faster from {first:,} tokens on.")
    lines = [
        f"\n{line}"
        if old and line and (old.startswith("|") != line.startswith("|") or old.startswith("#"))
        else line
        for old, line in pairwise(["", *"\n\n".join(parts).split("\n")])
    ]
    return "\n".join(lines) + "\n"


def write_tables(page: Path, report: BenchReport, source: str) -> None:
    """Put the tables of `report` into `page`; `source` is its JSON, relative to the repository.

    Raises ValueError unless the page has the two comments exactly once.
    """
    text = page.read_text(encoding="utf-8")
    block = f"<!-- GPU tables of {source} -->\n{tables(report)}{END}"
    new, found = BLOCK.subn(lambda _: block, text)
    if found != 1:
        raise ValueError(
            f"{page} has {found} places for GPU tables (<!-- GPU tables --> ... {END}); one is needed"
        )
    page.write_text(new, encoding="utf-8")
