"""The speed and memory tables of this machine.

Five parts on the CPU, each a ratio or a figure beside its peer, measured in one run:

  scan        the chunked bidirectional SSD, forward and backward, against the
              Mamba-2 paper's minimal listing run twice with flips
  forward     a forward pass of DiffuApriel against DiffuTran, from 256 to
              16,384 tokens, and where they cross
  generation  the share of a generation's time spent outside the denoiser
  training    the speed of `train` over that of the same model in a plain loop
  memory      peak memory of a forward pass, up to 65,536 tokens

With --gpu, on one NVIDIA GPU, preset 1.3b with random weights in bfloat16, lengths 1,024 to 65,536, batch 1 and a
batch that fills the card:

  ceilings    this card's own matrix rate and copy bandwidth
  forward     the backbone's forward pass: DiffuApriel, DiffuApriel-H, DiffuTran
              with cuDNN's attention first and with FlashAttention-2 forced
  generation  whole generations, DiffuApriel against DiffuTran
  mixer       our Mamba-2 kernels against mamba_ssm's with flips, and plain PyTorch
  training    one update with each of the three
  sampler     the share of a generation spent in sampler and head
  memory      peak memory at the longest length

Every shape is kept in the JSON as soon as it is measured, and a later run with the same --json adds to it, if card,
versions and preset are the same: parts can be measured one by one. What must be reached stands beside what was
measured, and what was missed is said.

Leave the machine alone while it runs; medians and ranges tell how quiet it was.

examples:
  diffuapriel bench                                    everything on the CPU, some minutes
  diffuapriel bench --quick                            the same with fewer repeats and shorter lengths
  diffuapriel bench scan generation --json bench.json  two parts, and keep the figures
  diffuapriel bench --gpu --save                       everything on the GPU, into assets/results/
  diffuapriel bench --gpu forward mixer --lengths 1024,65536 --json gpu.json
  diffuapriel bench --gpu --from gpu.json --chart gpu.html --chart gpu.png
  diffuapriel bench --gpu --from gpu.json --readme     write the README's GPU tables
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffuapriel.config import PRESETS

if TYPE_CHECKING:
    from diffuapriel.benchmark.gpu.plan import GpuPlan
    from diffuapriel.benchmark.gpu.results import GpuReport

GPU_ALONE = ("lengths", "steps", "save", "figures", "chart", "readme")  # options that need --gpu


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("parts", nargs="*", metavar="PART", help="which of the parts above; all by default")
    parser.add_argument(
        "--preset", choices=PRESETS, help="size of the models; by default nano, with --gpu 1.3b"
    )
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="timed rounds; by default 7, with --gpu up to 15"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats, shorter lengths")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--gpu", action="store_true", help="measure one NVIDIA GPU")
    gpu.add_argument("--lengths", type=_lengths, metavar="N,N,...", help="tokens of a text")
    gpu.add_argument("--steps", type=int, metavar="N", help="most steps of a generation; by default 64")
    gpu.add_argument(
        "--save", action="store_true", help="--json with a name after the card, in assets/results/"
    )
    gpu.add_argument(
        "--from",
        dest="figures",
        type=Path,
        metavar="FILE",
        help="measure nothing: show the figures kept in FILE",
    )
    gpu.add_argument(
        "--chart", type=Path, action="append", metavar="FILE", help="draw a chart, .html (Plotly) or .png"
    )
    gpu.add_argument("--readme", action="store_true", help="write the README's GPU tables")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write what was asked for."""
    if args.gpu:
        return _run_gpu(args)
    for name in GPU_ALONE:
        if getattr(args, name):
            raise ValueError(f"--{'from' if name == 'figures' else name} goes with --gpu")
    from diffuapriel.benchmark.cpu.report import format_report
    from diffuapriel.benchmark.cpu.run import PARTS, Plan, run_bench

    repeats = 7 if args.repeats is None else args.repeats
    plan = Plan(preset=args.preset or "nano", parts=tuple(args.parts) or PARTS, repeats=repeats)
    report = run_bench(plan.quick() if args.quick else plan, say=_say)
    print(format_report(report))
    if args.json:
        args.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    return 0


def _run_gpu(args: argparse.Namespace) -> int:
    """The GPU bench, or its figures from a file."""
    from diffuapriel import assets
    from diffuapriel.benchmark.gpu.chart import write_chart
    from diffuapriel.benchmark.gpu.docs_tables import write_tables
    from diffuapriel.benchmark.gpu.report import format_gpu_report
    from diffuapriel.benchmark.gpu.results import GpuReport

    if args.figures and (args.parts or args.json or args.save):
        raise ValueError("--from shows figures and measures nothing: leave out parts, --json and --save")
    if args.figures:
        file, report = args.figures, GpuReport.load(args.figures)
    else:
        plan, file = _gpu_plan(args), _gpu_file(args)
        if args.readme and not file:
            raise ValueError(
                "--readme names the JSON that its tables come from: give --save or --json as well"
            )
        report = _measure_gpu(plan, file)
    print(format_gpu_report(report))
    for chart in args.chart or ():
        write_chart(report, chart)
    if args.readme and file:
        root, kept = assets.root().parent, file.resolve()
        if not kept.is_relative_to(root):
            raise ValueError(
                f"{file} is not in {root}: the README's tables come from a file in the repository"
            )
        write_tables(root / "README.md", report, kept.relative_to(root).as_posix())
    return 0


def _measure_gpu(plan: GpuPlan, file: Path | None) -> GpuReport:
    """Measure, going on from the figures in `file` and keeping every shape there."""
    from diffuapriel.benchmark.gpu.results import GpuReport
    from diffuapriel.benchmark.gpu.run import run_gpu_bench

    known = GpuReport.load(file) if file and file.exists() else None
    return run_gpu_bench(plan, "cuda", known, keep=lambda report: file and report.save(file), say=_say)


def _gpu_plan(args: argparse.Namespace) -> GpuPlan:
    """What was asked for. Raises RuntimeError without a GPU, ValueError for what cannot be."""
    from diffuapriel.benchmark.gpu.plan import GpuPlan
    from diffuapriel.benchmark.gpu.run import require_gpu

    given = {
        "preset": args.preset,
        "parts": tuple(args.parts) or None,
        "lengths": args.lengths,
        "repeats": args.repeats,
        "steps": args.steps,
    }
    plan = GpuPlan(**{name: value for name, value in given.items() if value is not None})
    require_gpu()
    return plan.quick() if args.quick else plan


def _gpu_file(args: argparse.Namespace) -> Path | None:
    """Where the figures go: --json, or with --save a name made from the card's."""
    if args.json or not args.save:
        return args.json
    from diffuapriel import assets
    from diffuapriel.benchmark.gpu.run import describe_machine

    name = re.sub(r"[^a-z0-9]+", "-", describe_machine("cuda").device.lower()).strip("-")
    return assets.root() / "results" / f"gpu-{name}.json"


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(int(word.replace("_", "")) for word in text.split(","))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
