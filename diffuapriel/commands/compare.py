"""Compare backbones fairly: equal parameters, equal tokens, each its own learning rate, several seeds.

Each contestant's learning rate is chosen on a small budget, then it is trained on the whole one, once for every seed,
on the same data in the same order. All are scored on the same held-out windows under the same noise, so differences
have a paired interval; on tales their stories are read by the grammar too. The result is a table, sentences that
follow from the intervals, learning curves (PNG) and the JSON behind them. Stopped or killed, the same command goes on.

Studies: architectures (DiffuApriel, DiffuApriel-H, DiffuTran), placement (where the hybrid's attention blocks stand,
and how many), conditioning (with and without the noise level).

examples:
  diffuapriel compare --tokens 500000 --sweep-tokens 100000 --seeds 0         a first look, some minutes
  diffuapriel compare --corpus stdlib --tokens 20000000 --length 256
  diffuapriel compare --study placement --preset tiny --precision bf16 --compile
  diffuapriel compare --corpus book.txt --out assets/results/compare-book
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffuapriel.config import PRESETS

STUDIES = ("architectures", "placement", "conditioning")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. None stands for what Plan says."""
    parser.add_argument("--study", choices=STUDIES, help="what is compared; default: architectures")
    parser.add_argument("--preset", choices=PRESETS, help="size; default: nano")
    parser.add_argument("--corpus", metavar="SPEC", help="as for `diffuapriel train`; default: tales:3")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of each run; default: 5000000")
    parser.add_argument(
        "--sweep-tokens", type=int, metavar="N", help="tokens to try a learning rate with; default: 1000000"
    )
    parser.add_argument(
        "--factors",
        type=float,
        nargs="+",
        metavar="X",
        help="of the default learning rates; default: 0.5 1 2",
    )
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="one run each; default: 0 1")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of a window; default: 128")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows of an update; default: 32")
    parser.add_argument(
        *("--sequences", "--windows"),
        dest="windows",
        type=int,
        metavar="N",
        help="for validation; default: 512",
    )
    parser.add_argument(
        *("--mc-samples", "--draws"),
        dest="draws",
        type=int,
        metavar="N",
        help="noise levels of each; default: 8",
    )
    parser.add_argument(
        "--stories", type=int, metavar="N", help="to draw from a model of tales; default: 200"
    )
    parser.add_argument("--device", help="cpu, cuda or mps; default: CUDA where there is one")
    parser.add_argument("--precision", choices=("float32", "bf16"), help="of the products; default: float32")
    parser.add_argument("--compile", action="store_const", const=True, help="use torch.compile")
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="of the report, without ending; default: runs/compare-..."
    )
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="of the runs; default: that of the report"
    )


NOT_FIELDS = {"command", "debug", "out", "folder"}


def run(args: argparse.Namespace) -> int:
    """Train what is not trained yet, score, print and write the report."""
    from diffuapriel.benchmark.learning.plan import Plan
    from diffuapriel.benchmark.learning.report import text, write_report
    from diffuapriel.benchmark.learning.study import run_study, slug

    given = {
        name: value for name, value in vars(args).items() if name not in NOT_FIELDS and value is not None
    }
    for name in ("factors", "seeds"):
        if name in given:
            given[name] = tuple(given[name])
    plan = Plan(**given)
    name = slug(f"compare-{plan.study}-{plan.corpus}-{plan.preset}")
    out = args.out or Path("runs") / name
    result = run_study(plan, args.folder or Path("runs") / name)
    if result is None:
        print("stopped before the end; the same command goes on from here")
        return 130
    paths = write_report(result, out)
    print(text(result))
    print("written to " + ", ".join(map(str, paths)))
    return 0
