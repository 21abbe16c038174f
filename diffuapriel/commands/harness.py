"""Score a model on the tasks of EleutherAI's lm-evaluation-harness, with the harness's own command line.

The harness finds models in a list of its own, without a way for others to add theirs.
This command adds the model and hands everything after the checkpoint's name on:
  diffuapriel harness MODEL OPTIONS...   is the harness's
  lm_eval --model diffuapriel --model_args pretrained=MODEL OPTIONS...

An answer is scored after its clean prompt by the bound of LLaDA (arXiv:2502.09992), over 128 draws of masks or, where
it is short, over all there are; a whole text by its NELBO. The same figures come out every time. Tasks are datasets of
the Hugging Face Hub, so the first run of one needs the network; tasks of your own are YAML files beside their data.
--model_args also takes mc_num=64 (draws), steps=32 and strategy=ancestral (of generated text), max_length and seed.

It needs the extra: pip install 'lm-eval>=0.4.13,<0.5'. `lm_eval run --help` lists the options, `lm_eval ls tasks`
the tasks.

examples:
  diffuapriel harness tales-diffuapriel --tasks lambada_openai,wikitext,arc_easy,hellaswag,piqa
  diffuapriel harness runs/mine/checkpoint --tasks piqa --limit 100 --batch_size 64 --device cuda
  diffuapriel harness owner/name --tasks lambada_openai --model_args mc_num=32 --output_path results/
  diffuapriel harness tales-diffuapriel --tasks my_task --include_path my_tasks/
"""

from __future__ import annotations

import argparse
import sys

from diffuapriel.commands.choices import DEFAULT_CHECKPOINT

MISSING = "needs lm-evaluation-harness: pip install 'lm-eval>=0.4.13,<0.5'"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=f"a bundled name ({DEFAULT_CHECKPOINT}), a folder or a Hub id",
    )
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="OPTIONS", help="of lm_eval run: --tasks and the rest"
    )


def run(args: argparse.Namespace) -> int:
    """Hand the command line on to lm_eval."""
    try:
        import lm_eval.__main__ as harness

        import diffuapriel.evaluation.harness  # noqa: F401 - to be imported is to be registered
    except ImportError as error:
        raise ImportError(f"diffuapriel harness {MISSING} ({error})") from error
    given = ["--model", "diffuapriel", "--model_args", f"pretrained={args.checkpoint}"]
    before, sys.argv = sys.argv, ["lm_eval", "run", *given, "--batch_size", "auto", *args.options]
    try:
        harness.cli_evaluate()
    finally:
        sys.argv = before
    return 0
