"""Tokenize a corpus once, for training that reads it again and again.

The corpus tokens:FOLDER is then read from disk as it is needed, whatever its size: any step of a run is found at once,
each epoch reads every window once in an order of its own, and no core is kept from the model. SPEC is any other corpus:
stdlib, a text, JSON-lines or Parquet file or a folder of them, hf:owner/name, or tales.

Documents are read one by one and tokenized on every core, so memory stays bounded. The folder appears when it is
whole; what a killed run leaves beside it is refused by name. A cache belongs to its tokenizer: gpt2-4k for the presets
nano and tiny, gpt2 for the others.

examples:
  diffuapriel tokenize my_texts/ --out runs/tokens/mine                             a folder of files
  diffuapriel tokenize stdlib --tokenizer gpt2-4k --out runs/tokens/stdlib-4k       for nano and tiny
  diffuapriel tokenize hf:roneneldan/TinyStories --out runs/tokens/tinystories      a dataset of the Hub
  diffuapriel tokenize hf:mlfoundations/dclm-baseline-1.0 --tokens 5000000000 --out runs/tokens/dclm-5b
  diffuapriel train --corpus tokens:runs/tokens/stdlib-4k --minutes 20              what it is for
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffuapriel.commands.choices import TOKENIZERS


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("spec", metavar="SPEC", help="the corpus, see above")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the tokens go; a new folder"
    )
    parser.add_argument("--tokenizer", choices=TOKENIZERS, default="gpt2", help="whose ids")
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="stop at N tokens to train on, and a ninth held out"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="that tokenize; one a core by default")


def run(args: argparse.Namespace) -> int:
    """Tokenize with a bar on standard error, then say what there is."""
    from diffuapriel.data.build import build_tokens
    from diffuapriel.tokenizer import get_tokenizer
    from diffuapriel.training.logging import progress_bar

    with ExitStack() as stack:
        bar: Any = None

        def show(documents: int, tokens: int) -> None:
            nonlocal bar
            if bar is None:  # what is refused is refused before there is a bar
                bar = stack.enter_context(progress_bar(f"tokenize {args.spec}", None, unit="token"))
                bar.unit_scale = True
            bar.set_postfix_str(f"{documents:,} documents", refresh=False)
            bar.update(tokens - bar.n)

        corpus = build_tokens(
            args.spec,
            args.out,
            get_tokenizer(args.tokenizer),
            most_tokens=args.tokens,
            threads=args.threads,
            on_progress=show,
        )
    for part in ("train", "heldout"):
        print(f"{part:8} {corpus.documents(part):>12,} documents {corpus.tokens(part):>15,} tokens")
    print(f"SHA-256  {corpus.digest}\n\ndiffuapriel train --corpus {corpus.name} ...")
    return 0
