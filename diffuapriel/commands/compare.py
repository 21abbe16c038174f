"""Compare backbones fairly: equal parameters, equal tokens, each with its own learning rate, several seeds.

Each entry's learning rate is chosen on a small budget; then it is trained on the full budget, once per seed, on the
same data in the same order. All are scored on the same validation sequences under the same noise, so differences have a
paired interval; on tales their stories are checked against the grammar too. The result is a table, conclusions that
follow from the intervals, learning curves (PNG) and the JSON behind them. After an interruption, the same command
continues.

Studies: architectures (DiffuApriel, DiffuApriel-H, DiffuTran), placement (where the hybrid's attention blocks are, and
how many), conditioning (with and without the noise level), blocks (block diffusion: one model for every block length
against models of one each, the reverse scan inside a block, the noise level).

examples:
  diffuapriel compare --tokens 500000 --sweep-tokens 100000 --seeds 0         a first look, a few minutes
  diffuapriel compare --corpus stdlib --tokens 20000000 --length 256
  diffuapriel compare --study placement --preset tiny --precision bf16 --compile
  diffuapriel compare --study blocks --preset tiny --factors 1 --precision bf16 --compile
  diffuapriel compare --study blocks --preset tiny --only diffutran,             one part, e.g. one for each GPU
  diffuapriel compare --corpus book.txt --out assets/results/compare-book
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from diffuapriel.benchmark.learning.plan import FACTORS, SEEDS, StudyPlan
from diffuapriel.commands.console.output import output_folder, printed_unless_written
from diffuapriel.options import add_argument, options_of


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: the options of `StudyPlan`, and where to write."""
    for option in options_of(StudyPlan).values():
        add_argument(parser, option)
    parser.add_argument(
        "--factors",
        type=float,
        nargs="+",
        metavar="X",
        default=FACTORS,
        help="multiples of the default learning rate to try",
    )
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", default=SEEDS, help="seeds; one run for each")
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", default=(), help="only the entries whose name contains one of these"
    )
    parser.add_argument(
        "--out",
        type=output_folder,
        metavar="PATH",
        help="path of the report, without suffix; default: runs/compare-...",
    )
    parser.add_argument(
        "--folder", type=output_folder, metavar="FOLDER", help="folder of the runs; default: runs/compare-..."
    )


def plan_of(args: argparse.Namespace) -> StudyPlan:
    fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(StudyPlan)}
    return StudyPlan(**{**fields, "factors": tuple(args.factors), "seeds": tuple(args.seeds), "only": tuple(args.only)})


def run(args: argparse.Namespace) -> int:
    from diffuapriel.benchmark.learning.report import text, write_report
    from diffuapriel.benchmark.learning.study import run_study, slug

    plan = plan_of(args)
    name = slug(f"compare-{plan.study}-{plan.corpus}-{plan.preset}")
    result = run_study(plan, Path(args.folder or f"runs/{name}"))
    if result is None:
        print("stopped before the end; run the same command again to continue")
        return 130
    with printed_unless_written(result):
        paths = write_report(result, args.out or Path("runs") / name)
    print(text(result))
    print("written to " + ", ".join(map(str, paths)))
    return 0
