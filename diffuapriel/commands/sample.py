"""Write text: fill the holes of a canvas.

TEXT is what is given; [MASK] in it is one hole and [MASK:8] eight. Without TEXT, or with --length, the rest of the
canvas is holes. On a terminal the text is drawn as it appears; in a pipe only the result is printed.

Strategies decide which holes are filled at a step: confidence, entropy and margin take the surest first, random
and ancestral any, threshold all that are sure enough, remask may take tokens back, first_hitting one at a time.

examples:
  diffuapriel sample                                               a story from nothing
  diffuapriel sample "Mia found a [MASK:6]."                       an infill
  diffuapriel sample "Once upon a time" --length 64 --steps 16     a prompt, and faster
  diffuapriel sample --samples 5 --seed 7 --temperature 0.7        five, reproducible
  diffuapriel sample --strategy threshold --threshold 0.8 --trace story.html     keep a replay that plays offline
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffuapriel.commands.choices import (
    BLOCK_HELP,
    DEFAULT_CHECKPOINT,
    STRATEGIES,
    block_length,
    schedule,
)
from diffuapriel.commands.terminal import LiveCanvas, final_text
from diffuapriel.config import SCHEDULES

if TYPE_CHECKING:
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.tokenizer import Tokenizer
    from diffuapriel.trace.trace import Trace

DEFAULT_LENGTH = 128  # tokens of a canvas when nothing is given
TRACE_KINDS = (".json", ".html", ".gif")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "text", nargs="?", default="", metavar="TEXT", help="what is given, with [MASK:n] for holes"
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, metavar="NAME", help="a bundled name or a folder"
    )
    parser.add_argument(
        "--length", type=int, metavar="N", help="tokens in all; the end of the canvas becomes holes"
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="how many texts")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="record the steps to FILE: .json, .html or .gif"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    strategy = parser.add_argument_group("which holes, when")
    strategy.add_argument(
        "--strategy", default="confidence", choices=STRATEGIES, metavar="NAME", help="see above"
    )
    strategy.add_argument(
        "--steps", type=int, default=128, metavar="N", help="steps; fewer are faster and worse"
    )
    strategy.add_argument(
        "--block-length",
        type=int,
        metavar="N",
        help=BLOCK_HELP,
    )
    strategy.add_argument(
        "--threshold", type=float, default=0.9, metavar="X", help="threshold: reveal from here on"
    )
    strategy.add_argument(
        "--remask-cap",
        type=float,
        default=0.04,
        metavar="X",
        help="remask: greatest chance of a token to be taken back",
    )
    strategy.add_argument(
        "--schedule",
        default="log-linear",
        type=schedule,
        choices=SCHEDULES,
        metavar="NAME",
        help="noise schedule",
    )
    tokens = parser.add_argument_group("which tokens")
    tokens.add_argument(
        "--temperature", type=float, default=1.0, metavar="X", help="0 takes the most probable"
    )
    tokens.add_argument("--top-k", type=int, metavar="N", help="draw from the N most probable only")
    tokens.add_argument(
        "--top-p",
        type=float,
        default=0.9,
        metavar="X",
        help="draw from the smallest set with this probability",
    )
    tokens.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: fewer repetitions"
    )
    tokens.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same text")


def run(args: argparse.Namespace) -> int:
    """Write the texts, and the trace if one was asked for."""
    _check(args)
    from diffuapriel.checkpoint import load_checkpoint
    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.config import SamplerConfig
    from diffuapriel.sampling.sampler import Sampler
    from diffuapriel.trace.trace import Trace

    fields = [field.name for field in dataclasses.fields(SamplerConfig)]
    given: dict[str, Any] = {name: getattr(args, name) for name in fields}
    config = SamplerConfig(**{**given, "block_length": block_length(args)})
    model, tokenizer = load_checkpoint(args.checkpoint, device=args.device)
    length = args.length or (None if args.text else DEFAULT_LENGTH)
    canvas = Canvas.from_text(args.text, tokenizer, length).to(args.device)
    sampler = Sampler(config, get_schedule(args.schedule), tokenizer.mask_id)
    for row in range(args.samples):
        if row:
            print()
        stream = sampler.stream(model, sampler.start(canvas, first_row=row))
        frames = list(_shown(stream, tokenizer))
        if args.trace:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            names = {"model": args.checkpoint, "architecture": model.config.architecture, "created": now}
            save_trace(Trace.of(frames, canvas, tokenizer, config, **names), args.trace)
    return 0


def save_trace(trace: Trace, path: Path) -> None:
    """Write `trace` as its name's ending says: .json, .html or .gif."""
    if path.suffix == ".gif":
        from diffuapriel.trace.gif import write_gif

        write_gif(trace, path)
    else:
        path.write_text(trace.to_html() if path.suffix == ".html" else trace.to_json(), encoding="utf-8")


def _check(args: argparse.Namespace) -> None:
    """Refuse, before a model is loaded, what could only fail after it has run."""
    if args.samples < 1:
        raise ValueError(f"samples is {args.samples}; it must be 1 or more")
    if args.trace and args.samples > 1:
        raise ValueError(f"a trace records one text, not {args.samples}; leave out --samples or --trace")
    if args.trace and args.trace.suffix not in TRACE_KINDS:
        raise ValueError(f"--trace {args.trace}: the name must end in {', '.join(TRACE_KINDS)}")
    if args.trace and not args.trace.parent.is_dir():
        raise ValueError(f"--trace {args.trace}: there is no folder {args.trace.parent}")


def _shown(stream: Iterator[StepFrame], tokenizer: Tokenizer) -> Iterator[StepFrame]:
    """The frames, drawn one over the other on a terminal; at the end the text, which stays."""
    screen = LiveCanvas(tokenizer) if sys.stdout.isatty() else None
    ids: tuple[int, ...] = ()
    for frame in stream:
        ids = frame.ids
        if screen:
            screen.show(frame)
        yield frame
    if screen:
        screen.finish(ids)
    else:
        print(final_text(ids, tokenizer))
