"""Score a model: the likelihood of validation text, and the quality of its samples.

The NELBO, in nats/token with a 95 % interval, bounds how well the model predicts the text. For tales the exact entropy
of the same stories is known; the excess NELBO above it is what is left to learn. Then the model writes stories and the
grammar checks them: grammatical (the syntax fits) and consistent (names, colors, places and counts agree). The entropy
of the samples falls if a model repeats itself.

For other corpora only the likelihood is measured, as perplexity and bits per byte. A corpus is tales, stdlib (the
Python standard library of this machine), a text, JSON-lines or Parquet file, a folder of them, or hf:owner/name. If it
is a list of documents, `xz -9` compresses the same validation text as a baseline in bits per byte.

With --infilling, only the following is measured: a few tokens within a line of validation code from the standard
library are hidden and filled in, the most confident first. The report counts restored tokens, restored spans, and how
often the enclosing function is still valid Python. It is meant for models trained on `--corpus stdlib`.

examples:
  diffuapriel evaluate tales-diffuapriel                       200 stories, some minutes
  diffuapriel evaluate tales-diffutran --samples 50 --sequences 64               a quick look
  diffuapriel evaluate tales-diffuapriel --strategy ancestral --top-p 1      from the model's own distribution
  diffuapriel evaluate runs/mine/checkpoint --corpus my_texts/ --samples 0
  diffuapriel evaluate runs/code/checkpoint --corpus stdlib                  bits per byte, against xz -9
  diffuapriel evaluate runs/code/checkpoint --infilling --spans 400 --span 4
  diffuapriel evaluate tales-diffuapriel --json > figures.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from textwrap import shorten
from typing import Any

from diffuapriel.commands.terminal import printable, progress
from diffuapriel.config import DEFAULT_CHECKPOINT
from diffuapriel.options import add_argument, options_of
from diffuapriel.sampling.config import BLOCK_LENGTH_HELP, SamplerConfig, resolve_block_length

MOST_FAULT = 300  # characters shown of a faulty story


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
        "--corpus", metavar="SPEC", help="the text to score; default: the training corpus of the model"
    )
    parser.add_argument(
        "--length", type=int, metavar="N", help="tokens per sequence; default: as in training"
    )
    parser.add_argument(
        *("--sequences", "--windows"),
        type=int,
        default=256,
        metavar="N",
        help="validation sequences to score",
    )
    parser.add_argument(
        *("--mc-samples", "--draws"), type=int, default=8, metavar="N", help="noise levels per sequence"
    )
    parser.add_argument(
        "--samples", type=int, default=200, metavar="N", help="stories to generate and check; 0 for none"
    )
    add_argument(parser, options_of(SamplerConfig)["strategy"], help="sampling strategy")
    parser.add_argument("--steps", type=int, metavar="N", help="steps per sample; default: one per token")
    parser.add_argument("--block-length", type=int, metavar="N", help=BLOCK_LENGTH_HELP)
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="sampling temperature; default: 1, and 0 for --infilling",
    )
    parser.add_argument(
        "--top-p", type=float, default=0.9, metavar="X", help="nucleus of the samples; 1 turns it off"
    )
    parser.add_argument(
        "--infilling", action="store_true", help="measure infilling of hidden code, and nothing else"
    )
    parser.add_argument("--spans", type=int, default=200, metavar="N", help="spans to hide, for --infilling")
    parser.add_argument("--span", type=int, default=4, metavar="N", help="tokens per span, for --infilling")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="sequences per batch")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of sequences, noise and samples"
    )
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
    with progress("sequences", args.sequences) as advance:
        likelihood = evaluate_nelbo(
            model,
            corpus,
            length=length,
            num_sequences=args.sequences,
            num_mc_samples=args.mc_samples,
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
    print(f"{args.checkpoint} on {spec}, validation split\n\n{likelihood.table()}")
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
    """The report on generated stories; None if the corpus is not tales, as no grammar could check them."""
    from diffuapriel.evaluation.tales import evaluate_tales
    from diffuapriel.sampling.config import SamplerConfig

    kind, _, level = spec.partition(":")
    if kind != "tales":
        return None
    config = SamplerConfig(
        strategy=args.strategy,
        steps=args.steps or length,
        block_length=resolve_block_length(args.strategy, args.block_length),
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
    """Measure and print how well hidden code is restored."""
    from diffuapriel.data.stdlib import stdlib_corpus
    from diffuapriel.evaluation.infilling import evaluate_infilling
    from diffuapriel.sampling.config import SamplerConfig

    temperature = args.temperature or 0.0
    config = SamplerConfig(
        strategy=args.strategy,
        steps=args.steps or max(1, args.span),
        temperature=temperature,
        top_p=args.top_p if temperature else None,  # at temperature 0 top-p changes nothing
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
    print(f"{args.checkpoint} on validation modules of the standard library\n\n{report.table()}")
    for example in report.examples:
        print(f"  {printable(shorten(example, MOST_FAULT, placeholder=' ...'))}")
    return 0
