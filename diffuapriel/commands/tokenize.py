"""Tokenize a corpus once, for training runs that read it many times.

The corpus tokens:FOLDER is then read from disk as needed, whatever its size: a run resumes at any step without delay,
each epoch reads every sequence once in a new order, and the CPU cores stay free for the model. SPEC is any other
corpus: stdlib, a text, JSON-lines or Parquet file or a folder of them, hf:owner/name, or tales. Of mix:FILE.yaml every
part is tokenized into a folder of its own, beside a new mix.yaml that names them. What is left out (hidden files,
links, records without text ...) is counted and printed.

Documents are read one by one and tokenized on every core, so memory use is bounded. The folder appears when it is
complete; if a run is killed, the next one reports the files it left behind. A cache works with one tokenizer: gpt2-4k
for the presets nano and tiny, gpt2 for the others.

examples:
  diffuapriel tokenize my_texts/ --out runs/tokens/mine                             a folder of files
  diffuapriel tokenize stdlib --tokenizer gpt2-4k --out runs/tokens/stdlib-4k       for nano and tiny
  diffuapriel tokenize hf:roneneldan/TinyStories --out runs/tokens/tinystories      a dataset on the Hub
  diffuapriel tokenize hf:mlfoundations/dclm-baseline-1.0 --tokens 5000000000 --out runs/tokens/dclm-5b
  diffuapriel train --corpus tokens:runs/tokens/stdlib-4k --minutes 20              train on it
  diffuapriel tokenize mix:english.yaml --tokenizer gpt2-4k --out runs/tokens/english
  diffuapriel train --corpus mix:runs/tokens/english/mix.yaml --tokens 100000000
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

from diffuapriel.commands.console.output import output_folder
from diffuapriel.config import TOKENIZER_SIZES


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="the corpus to tokenize")
    parser.add_argument(
        "--out", type=output_folder, required=True, metavar="FOLDER", help="a new folder for the tokens"
    )
    parser.add_argument("--tokenizer", choices=TOKENIZER_SIZES, default="gpt2", help="name of the tokenizer")
    parser.add_argument("--tokens", type=int, metavar="N", help="stop at N training tokens and N/9 validation tokens")
    parser.add_argument("--threads", type=int, metavar="N", help="tokenizer threads; default: one per core")


def run(args: argparse.Namespace) -> int:
    """Tokenize, with a progress bar on standard error, and print the size of each split."""
    from diffuapriel.data.build import build_mix, build_tokens
    from diffuapriel.data.mixed import MixedCorpus
    from diffuapriel.data.token_cache import TokenCorpus
    from diffuapriel.tokenizer import get_tokenizer
    from diffuapriel.training.logging import progress_bar

    with ExitStack() as stack:
        bar: Any = None

        def show(documents: int, tokens: int) -> None:
            nonlocal bar
            if bar is None:  # so that an error in the arguments is printed without a bar
                bar = stack.enter_context(progress_bar(f"tokenize {args.spec}", None, unit="token"))
                bar.unit_scale = True
            bar.set_postfix_str(f"{documents:,} documents", refresh=False)
            bar.update(tokens - bar.n)

        build = build_mix if args.spec.startswith("mix:") else build_tokens
        corpus = build(
            args.spec,
            args.out,
            get_tokenizer(args.tokenizer),
            most_tokens=args.tokens,
            threads=args.threads,
            on_progress=show,
        )
    for name, cache in corpus.parts.items() if isinstance(corpus, MixedCorpus) else [("", corpus)]:
        size = cache.table() if isinstance(cache, TokenCorpus) else cache.description
        print(f"{name}\n{size}\n" if name else size)
    print(f"\ndiffuapriel train --corpus {corpus.name} ...".removeprefix("\n" * isinstance(corpus, MixedCorpus)))
    return 0
