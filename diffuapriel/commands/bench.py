"""The speed and memory tables of this machine.

Four parts, each a ratio or a figure beside its peer, measured in one run:

  scan        the chunked bidirectional SSD, forward and backward, against the
              Mamba-2 paper's minimal listing run twice with flips
  forward     a forward pass of DiffuApriel against DiffuTran, from 256 to
              16,384 tokens, and where they cross
  generation  the share of a generation's time spent outside the denoiser
  memory      peak memory of a forward pass, up to 65,536 tokens

Leave the machine alone while it runs; medians and ranges tell how quiet it was.

examples:
  diffuapriel bench                         everything, some minutes
  diffuapriel bench --quick                 the same with fewer repeats and shorter lengths
  diffuapriel bench scan generation         two parts
  diffuapriel bench --json bench.json       keep the figures
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from diffuapriel.commands.choices import PRESETS


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="scan, forward, generation, memory; all by default"
    )
    parser.add_argument("--preset", default="nano", choices=PRESETS, help="size of the models")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="timed pairs of the scan")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, shorter lengths")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the JSON."""
    from diffuapriel.bench.report import format_report
    from diffuapriel.bench.run import PARTS, Plan, run_bench

    plan = Plan(preset=args.preset, parts=tuple(args.parts) or PARTS, repeats=args.repeats)
    report = run_bench(plan.quick() if args.quick else plan, say=lambda line: print(line, file=sys.stderr))
    print(format_report(report))
    if args.json:
        args.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    return 0
