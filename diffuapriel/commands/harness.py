"""Score a model on the tasks of EleutherAI's lm-evaluation-harness, with the harness's own command line.

The harness keeps a fixed list of models that others cannot extend. This command adds ours and passes on everything
after the name of the checkpoint:
  diffuapriel harness MODEL OPTIONS...   runs
  lm_eval --model diffuapriel --model_args pretrained=MODEL OPTIONS...

An answer after a prompt is scored by the bound of LLaDA (arXiv:2502.09992), over 128 random masks or, for a short
answer, over all masks; a whole text by its NELBO. The figures repeat exactly. Tasks are datasets of the Hugging Face
Hub, so the first run of a task needs the network; `diffuapriel tasks` makes tasks from your own text. --model_args also
takes mc_num=64 (masks per answer), steps=32 and strategy=ancestral (of generated text), max_length and seed. It runs
on a GPU if there is one.

It needs the extra: pip install 'lm-eval>=0.4.13,<0.5'. `lm_eval run --help` lists the options, `lm_eval ls tasks`
the tasks.

examples:
  diffuapriel harness tales-diffuapriel --tasks lambada_openai,wikitext,arc_easy,hellaswag,piqa
  diffuapriel harness runs/mine --tasks piqa --limit 100 --batch_size 64 --device cpu
  diffuapriel harness owner/name --tasks lambada_openai --model_args mc_num=32 --output_path results/
  diffuapriel harness tales-diffuapriel --tasks my_task --include_path my_tasks/
"""

from __future__ import annotations

import argparse
import sys

from diffuapriel.config import DEFAULT_CHECKPOINT

MISSING = "needs lm-evaluation-harness: pip install 'lm-eval>=0.4.13,<0.5'"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=f"a bundled name ({DEFAULT_CHECKPOINT}), the folder of a checkpoint or of a run, or a Hub id",
    )
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="OPTIONS", help="options of lm_eval run, e.g. --tasks"
    )


def run(args: argparse.Namespace) -> int:
    try:
        import lm_eval.__main__ as harness

        import diffuapriel.evaluation.harness  # noqa: F401 - the import registers the model
    except ImportError as error:
        raise ImportError(f"diffuapriel harness {MISSING} ({error})") from error
    given = ["--model", "diffuapriel", "--model_args", f"pretrained={args.checkpoint}"]
    given += ["--batch_size", "auto", "--device", "auto"]  # without --device the harness names cuda:0
    before, sys.argv = sys.argv, ["lm_eval", "run", *given, *args.options]
    try:
        harness.cli_evaluate()
    finally:
        sys.argv = before
    return 0
