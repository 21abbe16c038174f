"""Train a model and save it as a checkpoint.

Give the length in exactly one way: --minutes, --steps or --tokens. If a run is stopped or killed, the same command
continues it from its last save, with exactly the same result. It refuses a corpus that has changed meanwhile, unless
--accept-changed-data is given. The output folder holds the checkpoint (safetensors, JSON, a model card), a loss curve
and the log.

Corpora: tales (stories from this project's grammar, whose exact entropy is known; tales:1 is one sentence, tales:2 a
short story, tales:3 the whole grammar), stdlib (the Python standard library of this machine), a text, JSON-lines or
Parquet file or a folder of them, hf:owner/name to stream a dataset from the Hugging Face Hub, tokens:FOLDER (see
`diffuapriel tokenize`), or mix:FILE.yaml, several of these mixed by weight.

Several GPUs share a run when torchrun starts the same command, on one node or many. They divide the rows of a step, so
the losses do not depend on the number of processes, and a run may continue with a different number:

    torchrun --nproc-per-node 8 -m diffuapriel train --recipe dclm-240m --gradient-accumulation-steps 8
    torchrun --nproc-per-node 8 -m diffuapriel train --recipe dclm-1.3b --strategy fsdp

With --init-from, a run begins with the weights of a checkpoint, to be fine-tuned on other text or, with
--block-lengths, to write in blocks. Its preset, architecture and tokenizer must be given, too.

With --teacher, a copy of a trained model learns to write in fewer passes, from texts that the teacher writes itself
(diffuapriel/training/distillation.py). --method certainty learns the teacher's trajectories and to be sure of them,
sdtt in one pass what the teacher thinks after several.

examples:
  diffuapriel train --corpus tales:1 --minutes 3                    a model that writes, in three minutes
  diffuapriel train --preset nano --architecture diffuapriel --corpus tales --minutes 20
  diffuapriel train --corpus my_texts/ --minutes 30 --out runs/mine
  diffuapriel train --init-from runs/mine --corpus more_texts/ --minutes 10 --out runs/tuned    fine-tuning
  diffuapriel train --recipe tales-laptop                           a committed recipe
  diffuapriel train --teacher tales-diffuapriel --steps 4000 --out runs/fast        distillation to few passes
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from diffuapriel.commands.console.output import output_folder
from diffuapriel.options import add_argument, options_of
from diffuapriel.training.config import DistillConfig, TrainConfig

WHAT = (
    *("architecture", "preset", "corpus", "tokenizer", "length", "init_from"),
    *("block_lengths", "block_length_weights", "document_boundaries", "edge_embedding"),
)
HOW_LONG = ("minutes", "steps", "tokens", "stop_after_minutes")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. Their default is None, so that a recipe may decide."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="tales-laptop, tales-gpu, tales-blocks, small-tales, small-tales-long, small-stdlib, stories-tiny, "
        "stories-small, stories-blocks, dclm-240m, dclm-0.5b or dclm-1.3b; other options replace the recipe's",
    )
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="distill this model; --out names the student")
    parser.add_argument(
        "--out",
        dest="folder",
        type=output_folder,
        metavar="FOLDER",
        help="where to save; with --recipe, the checkpoint only",
    )
    parser.add_argument(
        "--run-folder",
        type=output_folder,
        metavar="FOLDER",
        help="with --recipe: where to save the log and the training state",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    declared = options_of(TrainConfig)
    rest = tuple(name for name in declared if name not in (*WHAT, *HOW_LONG, "folder"))
    for title, names in {"what": WHAT, "how long (one of these)": HOW_LONG, "how": rest}.items():
        group = parser.add_argument_group(title)
        for name in names:
            add_argument(group, declared[name], default=None)
    group = parser.add_argument_group("distillation, with --teacher")
    for name, option in options_of(DistillConfig).items():
        if name not in declared:
            add_argument(group, option, default=None)


def run(args: argparse.Namespace) -> int:
    """Train, or continue training; progress is shown on standard error."""
    fields = options_of(TrainConfig)
    given = {name: value for name, value in vars(args).items() if name in fields and value is not None}
    distilling = {n: getattr(args, n) for n in options_of(DistillConfig) if getattr(args, n) is not None}
    if args.teacher:
        return _distill(args, distilling, given)
    if alone := set(distilling) - set(fields):
        raise ValueError(f"--{min(alone).replace('_', '-')} goes with --teacher CHECKPOINT, the model to distill")
    finished = _by_recipe(args, given) if args.recipe else _train(args, given)
    if finished:
        return 0
    _print("stopped before the end; run the same command again to continue")
    launched = "TORCHELASTIC_RUN_ID" in os.environ  # torchrun treats any code but 0 as a failure
    return 0 if args.stop_after_minutes or launched else 130


def _distill(args: argparse.Namespace, options: dict[str, Any], given: dict[str, Any]) -> int:
    from diffuapriel.training.distillation import distill

    others = set(given) - set(options) - {"folder", "device"}
    if others or args.recipe or args.run_folder:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(others)) or "--recipe and --run-folder"
        raise ValueError(f"{named} cannot be combined with --teacher; the student has the teacher's shape and corpus")
    place = {"folder": args.folder or f"runs/distilled-{Path(args.teacher).name}", "device": args.device or "cpu"}
    print(how_to_use(distill(DistillConfig(args.teacher, **place, **options), progress=not args.quiet)))
    return 0


def _train(args: argparse.Namespace, given: dict[str, Any]) -> bool:
    """Returns whether the run is finished."""
    from diffuapriel.data.mixed import use_table
    from diffuapriel.evaluation.nelbo import parts_table
    from diffuapriel.training.loop import train

    if args.run_folder:
        raise ValueError("--run-folder is for recipes; --out names the folder of this run")
    config = TrainConfig(**{"folder": default_folder(given), **given})
    result = train(config, progress=not args.quiet)
    _print(f"{result.step:,} steps, {result.tokens:,} tokens, {result.seconds / 60:.1f} minutes\n")
    _print(result.validation.table())
    if result.parts:
        _print(f"\n{use_table(result.uses)}\n\nvalidation\n{parts_table(result.parts)}")
    _print(how_to_use(result.checkpoint))
    return result.finished


def _by_recipe(args: argparse.Namespace, given: dict[str, Any]) -> bool:
    """Train by a recipe, measure, and write a card; returns whether the run is finished."""
    from diffuapriel.training.recipes import run_recipe

    changes = dict(given)
    architecture = changes.pop("architecture", "diffuapriel")
    out = changes.pop("folder", f"runs/checkpoints/{args.recipe}-{architecture}")
    if args.run_folder:
        changes["folder"] = args.run_folder
    if "minutes" in changes or "steps" in changes:
        changes["tokens"] = None  # the recipe's own length
    written = run_recipe(args.recipe, architecture, out, progress=not args.quiet, **changes)
    if written:
        _print(how_to_use(written))
    return written is not None


def how_to_use(checkpoint: str | Path) -> str:
    """The last lines of a training: the commands that write with the model. A run is named by its folder."""
    from diffuapriel.checkpoint import OF_A_RUN

    folder = Path(checkpoint)
    name = folder.parent if folder.name == OF_A_RUN else folder
    return f"\ndiffuapriel sample --checkpoint {name}\npython app/main.py --checkpoint {name}    (the app)"


def _print(text: str) -> None:
    """Print once: in the only process, or in the main one of several."""
    from diffuapriel.training.distributed import is_main_process

    if is_main_process():
        print(text)


def default_folder(given: dict[str, Any]) -> str:
    """runs/ARCHITECTURE-PRESET-CORPUS, so that runs of different models have different folders."""
    declared = options_of(TrainConfig)
    parts = [given.get(name, declared[name].default) for name in ("architecture", "preset", "corpus")]
    return "runs/" + "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_") for part in parts)
