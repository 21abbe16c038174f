"""Make zero-shot tasks from held-out text, for `diffuapriel harness`.

All items come from the validation split of a corpus: the last word of a passage, in LAMBADA's shape, and four
endings of a passage, one of them true, in ARC's shape. The wrong endings follow other passages and are about as long.
Chance is 25 %. The last word stands earlier in the passage, but not in its last sentence; unlike LAMBADA's, no people
chose the passages. Compare the figures between models only.

FOLDER gets last_word.jsonl and endings.jsonl, each with a task file (YAML) that holds the folder's absolute path. The
tasks are called after the folder. The same corpus and seed make the same items.

examples:
  diffuapriel tasks my_texts/ --out runs/tasks/mine
  diffuapriel harness runs/model --tasks mine_last_word,mine_endings --include_path runs/tasks/mine
  diffuapriel tasks data.parquet --items 500 --seed 1 --out runs/tasks/large
"""

from __future__ import annotations

import argparse

from diffuapriel.commands.console.output import output_folder
from diffuapriel.config import TOKENIZER_SIZES


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", metavar="CORPUS", help="the corpus whose validation text is used")
    parser.add_argument("--out", type=output_folder, required=True, metavar="FOLDER", help="a new folder for the tasks")
    parser.add_argument("--items", type=int, default=300, metavar="N", help="items of each task")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of items")
    parser.add_argument(
        "--tokenizer", choices=TOKENIZER_SIZES, default="gpt2", help="the one that a corpus tokens:FOLDER was made with"
    )


def run(args: argparse.Namespace) -> int:
    from diffuapriel.data.registry import open_corpus
    from diffuapriel.evaluation.text.tasks import write_tasks
    from diffuapriel.tokenizer import get_tokenizer

    corpus = open_corpus(args.corpus, get_tokenizer(args.tokenizer))
    names = write_tasks(corpus, args.out, items=args.items, seed=args.seed)
    print(f"{args.items} items each of {' and '.join(names)}, from the validation text of {corpus.name}\n")
    print(f"diffuapriel harness CHECKPOINT --tasks {','.join(names)} --include_path {args.out}")
    return 0
