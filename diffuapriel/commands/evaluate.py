"""Score a model: how likely is held-out text, and what is its own text like?

The NELBO, in nats/token, bounds how well the model predicts the text; a 95 % interval stands beside it. On tales
the exact entropy of the very same stories is known, so the gap is what is left to learn. Then stories are drawn from
nothing and read by the grammar: grammatical (the syntax fits), consistent (names, colors, places and counts agree),
and the entropy of what was drawn, which falls when a model repeats itself.

On another corpus only the likelihood is measured, as perplexity and bits per byte: tales, stdlib (the Python standard
library of this machine), a text, JSON-lines or Parquet file, a folder of them, or hf:owner/name. Where it is a list of
documents, `xz -9` compresses the same held-out part, and its bits per byte stand beside the model's. A model that knows
no more of the text than a compressor does is not below it.

With --infilling, and instead of all that, a few tokens within a line of held-out code of the standard library are
hidden and filled in, the surest first: how many come back as they were, how many spans whole, and how often the
function around them is still Python. A model of stories fails at it; one trained on `--corpus stdlib` need not.

examples:
  diffuapriel evaluate tales-diffuapriel                       200 stories, some minutes
  diffuapriel evaluate tales-diffutran --samples 50 --windows 64                 a quick look
  diffuapriel evaluate tales-diffuapriel --strategy ancestral --top-p 1      as the model itself draws
  diffuapriel evaluate runs/mine/checkpoint --corpus my_texts/ --samples 0
  diffuapriel evaluate runs/code/checkpoint --corpus stdlib                  perplexity, bits per byte, against xz -9
  diffuapriel evaluate runs/code/checkpoint --infilling --spans 400 --span 4    does what it fills in parse?
  diffuapriel evaluate tales-diffuapriel --json > figures.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from textwrap import shorten
from typing import Any

from diffuapriel.commands.choices import BLOCK_HELP, DEFAULT_CHECKPOINT, STRATEGIES, block_length
from diffuapriel.commands.terminal import printable, progress

MOST_FAULT = 300  # characters shown of a story that is wrong


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=DEFAULT_CHECKPOINT,
        metavar="CHECKPOINT",
        help="a bundled name, a folder, or owner/name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--corpus", metavar="SPEC", help="held-out text; default: what the model was trained on"
    )
    parser.add_argument("--length", type=int, metavar="N", help="tokens of a window; default: as in training")
    parser.add_argument("--windows", type=int, default=256, metavar="N", help="windows of held-out text")
    parser.add_argument("--draws", type=int, default=8, metavar="N", help="noise levels of each window")
    parser.add_argument(
        "--samples", type=int, default=200, metavar="N", help="stories to draw and read; 0 for none"
    )
    parser.add_argument(
        "--strategy", default="confidence", choices=STRATEGIES, metavar="NAME", help="of the samples"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a sample; default: one per token")
    parser.add_argument("--block-length", type=int, metavar="N", help=BLOCK_HELP)
    parser.add_argument(
        "--temperature", type=float, metavar="X", help="of the samples; default: 1, and 0 for --infilling"
    )
    parser.add_argument(
        "--top-p", type=float, default=0.9, metavar="X", help="of the samples; 1 cuts nothing off"
    )
    parser.add_argument(
        "--infilling", action="store_true", help="fill in hidden code, and measure nothing else"
    )
    parser.add_argument("--spans", type=int, default=200, metavar="N", help="spans to hide, for --infilling")
    parser.add_argument("--span", type=int, default=4, metavar="N", help="tokens of a span, for --infilling")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="windows at once")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of windows, noise and samples")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.samples < 0:
        raise ValueError(f"samples is {args.samples}; it must be 0 or more")
    from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint
    from diffuapriel.data.registry import open_corpus
    from diffuapriel.evaluation.compression import xz_bits_per_byte
    from diffuapriel.evaluation.nelbo import evaluate_nelbo

    model, tokenizer = load_checkpoint(args.checkpoint, device=args.device)
    recipe = inspect_checkpoint(args.checkpoint).extra.get("recipe", {})
    length = args.length or recipe.get("length", 256)
    if args.infilling:
        return _infilling(args, model, tokenizer, length)
    spec = args.corpus or recipe.get("corpus", "tales")
    corpus = open_corpus(spec, tokenizer)
    with progress("windows", args.windows) as advance:
        likelihood = evaluate_nelbo(
            model,
            corpus,
            length=length,
            windows=args.windows,
            draws=args.draws,
            batch_size=args.batch_size,
            seed=args.seed,
            on_batch=advance,
        )
    samples = _samples(args, model, tokenizer, spec, length) if args.samples else None
    xz = xz_bits_per_byte(corpus)
    verdict = xz.verdict(likelihood.bits_per_byte_ci95) if xz else None
    if args.json:
        report = {"checkpoint": args.checkpoint, "corpus": spec, "likelihood": likelihood.to_dict()}
        report["xz"] = {**dataclasses.asdict(xz), "model": verdict} if xz else None
        print(json.dumps({**report, "samples": samples.to_dict() if samples else None}, indent=2))
        return 0
    print(f"{args.checkpoint} on {spec}, held-out\n\n{likelihood.table()}")
    if xz:
        print(
            f"xz -9        {xz.bits_per_byte:.4f} bits/byte over {xz.text_bytes:,} bytes: the model is {verdict}"
        )
    if samples:
        print(f"\n{samples.table()}")
        for fault in samples.faults:
            print(f"  {printable(shorten(fault, MOST_FAULT, placeholder=' ...'))}")
    return 0


def _samples(args: argparse.Namespace, model: Any, tokenizer: Any, spec: str, length: int) -> Any:
    """The report on drawn stories, or None where the corpus is not tales and nothing can read them."""
    from diffuapriel.evaluation.tales import evaluate_tales
    from diffuapriel.sampling.config import SamplerConfig

    kind, _, level = spec.partition(":")
    if kind != "tales":
        return None
    config = SamplerConfig(
        strategy=args.strategy,
        steps=args.steps or length,
        block_length=block_length(args),
        temperature=1.0 if args.temperature is None else args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )
    with progress("stories", args.samples) as advance:
        return evaluate_tales(
            model,
            tokenizer,
            level=int(level or 3),
            stories=args.samples,
            length=length,
            sampler=config,
            batch_size=args.batch_size,
            on_batch=advance,
        )


def _infilling(args: argparse.Namespace, model: Any, tokenizer: Any, length: int) -> int:
    """Measure and print how hidden code comes back."""
    from diffuapriel.data.stdlib import stdlib_corpus
    from diffuapriel.evaluation.infilling import evaluate_infilling
    from diffuapriel.sampling.config import SamplerConfig

    temperature = args.temperature or 0.0
    config = SamplerConfig(
        strategy=args.strategy,
        steps=args.steps or max(1, args.span),
        temperature=temperature,
        top_p=args.top_p if temperature else None,  # the most probable token is never cut off
        seed=args.seed,
    )
    with progress("spans", args.spans) as advance:
        report = evaluate_infilling(
            model,
            tokenizer,
            stdlib_corpus(tokenizer).splits["validation"],
            spans=args.spans,
            span=args.span,
            length=length,
            sampler=config,
            batch_size=args.batch_size,
            seed=args.seed,
            on_batch=advance,
        )
    if args.json:
        print(json.dumps({"checkpoint": args.checkpoint, "infilling": report.to_dict()}, indent=2))
        return 0
    print(f"{args.checkpoint} on held-out modules of the standard library\n\n{report.table()}")
    for example in report.examples:
        print(f"  {printable(shorten(example, MOST_FAULT, placeholder=' ...'))}")
    return 0
