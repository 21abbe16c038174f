"""What a corpus is, and `open_corpus`, which finds one by its name.

    tales, tales:1, tales:2, tales:3    stories from the grammar ("tales" is "tales:3")
    stdlib                              the Python standard library of this machine
    book.txt  data.jsonl  data.parquet  a file of yours, or a folder of such files
    data.jsonl#content                  ... with the text in another field than "text"
    hf:owner/name  hf:owner/name:config a dataset of the Hugging Face Hub, streamed (also ...#field)
    tokens:FOLDER                       any of these, tokenized once by `diffuapriel tokenize` (tokens.py)

Every corpus has two parts that share no document, "train" and "heldout" ("valid" is another name for it).
A batch is a pure function of its arguments, so a run stopped at any step goes on exactly.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Protocol

from torch import Tensor

from diffuapriel.text.tokenizer import Tokenizer

SPLITS = {"train": "train", "heldout": "heldout", "valid": "heldout"}


class Corpus(Protocol):
    """Text as token windows. Every implementation can be pickled, for the workers of a data loader."""

    name: str
    tokenizer: Tokenizer

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64: a pure function of the arguments. `rows`: only these rows of them."""
        ...

    def document(self, index: int, *, split: str, seed: int) -> str:
        """One document of a part, as text."""
        ...


def open_corpus(spec: str, tokenizer: Tokenizer) -> Corpus:
    """The corpus that `spec` names (see the top of this file).

    Raises:
        ValueError: for a spec of no known form, or a file that is empty, binary or malformed (the message
            names file and line).
        FileNotFoundError: for a path that does not exist.
        ImportError: where Parquet or the Hub needs a package that is not installed; it names the command.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ValueError(f"a corpus is named by text such as 'tales:3', 'stdlib' or a path, not {spec!r}")
    kind, _, rest = spec.partition(":")
    if kind == "tales":
        from diffuapriel.text.tales_corpus import TalesCorpus

        if rest not in ("", "1", "2", "3"):
            raise ValueError(f"tales have the levels 1, 2 and 3: 'tales:1' to 'tales:3', not {spec!r}")
        return TalesCorpus(tokenizer, level=int(rest or 3))
    if spec == "stdlib":
        from diffuapriel.text.stdlib import stdlib_corpus

        return stdlib_corpus(tokenizer)
    if kind == "tokens":
        from diffuapriel.text.tokens import TokenCorpus

        return TokenCorpus(rest, tokenizer)
    path, _, field = spec.partition("#")
    if kind == "hf":
        from diffuapriel.text.hub import HubCorpus

        return HubCorpus(path.removeprefix("hf:"), tokenizer, field=field or "text")
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path!r} is no corpus: no such file or folder. Known names are tales:1, tales:2, tales:3 and "
            "stdlib; a dataset of the Hugging Face Hub is written hf:owner/name"
        )
    from diffuapriel.text.files import file_corpus

    return file_corpus(Path(path), tokenizer, field=field or "text")


def check_split(split: str) -> str:
    """The split's own name, "train" or "heldout"; ValueError for another."""
    if split not in SPLITS:
        raise ValueError(f"no part of the corpus is called {split!r}; choose 'train' or 'heldout'")
    return SPLITS[split]


def check_window(step: int, batch_size: int, length: int) -> None:
    """ValueError for a step, batch size or length that no batch can have."""
    for value, least, what in ((step, 0, "step"), (batch_size, 1, "batch_size"), (length, 2, "length")):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{what} is {value!r}; it must be a whole number, {least} or more")


def check_rows(rows: range | None, batch_size: int) -> range:
    """The rows of a batch to make, all where None is given; ValueError for rows that it does not have."""
    rows = range(batch_size) if rows is None else rows
    if not rows or rows.step != 1 or rows.start < 0 or rows.stop > batch_size:
        raise ValueError(f"rows are {rows}; they must be consecutive ones of range(0, {batch_size})")
    return rows


def random_stream(*key: int | str) -> random.Random:
    """A random stream of its own for every key: the same on every machine and Python version."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
