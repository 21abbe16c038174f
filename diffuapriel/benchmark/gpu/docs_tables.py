"""The README's GPU tables, written from the JSON: between two comments, by a command, never by hand.

The first comment names the JSON, so that a test can hold the tables to it.
"""

from __future__ import annotations

import re
from pathlib import Path

from diffuapriel.benchmark.gpu.report import aims_table, forward_table, generation_table, machine_line
from diffuapriel.benchmark.gpu.results import GpuReport
from diffuapriel.benchmark.gpu.targets import faster_from

END = "<!-- end of the GPU tables -->"
BLOCK = re.compile(rf"<!-- GPU tables(?: of (?P<source>\S+))? -->\n(?P<text>.*?){re.escape(END)}", re.S)


def tables(report: GpuReport) -> str:
    """Markdown: the machine, the forward pass at both batches, generation, and what was aimed at."""
    parts = [machine_line(report)]
    if report.forward:
        parts += [
            "Forward pass of the backbone, batch 1, medians in ms; in brackets the ratio that the arithmetic "
            'allows on this card (`diffuapriel/benchmark/roofline.py`). FA2 is FlashAttention-2, forced; "best" is the '
            "faster of the two DiffuTran columns.",
            forward_table(report, filling=False),
            "The same with a batch that fills the card:",
            forward_table(report, filling=True),
        ]
    if report.generation:
        first = faster_from(report)
        crossing = f" At batch 1 DiffuApriel is the faster one from {first:,} tokens on." if first else ""
        parts += [
            f"A whole generation, head and sampler included, strategy `confidence`.{crossing}",
            generation_table(report),
        ]
    parts += ["What was aimed at:", aims_table(report)]
    return "\n\n".join(parts) + "\n"


def write_tables(readme: Path, report: GpuReport, source: str) -> None:
    """Put the tables of `report` into the README; `source` is its JSON, relative to the README.

    Raises ValueError where the two comments are missing.
    """
    text = readme.read_text(encoding="utf-8")
    block = f"<!-- GPU tables of {source} -->\n{tables(report)}{END}"
    new, found = BLOCK.subn(lambda _: block, text)
    if found != 1:
        raise ValueError(
            f"{readme} has {found} places for GPU tables (<!-- GPU tables --> ... {END}); one is needed"
        )
    readme.write_text(new, encoding="utf-8")


def written_tables(readme: Path) -> tuple[str | None, str]:
    """(source, text) of the README's block; source None while nothing has been measured."""
    found = BLOCK.search(readme.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{readme} has no place for GPU tables (<!-- GPU tables --> ... {END})")
    return found["source"], found["text"]
