"""Measure speed and memory of this machine.

Six parts on the CPU, each with its ratio to a baseline measured in the same run:

  scan        the chunked bidirectional SSD, forward and backward, against the
              Mamba-2 paper's minimal listing run twice with flips
  forward     a forward pass of DiffuApriel against DiffuTran, from 256 to
              16,384 tokens, and where they cross
  generation  the share of a generation's time spent outside the denoiser
  training    the speed of `train` over that of the same model in a plain loop
  blocks      training a model of blocks: the speed of a folded pass over that of
              a plain one, for the three architectures and several block lengths
  memory      peak memory of a forward pass, up to 65,536 tokens

With --gpu, on one NVIDIA GPU, preset 1.3b with random weights in bfloat16, lengths 1,024 to 65,536, batch 1 and a
batch that fills the card:

  peaks       this card's own peak FLOP/s and bandwidth
  forward     the backbone's forward pass: DiffuApriel, DiffuApriel-H, DiffuTran
              with cuDNN's attention preferred and with FlashAttention-2 forced
  generation  whole generations, DiffuApriel against DiffuTran
  mixer       our Mamba-2 kernels against mamba_ssm's with flips, and plain PyTorch
  training    one training step with each of these three
  sampler     the share of a generation spent in sampler and head
  memory      peak memory at the longest length
  blocks      models of blocks of 256 tokens with their caches, at contexts of 1,024
              to 262,144 tokens: one pass beside that of the full sequence, and
              whole generations, commits included; bytes of the caches
  folded      training `tiny` in blocks: a folded pass over a plain one, as recorded

On a GPU each shape is written to the JSON as soon as it is measured, and a later run with the same --json adds to it if
card, versions and preset are the same: parts can be measured one by one. The report also compares the figures with the
project's targets.

Leave the machine idle otherwise; the ranges show how quiet it was.

examples:
  diffuapriel bench                                    everything on the CPU, a few minutes
  diffuapriel bench --quick                            the same with fewer repeats and shorter lengths
  diffuapriel bench scan generation --json bench.json  two parts, and save the figures
  diffuapriel bench --gpu --save                       everything on the GPU, into assets/results/
  diffuapriel bench --gpu forward mixer --lengths 1024,65536 --json gpu.json
  diffuapriel bench --gpu blocks --save
  diffuapriel bench --gpu --from gpu.json --chart gpu.html --chart gpu.png
  diffuapriel bench --gpu --from gpu.json --docs       write the GPU tables of docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffuapriel.commands.console.output import output_file, printed_unless_written
from diffuapriel.config import PRESETS

if TYPE_CHECKING:
    from diffuapriel.benchmark.plan import BenchPlan
    from diffuapriel.benchmark.report import BenchReport

GPU_ONLY = ("lengths", "steps", "save", "figures", "chart", "docs")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="*", metavar="PART", help="which of the parts above; all by default")
    parser.add_argument("--preset", choices=PRESETS, help="size of the models; by default nano, with --gpu 1.3b")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed rounds; by default 7, with --gpu up to 15")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, shorter lengths")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures to FILE as well")
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--gpu", action="store_true", help="measure one NVIDIA GPU")
    gpu.add_argument("--lengths", type=_lengths, metavar="N,N,...", help="tokens per text")
    gpu.add_argument("--steps", type=int, metavar="N", help="steps per generation at most; by default 64")
    gpu.add_argument("--save", action="store_true", help="--json with a file in assets/results/ named after the card")
    gpu.add_argument(
        "--from", dest="figures", type=Path, metavar="FILE", help="measure nothing: show the figures in FILE"
    )
    gpu.add_argument(
        "--chart", type=output_file, action="append", metavar="FILE", help="draw a chart, .html (Plotly) or .png"
    )
    gpu.add_argument("--docs", "--readme", action="store_true", help="write the GPU tables of docs/benchmarks.md")


def run(args: argparse.Namespace) -> int:
    if not args.gpu:
        for name in GPU_ONLY:
            if getattr(args, name):
                raise ValueError(f"--{'from' if name == 'figures' else name} goes with --gpu")
    for chart in args.chart or ():
        if chart.suffix not in (".html", ".png"):
            raise ValueError(f"--chart {chart}: the name must end in .html or .png")
    if args.figures and (args.parts or args.json or args.save):
        raise ValueError("--from shows figures and measures nothing: leave out parts, --json and --save")
    from diffuapriel.benchmark import run as bench
    from diffuapriel.benchmark.format import format_report
    from diffuapriel.benchmark.report import BenchReport

    if args.figures:
        file, report = args.figures, BenchReport.load(args.figures)
    else:
        plan = _plan(args)
        if args.gpu:
            bench.require_gpu()
        file = _saved_file() if args.save and not args.json else args.json
        if args.docs and not file:
            raise ValueError("--docs names the JSON that its tables come from: give --save or --json as well")
        known = BenchReport.load(file) if args.gpu and file and file.exists() else None
        device = "cuda" if args.gpu else "cpu"
        say = partial(print, file=sys.stderr, flush=True)
        report = bench.run_bench(plan, device, known, keep=partial(_keep, file), say=say)
    print(format_report(report))
    for chart in args.chart or ():
        from diffuapriel.benchmark.gpu.chart import write_chart

        write_chart(report, chart)
    if args.docs:
        _write_docs(report, file)
    return 0


def _keep(file: Path | None, report: BenchReport) -> None:
    if file:
        with printed_unless_written(report.to_dict()):
            report.save(file)


def _plan(args: argparse.Namespace) -> BenchPlan:
    from diffuapriel.benchmark.plan import BenchPlan

    given = {
        "preset": args.preset,
        "parts": tuple(args.parts) or None,
        "lengths": args.lengths,
        "repeats": args.repeats,
        "steps": args.steps,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    plan = BenchPlan.on("gpu" if args.gpu else "cpu", **changes)
    return plan.quick() if args.quick else plan


def _saved_file() -> Path:
    """The file of --save: in assets/results/, named after the card."""
    import torch

    from diffuapriel import assets
    from diffuapriel.device import device_name

    name = re.sub(r"[^a-z0-9]+", "-", device_name(torch.device("cuda")).lower()).strip("-")
    return assets.root() / "results" / f"gpu-{name}.json"


def _write_docs(report: BenchReport, file: Path) -> None:
    from diffuapriel import assets
    from diffuapriel.benchmark.format import write_tables

    root, kept = assets.root().parent, file.resolve()
    if not kept.is_relative_to(root):
        raise ValueError(f"{file} is not in {root}: the GPU tables come from a file in the repository")
    write_tables(root / "docs" / "benchmarks.md", report, kept.relative_to(root).as_posix())


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(int(word.replace("_", "")) for word in text.split(","))
