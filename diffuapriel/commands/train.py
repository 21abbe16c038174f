"""Train a model and save it as a checkpoint.

Say how long in exactly one way: --minutes, --steps or --tokens. A run that is stopped, or killed, goes on from its
last save when the same command is given again, and ends exactly as it would have. The folder holds the checkpoint
(safetensors, JSON, a card), a loss curve and the log.

Corpora: tales (stories of this project's own grammar, whose exact entropy is known; tales:1 is one sentence,
tales:2 a short story, tales:3 the whole grammar), stdlib (the Python standard library of this machine), a text,
JSON-lines or Parquet file or a folder of them, or hf:owner/name to stream a dataset from the Hugging Face Hub.

Several GPUs share a run when torchrun starts the same command, on one node or many. The rows of an update are
shared out, so that losses do not depend on the number of processes, and a run may go on with another number:

    torchrun --nproc-per-node 8 -m diffuapriel train --recipe dclm-240m --accumulate 8
    torchrun --nproc-per-node 8 -m diffuapriel train --recipe dclm-1.3b --strategy fsdp

examples:
  diffuapriel train --corpus tales:1 --minutes 3                    something that writes, in three minutes
  diffuapriel train --preset nano --architecture diffuapriel --corpus tales --minutes 20
  diffuapriel train --corpus my_texts/ --minutes 30 --out runs/mine
  diffuapriel train --recipe tales-laptop                           how the bundled checkpoints were made
"""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from diffuapriel.commands import choices
from diffuapriel.config import ARCHITECTURES, PRESETS, SCHEDULES


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. None stands for what TrainConfig, or the recipe, says."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="tales-laptop, tales-gpu, small-tales, small-tales-long, small-stdlib, dclm-240m, dclm-0.5b or dclm-1.3b; "
        "other options replace its own",
    )
    parser.add_argument("--out", dest="folder", metavar="FOLDER", help="where to save")
    what = parser.add_argument_group("what")
    what.add_argument("--architecture", choices=ARCHITECTURES, help="default: diffuapriel")
    what.add_argument(
        "--preset", choices=PRESETS, help="size; `diffuapriel params` lists them; default: nano"
    )
    what.add_argument("--corpus", metavar="SPEC", help="see above; default: tales")
    what.add_argument("--length", type=int, metavar="N", help="tokens of a window")
    what.add_argument(
        "--document-boundaries",
        action="store_const",
        const=True,
        help="keep the documents of a window apart: neither scan nor attention crosses an end",
    )
    long = parser.add_argument_group("how long (one of these)")
    long.add_argument("--minutes", type=float, metavar="X", help="as many updates as fit into X minutes here")
    long.add_argument("--steps", type=int, metavar="N", help="updates")
    long.add_argument("--tokens", type=int, metavar="N", help="tokens read")
    long.add_argument(
        "--stop-after-minutes", type=float, metavar="X", help="save and stop then; go on another day"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="most rows that go through the model at once"
    )
    how.add_argument(
        "--accumulate", type=int, metavar="N", help="batches of an update, over all processes; default: 1"
    )
    how.add_argument("--learning-rate", type=float, metavar="X", help="peak; default: the architecture's own")
    how.add_argument("--warmup-steps", type=int, metavar="N", help="updates of linear warm-up")
    how.add_argument(
        "--final-rate",
        type=float,
        metavar="X",
        help="where the cosine ends, as a part of the peak; default: 0.1",
    )
    how.add_argument("--weight-decay", type=float, metavar="X", help="on matrices only")
    how.add_argument(
        "--ema-decay", type=float, metavar="X", help="of the averaged weights, which are what is saved"
    )
    how.add_argument("--clip", type=float, metavar="X", help="greatest norm of the gradient")
    how.add_argument(
        "--schedule", type=choices.schedule, choices=SCHEDULES, help="noise schedule; default: log-linear"
    )
    how.add_argument("--seed", type=int, metavar="N", help="of data, noise and weights")
    how.add_argument("--device", help="cpu, cuda or mps; default: CUDA where there is one")
    how.add_argument("--precision", choices=("float32", "bf16"), help="of the products; default: float32")
    how.add_argument(
        "--strategy",
        choices=("auto", "ddp", "fsdp"),
        help="of several processes; default: auto, which is ddp",
    )
    how.add_argument("--compile", action="store_const", const=True, help="use torch.compile")
    how.add_argument(
        "--checkpoint-activations",
        action="store_const",
        const=True,
        help="compute activations again in the backward pass: less memory, a third more arithmetic",
    )
    how.add_argument(
        "--validate-every", type=int, metavar="N", help="updates between two looks at held-out text"
    )
    how.add_argument("--save-seconds", type=float, metavar="X", help="between two saves")
    how.add_argument(
        "--tensorboard",
        action="store_const",
        const=True,
        help="also log for TensorBoard, in FOLDER/tensorboard",
    )


NOT_FIELDS = {"command", "debug", "recipe"}


def run(args: argparse.Namespace) -> int:
    """Train, or go on training; the loop draws its own progress on standard error."""
    given = {
        name: value for name, value in vars(args).items() if name not in NOT_FIELDS and value is not None
    }
    finished = _by_recipe(args.recipe, given) if args.recipe else _train(given)
    if finished:
        return 0
    _say("stopped before the end; the same command goes on from here")
    several = "TORCHELASTIC_RUN_ID" in os.environ  # torchrun calls any other code than 0 a failure
    return 0 if args.stop_after_minutes or several else 130


def _train(given: dict[str, Any]) -> bool:
    """One run of `given`; returns whether it came to its end."""
    from diffuapriel.training.config import TrainConfig
    from diffuapriel.training.loop import train

    result = train(TrainConfig(**{"folder": default_folder(given), **given}))
    _say(f"{result.step:,} updates, {result.tokens:,} tokens, {result.seconds / 60:.1f} minutes\n")
    _say(f"{result.validation.table()}\n\ndiffuapriel sample --checkpoint {result.checkpoint}")
    return result.finished


def _by_recipe(name: str, given: dict[str, Any]) -> bool:
    """A recipe with single options replaced; it measures what it has trained and writes a card."""
    from diffuapriel.training.recipes import run_recipe

    changes = dict(given)
    architecture = changes.pop("architecture", "diffuapriel")
    out = changes.pop("folder", f"runs/checkpoints/{name}-{architecture}")
    if "minutes" in changes or "steps" in changes:
        changes["tokens"] = None  # the recipe's own way to say how long
    written = run_recipe(name, architecture, out, **changes)
    if written:
        _say(f"\ndiffuapriel sample --checkpoint {written}")
    return written is not None


def _say(text: str) -> None:
    """Print, where this process is the only one or the first of several."""
    from diffuapriel.training.distributed import is_first

    if is_first():
        print(text)


def default_folder(given: dict[str, Any]) -> str:
    """runs/ARCHITECTURE-PRESET-CORPUS, so that runs of different models do not meet in one folder."""
    parts = [
        given.get("architecture", "diffuapriel"),
        given.get("preset", "nano"),
        given.get("corpus", "tales"),
    ]
    return "runs/" + "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_") for part in parts)
