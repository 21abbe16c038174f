"""Find the sampling rule that writes most tokens per pass at no loss of quality, and record it in the model card.

A forward pass may reveal several tokens. Three rules decide how many: threshold, factor and entropy_bound, each in
blocks or over the whole canvas. For each, values are tried from cautious to bold until the quality falls by more than
--tolerance below that of one token per pass. With a model of blocks of one token speculative is tried too, whose text
is that of such blocks at any block length. Quality is, for tales, the share of consistent, grammatical and different
stories; for other text, the likelihood of what was written under the model's own distribution of one token per pass,
and the share of different triples of tokens. tokens/pass counts every pass, and no padding. Texts of a model of blocks
end with their first <|endoftext|>; others fill the canvas, and the passes that pad it count.

The points are written to FOLDER/frontier.json and FOLDER/frontier.png. If CHECKPOINT is a folder, the choice and the
points that are worth offering are recorded in its config.json and README.md. `sample`, the pipeline and the app then
use the choice unless they are told otherwise, and end texts as they ended here; the app offers the points. A bundled
model is changed with --bundled only, one of the Hub never.

With --record-from nothing is measured: the figures are those of a frontier.json that was measured elsewhere, e.g. on a
GPU, on the same weights.

examples:
  diffuapriel tune runs/mine                                        128 samples per point
  diffuapriel tune tales-diffuapriel --samples 64 --rule threshold  a quick look
  diffuapriel tune runs/blocks --block-length 16 --block-length 64 --samples 500 --device cuda
  diffuapriel tune runs/blocks --record-from frontier.json          what another machine measured
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffuapriel.commands.console.output import output_folder, write_figures
from diffuapriel.commands.console.terminal import status
from diffuapriel.config import DEFAULT_CHECKPOINT
from diffuapriel.options import Option, add_argument, options_of, shown
from diffuapriel.sampling.config import ADAPTIVE, SPECULATIVE, SamplerConfig
from diffuapriel.sampling.frontier import Frontier

if TYPE_CHECKING:
    from diffuapriel.checkpoint import CheckpointInfo

OPTIONS = {
    "samples": Option("samples", int, 128, least=8, help="stories or sequences per point"),
    "length": Option("length", int, None, least=2, optional=True, help="tokens per sequence; default: as in training"),
    "tolerance": Option("tolerance", float, 0.02, least=0, most=1, help="loss of quality that is accepted, as a share"),
    "batch_size": Option("batch_size", int, 16, least=1, help="sequences per batch"),
}
BLOCK_LENGTHS = (32, 0)  # of a model that was not trained in blocks


def add(parser: argparse.ArgumentParser) -> None:
    sampling = options_of(SamplerConfig)
    parser.add_argument(
        "checkpoint", nargs="?", default=DEFAULT_CHECKPOINT, metavar="CHECKPOINT", help="as for evaluate"
    )
    parser.add_argument("--corpus", metavar="SPEC", help="default: the training corpus of the model")
    parser.add_argument(
        "--rule", action="append", choices=(*ADAPTIVE, SPECULATIVE), help="may be repeated; default: all"
    )
    parser.add_argument(
        "--block-length",
        action="append",
        type=int,
        metavar="N",
        help="may be repeated, 0 is the whole canvas; default: 32 and 0, or all that a model of blocks knows but 1",
    )
    for declared in OPTIONS.values():
        add_argument(parser, declared)
    add_argument(parser, sampling["temperature"])
    add_argument(parser, sampling["top_p"], default=0.9)
    add_argument(parser, sampling["seed"])
    parser.add_argument(
        "--out", type=output_folder, metavar="FOLDER", help="folder of the figures; default: runs/tune/NAME"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument(
        "--record-from", metavar="FILE", help="measure nothing; record the figures of this frontier.json in CHECKPOINT"
    )
    parser.add_argument(
        "--default-rule",
        choices=(*ADAPTIVE, SPECULATIVE),
        help="choose among the points of this rule; those of the others are offered beside it",
    )
    parser.add_argument("--bundled", action="store_true", help="record the choice in a bundled model too")


def run(args: argparse.Namespace) -> int:
    from diffuapriel.checkpoint import bundled, checkpoint_name, inspect_checkpoint, record_frontier
    from diffuapriel.evaluation.tuning import frontier_png

    info, name = inspect_checkpoint(args.checkpoint), checkpoint_name(args.checkpoint)
    out = Path(args.out or f"runs/tune/{name}")
    if args.record_from:
        if args.corpus or args.rule or args.block_length or args.out:
            raise ValueError("--corpus, --rule, --block-length and --out cannot be combined with --record-from")
        frontier = read_figures(Path(args.record_from), info, name)
        frontier = replace(frontier, default_rule=args.default_rule or frontier.default_rule)
    else:
        frontier = _measured(args, info, name, out)
    print(frontier.table())
    picture = frontier_png(frontier)
    if not args.record_from:
        (out / "frontier.png").write_bytes(picture)
        print(f"\nwritten to {out}")
    choice = frontier.choice
    if choice is None:
        print("no rule writes more tokens per pass without loss; the card is unchanged")
    elif info.repository or (args.checkpoint in bundled() and not args.bundled):
        how = "" if info.repository else "; --bundled changes it"
        print(f"chosen: {choice.name}. {name} is not a folder of yours, so its card is unchanged{how}")
    else:
        record_frontier(info, frontier, picture)
        print(f"chosen: {choice.name}; recorded in {info.folder}")
    return 0


def _measured(args: argparse.Namespace, info: CheckpointInfo, name: str, out: Path) -> Frontier:
    """Measure, and write the figures to frontier.json in `out`."""
    given: dict[str, Any] = {name: declared.check(getattr(args, name)) for name, declared in OPTIONS.items()}
    from diffuapriel.checkpoint import load_checkpoint
    from diffuapriel.data.registry import open_corpus
    from diffuapriel.evaluation.tuning import tune
    from diffuapriel.sampling.frontier import TunePoint

    model, tokenizer = load_checkpoint(args.checkpoint, device=args.device)
    corpus = open_corpus(args.corpus or info.corpus or "tales", tokenizer, mix=None if args.corpus else info.mix)
    known = tuple(n for n in info.config.block_lengths if n != 1)
    done = 0

    def on_point(point: TunePoint) -> None:
        nonlocal done
        done += 1
        status(f"{done} points; {point.name}: {point.tokens_per_pass:.2f} tokens per pass")

    frontier = tune(
        model,
        corpus,
        **{**given, "length": given["length"] or info.length or info.default_length},
        block_lengths=args.block_length or known or BLOCK_LENGTHS,
        rules=args.rule,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        on_point=on_point,
    )
    status("")
    frontier = replace(frontier, default_rule=args.default_rule)
    about = {"checkpoint": name, "weights": info.files, "corpus": corpus.name}
    write_figures(out / "frontier.json", {**about, **frontier.to_dict()})
    return frontier


def read_figures(file: Path, info: CheckpointInfo, name: str) -> Frontier:
    """The frontier in a frontier.json. Raises ValueError for that of another model.

    The file holds the SHA-256 of the weights that were measured. Files before version 0.2.0 hold the name alone.
    """
    from diffuapriel.storage import read_json

    figures = read_json(file)
    weights, measured = figures.get("weights"), figures.get("checkpoint")
    if weights != info.files if weights is not None else measured != name:
        raise ValueError(
            f"{file} holds figures of {shown(measured)}, measured on other weights than those of {name}; "
            f"measure these: diffuapriel tune {name}"
        )
    return Frontier.from_dict(figures, info.config.block_lengths)
