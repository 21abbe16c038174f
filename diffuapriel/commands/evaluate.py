"""Score a model: the likelihood of validation text, and the quality of its samples.

The NELBO, in nats/token with a 95 % interval, bounds how well the model predicts the text (--estimator mdlm measures it
as MDLM's papers do, which is slightly below the bound). For tales the exact entropy
of the same stories is known; the excess NELBO above it is what is left to learn. Then the model writes stories and the
grammar checks them: grammatical (the syntax fits) and consistent (names, colors, places and counts agree). The entropy
of the samples falls if a model repeats itself.

A corpus is tales, stdlib (the Python standard library of this machine), a text, JSON-lines or Parquet file, a folder
of them, or hf:owner/name. If it is a list of documents, `xz -9` compresses the same validation text as a baseline in
bits per byte; with --trained-xz it reads the training text first. Of a mix (mix:FILE) every part is scored, too, on its
own validation split.

For a corpus other than tales, samples are measured beside validation text of the same length: how varied they are
(distinct n-grams, entropy), how soon they repeat 8 words in a row, and how many words in a row they copy from the
training text. Each --judge, another checkpoint, scores both in bits per byte.

tokens/pass is what a forward pass writes: tokens of the stories or samples, counted with gpt2-4k whatever the model's
tokenizer, over all passes; <|endoftext|> and padding are no tokens. A model of blocks is scored at every block length
that it was trained for. --strategy and --block-length may be repeated: samples are drawn with every pair.

With --infilling, only the following is measured: a few tokens within a line of validation code from the standard
library are hidden and filled in, the most confident first. The report counts restored tokens, restored spans, and how
often the enclosing function is still valid Python. It is meant for models trained on `--corpus stdlib`.

examples:
  diffuapriel evaluate tales-diffuapriel                       200 stories, a few minutes
  diffuapriel evaluate tales-diffutran --samples 50 --sequences 64               a quick look
  diffuapriel evaluate tales-diffuapriel --strategy ancestral --top-p 1      from the model's own distribution
  diffuapriel evaluate runs/blocks --block-length 1 --block-length 16 --strategy threshold --stop-at-eos
  diffuapriel evaluate runs/mine --corpus my_texts/ --samples 0              the likelihood only
  diffuapriel evaluate runs/mine --judge runs/other --judge owner/name       samples, scored by two other models
  diffuapriel evaluate runs/code --corpus stdlib                  bits per byte, compared with xz -9
  diffuapriel evaluate runs/code --infilling --spans 400 --span 4
  diffuapriel evaluate tales-diffuapriel --json > figures.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from diffuapriel.commands.console.terminal import printable, progress
from diffuapriel.config import DEFAULT_CHECKPOINT, ESTIMATORS
from diffuapriel.options import add_argument, check_fields, option, options_of
from diffuapriel.sampling.config import (
    ADAPTIVE,
    ALL_STRATEGIES,
    BLOCK_LENGTH_HELP,
    DRAFT_BEHIND,
    MAX_DRAFTS,
    RENAMED_STRATEGIES,
    SamplerConfig,
    resolve_blocks,
)

MOST_SHOWN = 300  # characters of a sample


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure. Raises ValueError that names the option, its value and what is permitted."""

    corpus: str | None = option(None, help="the text to score; default: the training corpus of the model")
    length: int | None = option(None, least=2, help="tokens per sequence; default: as in training")
    sequences: int = option(256, least=2, help="validation sequences to score", flags=("--windows",))
    mc_samples: int = option(8, least=1, help="random masks per sequence", flags=("--draws",))
    estimator: str = option(
        "counts",
        choices=ESTIMATORS,
        help="how masks are drawn: by counts, an unbiased bound, or as in MDLM's papers, for comparison with them",
    )
    samples: int = option(200, least=0, help="stories or sequences to generate and check; 0 for none")
    strategy: str = option(
        "low_confidence", choices=ALL_STRATEGIES, renamed=RENAMED_STRATEGIES, help="sampling strategy"
    )
    steps: int | None = option(None, least=1, help="steps per sample; default: one per token")
    block_length: int | None = option(None, least=0, help=BLOCK_LENGTH_HELP)
    stop_at_eos: bool = option(False, help=options_of(SamplerConfig)["stop_at_eos"].help)
    threshold: float = option(0.9, least=0, most=1, help=options_of(SamplerConfig)["threshold"].help)
    factor: float = option(1.0, least=0, most=100, help=options_of(SamplerConfig)["factor"].help)
    entropy_bound: float = option(0.1, least=0, most=100, help=options_of(SamplerConfig)["entropy_bound"].help)
    remask_below: float = option(0.0, least=0, most=1, help=options_of(SamplerConfig)["remask_below"].help)
    draft_behind: str = option(
        DRAFT_BEHIND[0], choices=DRAFT_BEHIND, help=options_of(SamplerConfig)["draft_behind"].help
    )
    drafts: int = option(1, least=1, most=MAX_DRAFTS, help=options_of(SamplerConfig)["drafts"].help)
    temperature: float | None = option(
        None, least=0, most=100, help="sampling temperature; default: 1, and 0 for --infilling"
    )
    top_p: float = option(0.9, least=0, most=1, above=True, help="nucleus of the samples; 1 turns it off")
    infilling: bool = option(False, help="measure infilling of hidden code, and nothing else")
    spans: int = option(200, least=1, help="spans to hide, for --infilling")
    span: int = option(4, least=1, help="tokens per span, for --infilling")
    trained_xz: bool = option(False, help="let xz read the training text first; a minute or two for 60 MB")
    batch_size: int = option(16, least=1, help="sequences per batch")
    seed: int = option(0, least=0, help="seed of sequences, noise and samples")

    def __post_init__(self) -> None:
        check_fields(self)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=DEFAULT_CHECKPOINT,
        metavar="CHECKPOINT",
        help="a bundled name, the folder of a checkpoint or of a run, or owner/name on the Hugging Face Hub",
    )
    for name, declared in options_of(EvaluateOptions).items():
        repeated = {"action": "append", "default": None} if name in ("strategy", "block_length") else {}
        add_argument(parser, declared, **{"metavar": "SPEC"} if name == "corpus" else repeated)
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="another model that scores the samples; may be repeated; not for tales",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in options_of(EvaluateOptions)}
    strategies = given["strategy"] or [options_of(EvaluateOptions)["strategy"].default]
    block_lengths: list[int | None] = given["block_length"] or [None]
    pairs = [{"strategy": strategy, "block_length": n} for strategy in strategies for n in block_lengths]
    options, *more = (EvaluateOptions(**{**given, **pair}) for pair in pairs)
    from diffuapriel.checkpoint import checkpoint_name, inspect_checkpoint, load_checkpoint
    from diffuapriel.data.mixed import MixedCorpus
    from diffuapriel.data.registry import open_corpus
    from diffuapriel.evaluation.nelbo import evaluate_nelbo, evaluate_parts, parts_table

    model, tokenizer = load_checkpoint(args.checkpoint, device=args.device)
    info = inspect_checkpoint(args.checkpoint)
    length = options.length or info.length or 256
    if options.infilling:
        return _infilling(args, options, model, tokenizer, length)
    spec = options.corpus or info.corpus or "tales"
    judges = _judges(args, options, spec)
    corpus = open_corpus(spec, tokenizer, mix=None if options.corpus else info.mix)
    how: dict[str, Any] = {
        "length": length,
        "num_sequences": options.sequences,
        "num_mc_samples": options.mc_samples,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "estimator": options.estimator,
    }
    likelihoods, bounds = [], _bounds(block_lengths, info.config)
    configs = [_sampler(each, info.config, length) for each in (options, *more)]
    for block_length in bounds:
        with progress("sequences", options.sequences) as advance:
            likelihoods.append(evaluate_nelbo(model, corpus, block_length=block_length, on_batch=advance, **how))
    with progress("sequences of each part", options.sequences) as advance:
        parts = evaluate_parts(model, corpus, block_length=bounds[0], on_batch=advance, **how)
    samples = [_samples(options, model, corpus, judges, length, config) for config in configs if options.samples]
    likelihood, *others = likelihoods
    xz = _compare_with_xz(corpus, likelihood, options.trained_xz)
    corpora = corpus.parts if isinstance(corpus, MixedCorpus) else {}
    part_xz = {name: _compare_with_xz(corpora[name], part, options.trained_xz) for name, part in parts.items()}
    if args.json:
        report = {"checkpoint": checkpoint_name(args.checkpoint), "corpus": spec, "likelihood": likelihood.to_dict()}
        if others:
            report["by_block_length"] = [each.to_dict() for each in likelihoods]
        report["text"] = corpus.description
        report["xz"] = xz
        report["parts"] = {
            name: {"likelihood": part.to_dict(), "xz": part_xz[name]} for name, part in parts.items()
        } or None
        report["samples"] = samples[0].to_dict() if samples else None
        if len(samples) > 1:
            report["by_sampler"] = [each.to_dict() for each in samples]
        print(json.dumps(report, indent=2))
        return 0
    tables = "\n\n".join(each.table() for each in likelihoods)
    print(f"{checkpoint_name(args.checkpoint)} on {spec}, validation split\n{corpus.description}\n\n{tables}")
    if xz:
        bits, size = _xz_bits(xz), xz["text_bytes"]
        print(f"xz -9        {bits:.4f} bits/byte over {size:,} bytes: the model is {xz['model']}")
    if parts:
        compared = (f"  xz -9 {_xz_bits(found):.4f}" if found else "" for found in part_xz.values())
        print("\n" + "\n".join(map("".join, zip(parts_table(parts).splitlines(), compared))))
    for each in samples:
        print(f"\n{each.table()}")
        for text in getattr(each, "faults", each.examples):
            print(f"  {printable(shorten(text, MOST_SHOWN, placeholder=' ...'))}")
    return 0


def _xz_bits(found: dict[str, Any]) -> float:
    """Bits per byte: after the training text if it was read."""
    return found["after_training_text"] or found["bits_per_byte"]


def _compare_with_xz(corpus: Any, likelihood: Any, trained: bool) -> dict[str, Any] | None:
    """`XzEstimate` of the validation split, and in "model" whether the model is better; None without documents."""
    from diffuapriel.evaluation.compression import xz_bits_per_byte

    xz = xz_bits_per_byte(corpus, trained=trained)
    return {**dataclasses.asdict(xz), "model": xz.verdict(likelihood.bits_per_byte_ci95)} if xz else None


def _bounds(block_lengths: list[int | None], config: Any) -> tuple[int | None, ...]:
    """The block lengths of the bounds to measure: of a model of blocks those given, by default all that it knows."""
    if not config.block_lengths:
        return (None,)
    return config.block_lengths if block_lengths == [None] else tuple(block_lengths)


def _sampler(options: EvaluateOptions, model: Any, length: int) -> SamplerConfig:
    """How samples of a model with the `ModelConfig` `model` are drawn."""
    return SamplerConfig(
        strategy=options.strategy,
        steps=options.steps or length,
        stop_at_eos=options.stop_at_eos,
        **{name: getattr(options, name) for name in (*ADAPTIVE, "remask_below", "draft_behind", "drafts")},
        temperature=1.0 if options.temperature is None else options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        **resolve_blocks(options.strategy, options.block_length, known=model.block_lengths),
    )


def _judges(args: argparse.Namespace, options: EvaluateOptions, spec: str) -> dict[str, Any]:
    """The judges by name. Raises ValueError, before anything is measured, where samples cannot be judged."""
    from diffuapriel.checkpoint import checkpoint_name, inspect_checkpoint, load_checkpoint
    from diffuapriel.evaluation.text.quality import MIN_SAMPLES, Judge

    of_tales = spec.partition(":")[0] == "tales"
    if args.judge and (of_tales or not options.samples):
        raise ValueError(f"--judge scores samples of free text, not of {spec} with --samples {options.samples}")
    if not of_tales and 0 < options.samples < MIN_SAMPLES:
        raise ValueError(f"samples is {options.samples}; free text needs {MIN_SAMPLES} or more, or 0 for none")
    judges = {}
    for checkpoint in args.judge:
        info = inspect_checkpoint(checkpoint)
        length = info.length or info.config.context_length
        name = checkpoint_name(checkpoint)
        name = checkpoint if name in judges else name
        judges[name] = Judge(*load_checkpoint(checkpoint, device=args.device), length)
    return judges


def _samples(
    options: EvaluateOptions, model: Any, corpus: Any, judges: dict[str, Any], length: int, config: SamplerConfig
) -> Any:
    """The report on generated stories of tales, or on generated free text."""
    from diffuapriel.data.tales import TalesCorpus
    from diffuapriel.evaluation.tales import evaluate_tales
    from diffuapriel.evaluation.text.quality import evaluate_text
    from diffuapriel.sampling.blocks import denoiser_for

    model = denoiser_for(model, config)
    how: dict[str, Any] = {"length": length, "sampler": config, "batch_size": options.batch_size}
    if isinstance(corpus, TalesCorpus):
        with progress("stories", options.samples) as advance:
            how |= {"level": corpus.level, "stories": options.samples, "on_batch": advance}
            return evaluate_tales(model, corpus.tokenizer, **how)
    with progress("samples", options.samples) as advance:
        how |= {"num_samples": options.samples, "num_mc_samples": options.mc_samples, "seed": options.seed}
        return evaluate_text(model, corpus, judges=judges, on_batch=advance, **how)


def _infilling(args: argparse.Namespace, options: EvaluateOptions, model: Any, tokenizer: Any, length: int) -> int:
    from diffuapriel.checkpoint import checkpoint_name
    from diffuapriel.data.stdlib import stdlib_corpus
    from diffuapriel.evaluation.infilling import evaluate_infilling

    temperature = options.temperature or 0.0
    config = SamplerConfig(
        strategy=options.strategy,
        steps=options.steps or options.span,
        temperature=temperature,
        top_p=options.top_p if temperature else None,  # at temperature 0 top-p changes nothing
        seed=options.seed,
    )
    with progress("spans", options.spans) as advance:
        report = evaluate_infilling(
            model,
            tokenizer,
            stdlib_corpus(tokenizer).splits["validation"],
            spans=options.spans,
            span=options.span,
            length=length,
            sampler=config,
            batch_size=options.batch_size,
            seed=options.seed,
            on_batch=advance,
        )
    if args.json:
        print(json.dumps({"checkpoint": checkpoint_name(args.checkpoint), "infilling": report.to_dict()}, indent=2))
        return 0
    print(f"{checkpoint_name(args.checkpoint)} on validation modules of the standard library\n\n{report.table()}")
    for example in report.examples:
        print(f"  {printable(shorten(example, MOST_SHOWN, placeholder=' ...'))}")
    return 0
