"""Write text: fill the masks of a canvas.

TEXT is the given text; in it, [MASK] is one masked token and [MASK:8] is eight. Without TEXT, or with --length, masks
fill the rest of the canvas: 128 tokens without TEXT, or fewer if the model was trained on shorter rows. On a terminal
the text is redrawn at every step; in a pipe only the result is printed.

A strategy selects the positions to fill at each step. low_confidence, entropy and margin fill the most certain
positions first, random and ancestral fill random ones, threshold, factor and entropy_bound fill all that are certain
enough, and first_hitting fills one at a time. The four called remdm may return tokens to [MASK]. Without
--strategy, a checkpoint's own rule is used where `diffuapriel tune` has recorded one.

A model of blocks writes block after block, with an exact cache of the finished ones, and does not see what lies behind
the block that it fills. With --endless it continues TEXT without end, in memory that does not grow, until Ctrl-C;
--steps are then those of a block.

examples:
  diffuapriel sample                                               a story from masks alone
  diffuapriel sample "Mia found a [MASK:6]."                       an infill
  diffuapriel sample "Once upon a time" --length 64 --steps 16     a prompt, with few steps
  diffuapriel sample --samples 5 --seed 7 --temperature 0.7        five texts, reproducible
  diffuapriel sample --checkpoint runs/blocks --block-length 16 --stop-at-eos      a story, block after block
  diffuapriel sample --checkpoint runs/blocks --endless "Once upon a time"         until Ctrl-C
  diffuapriel sample --strategy threshold --threshold 0.8 --trace story.html     save a replay that plays offline
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffuapriel.commands.console.output import output_file
from diffuapriel.commands.console.terminal import LiveCanvas, final_text, printable
from diffuapriel.config import WRITERS
from diffuapriel.options import add_argument, check_least, options_of
from diffuapriel.sampling.config import ADAPTIVE, BLOCK_LENGTH_HELP, SamplerConfig, resolve_options
from diffuapriel.training.config import TrainConfig

if TYPE_CHECKING:
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.trace.trace import Trace

TRACE_KINDS = (".json", ".html", ".gif")


def add(parser: argparse.ArgumentParser) -> None:
    option = options_of(SamplerConfig)
    parser.add_argument("text", nargs="?", default="", metavar="TEXT", help="given text, with [MASK:n] for n masks")
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="a bundled name, the folder of a checkpoint or of a run, or a Hub id "
        f"(default: {WRITERS[0]}, or {WRITERS[1]} where only the wheel is installed)",
    )
    parser.add_argument("--length", type=int, metavar="N", help="total tokens; masks fill the end of the canvas")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="number of texts")
    parser.add_argument(
        "--trace", type=output_file, metavar="FILE", help="record the steps to FILE: .json, .html or .gif"
    )
    parser.add_argument("--endless", action="store_true", help="write without end; for models of blocks")
    parser.add_argument(
        "--window", type=int, metavar="N", help="with --endless: tokens that attention reads (default: as in training)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    holes = parser.add_argument_group("which positions, and when")
    add_argument(holes, option["strategy"], default=None)
    add_argument(holes, option["steps"], default=128)
    add_argument(holes, option["block_length"], help=BLOCK_LENGTH_HELP)
    for name in ("block_start", "confidence", "alg_temp"):
        add_argument(holes, option[name])
    add_argument(holes, option["stop_at_eos"], action=argparse.BooleanOptionalAction, default=None)
    for name in ADAPTIVE:
        add_argument(holes, option[name], default=None)
    for name in ("draft_behind", "drafts", "remask_below", "remask_cap", "remask_rescale", "t_on", "t_off", "alpha_on"):
        add_argument(holes, option[name])
    add_argument(holes, options_of(TrainConfig)["schedule"])
    tokens = parser.add_argument_group("which tokens")
    add_argument(tokens, option["temperature"])
    add_argument(tokens, option["top_k"])
    add_argument(tokens, option["top_p"], default=0.9)
    add_argument(tokens, option["repetition_penalty"])
    add_argument(tokens, option["seed"])


def run(args: argparse.Namespace) -> int:
    _check(args)
    from diffuapriel.checkpoint import checkpoint_name, default_writer, inspect_checkpoint, load_checkpoint
    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.sampling.blocks import denoiser_for
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.sampler import Sampler
    from diffuapriel.trace.trace import Trace

    args.checkpoint = args.checkpoint or default_writer()
    given = {name: getattr(args, name) for name in options_of(SamplerConfig)}
    if args.endless:
        return _endless(args, given)
    info = inspect_checkpoint(args.checkpoint)
    config = SamplerConfig(**resolve_options(given, info.config.block_lengths, info.generation))
    model, tokenizer = load_checkpoint(args.checkpoint, device=args.device)
    length = args.length or (None if args.text else info.default_length)
    canvas = Canvas.from_text(args.text, tokenizer, length).to(args.device)
    sampler = Sampler(config, get_schedule(args.schedule), tokenizer.mask_id)
    for row in range(args.samples):
        if row:
            print()
        screen = LiveCanvas(tokenizer) if sys.stdout.isatty() else None
        frames: list[StepFrame] = []
        for frame in sampler.stream(denoiser_for(model, config), sampler.start(canvas, first_row=row)):
            frames.append(frame)
            if screen:
                screen.show(frame)
        try:
            if args.trace:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                names = {
                    "model": checkpoint_name(args.checkpoint),
                    "architecture": model.config.architecture,
                    "created": now,
                }
                save_trace(Trace.of(frames, canvas, tokenizer, config, **names), args.trace)
        finally:  # neither text nor trace is lost if the other cannot be written
            if screen:
                screen.finish(frames[-1].ids)
            else:
                print(final_text(frames[-1].ids, tokenizer))
    return 0


def _endless(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Print a text until Ctrl-C or the end of the pipe."""
    from diffuapriel.checkpoint import inspect_checkpoint
    from diffuapriel.pipelines import pipeline

    info, pipe = inspect_checkpoint(args.checkpoint), pipeline(args.checkpoint, args.device)
    window = args.window or info.length or None
    for name in ("block_start", "stop_at_eos"):
        del options[name]
    try:
        for piece in pipe.write(args.text, window=window, schedule=args.schedule, **options):
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        print()
    return 0


def save_trace(trace: Trace, path: Path) -> None:
    """Write `trace` in the format of the suffix: .json, .html or .gif."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        from diffuapriel.trace.gif import write_gif

        write_gif(trace, path)
    else:
        path.write_text(trace.to_html() if path.suffix == ".html" else trace.to_json(), encoding="utf-8")


def _check(args: argparse.Namespace) -> None:
    """Refuse, before a model is loaded, what would only fail after it has run."""
    check_least(samples=args.samples)
    if args.trace and args.samples > 1:
        raise ValueError(f"a trace records one text, not {args.samples}; leave out --samples or --trace")
    ending = {"trace": args.trace, "length": args.length, "samples": args.samples > 1, "stop-at-eos": args.stop_at_eos}
    if args.endless and any(ending.values()):
        given = ", ".join(f"--{flag}" for flag, value in ending.items() if value)
        raise ValueError(f"--endless writes one text that never ends; leave out {given}")
    if args.window is not None and (not args.endless or args.window < 1):
        raise ValueError(f"--window is {args.window}; it must be 1 or more, and goes with --endless")
    if args.trace and args.trace.suffix not in TRACE_KINDS:
        raise ValueError(f"--trace {args.trace}: the name must end in {', '.join(TRACE_KINDS)}")
