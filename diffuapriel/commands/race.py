"""Race models: same canvas, same steps, one after the other.

An entry is a bundled checkpoint, the folder of a checkpoint or of a run, or random weights:
random:PRESET:ARCHITECTURE (they write nonsense at the speed of a trained model). A model of blocks races with its
context cache; ENTRY@N is its block length, ENTRY@1 the autoregressive model. All entries warm up and are then timed
in interleaved runs; figures are medians. The lines below the table say what was fair and what was not. On a GPU all
entries are compiled and recorded as CUDA graphs before they are timed: the first warm-up step may take half a minute.

examples:
  diffuapriel race                                                the bundled DiffuApriel against DiffuTran
  diffuapriel race tales-diffuapriel runs/mine --length 512       a model of your own
  diffuapriel race random:tiny:diffuapriel random:tiny:diffutran --length 4096 --steps 8
  diffuapriel race random:1.3b:diffuapriel random:1.3b:diffutran --device cuda --length 8192
  diffuapriel race tales-diffuapriel runs/fast --steps 256 --own-rules   a teacher and its student in few passes
  diffuapriel race runs/blocks@16 runs/blocks@1                   a model of blocks against itself, one token at a time
  diffuapriel race --json race.json                               save the figures
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from diffuapriel.commands.console.output import output_file, write_figures
from diffuapriel.commands.console.terminal import status
from diffuapriel.options import add_argument, options_of
from diffuapriel.sampling.config import SamplerConfig

if TYPE_CHECKING:
    from diffuapriel.benchmark.entry import Entry
    from diffuapriel.benchmark.result import RaceResult

DEFAULT_ENTRIES = ("tales-diffuapriel", "tales-diffutran")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "entries", nargs="*", metavar="ENTRY", help=f"models to race; by default {' '.join(DEFAULT_ENTRIES)}"
    )
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens on the canvas")
    for name in ("steps", "strategy", "temperature", "seed"):
        add_argument(parser, options_of(SamplerConfig)[name])
    parser.add_argument(
        "--own-rules",
        action="store_true",
        help="each model writes by the rule that `diffuapriel tune` recorded for it; without one, by --strategy",
    )
    parser.add_argument("--repeats", type=int, default=4, metavar="N", help="timed runs per entry")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of the matrices; default: bfloat16 on cuda, else float32",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures to FILE as well")


def run(args: argparse.Namespace) -> int:
    from diffuapriel.benchmark.generation import race_events

    opened = [open_entry(name, args.device) for name in args.entries or DEFAULT_ENTRIES]
    if args.own_rules and not any(entry.generation for entry in opened):
        names = ", ".join(entry.name for entry in opened)
        raise ValueError(f"--own-rules: none of {names} has a recorded rule; diffuapriel tune finds one")
    entries = [(entry.with_own_rule() if args.own_rules else entry).tuned(args.dtype) for entry in opened]
    result = None
    for event in race_events(
        entries,
        args.length,
        args.steps,
        strategy=args.strategy,
        temperature=args.temperature,
        seed=args.seed,
        repeats=args.repeats,
    ):
        status(f"{event.fraction:4.0%} {event.phase} {event.entry}")
        result = event.result
    status("")
    assert result is not None, "a race ends with its result"
    print(format_race(result))
    if args.json:
        write_figures(args.json, result.to_dict())
    return 0


def open_entry(name: str, device: str) -> Entry:
    """The entry of a name on the command line. Raises ValueError or FileNotFoundError for one that cannot be opened."""
    from diffuapriel.benchmark.entry import Entry

    source, _, size = name.rpartition("@")
    if source and size.isdecimal():
        return open_entry(source, device).in_blocks(int(size))
    kind, _, rest = name.partition(":")
    if kind != "random":
        return Entry.from_checkpoint(name, device=device)
    preset, _, architecture = rest.partition(":")
    if not architecture:
        raise ValueError(f"entry {name!r}: write random:PRESET:ARCHITECTURE, for example random:nano:diffutran")
    return Entry.random(preset, architecture, device=device)


def format_race(result: RaceResult) -> str:
    """The entries, fastest first, and the sentences about fairness."""
    from diffuapriel.benchmark.format import Column, columns_table
    from diffuapriel.benchmark.memory import format_bytes
    from diffuapriel.benchmark.timing import Spread

    entries = sorted(result.entries, key=lambda entry: entry.seconds)
    columns = (
        Column("entry", lambda entry: entry.name),
        Column("parameters", lambda entry: f"{entry.parameters:,}"),
        Column("ms/step", lambda entry: f"{entry.ms_per_step:.1f}"),
        Column("seconds", lambda e: Spread(e.seconds, e.seconds_min, e.seconds_max).text()),
        Column("tokens/s", lambda entry: f"{entry.tokens_per_second:,.0f}"),
        Column("passes", lambda entry: str(entry.forward_passes)),
        Column("tokens/pass", lambda entry: f"{entry.tokens_per_pass:.2f}"),
        Column("peak memory", lambda entry: format_bytes(entry.peak_memory_bytes)),
        Column("speed", lambda entry: f"{entries[-1].seconds / entry.seconds:.2f}x"),
    )
    return "\n".join([columns_table(columns, entries), *result.fairness()])
