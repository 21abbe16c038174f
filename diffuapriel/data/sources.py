"""Every document of a corpus once, in order, with its part, in bounded memory: what a token cache is made from.

    tales      endless; every tenth story is held out
    stdlib     held out by module, as everywhere (stdlib.py)
    files      read document by document; the same documents are held out as when the files are a corpus themselves
               (files.py): the last tenth, or of a single document the last tenth of its characters. They are counted
               first, so files are read twice
    hf:...     the dataset's own held-out split, or every tenth document (hub.py)

A .txt file is one document and must fit in memory; JSON lines and Parquet are read line by line and row by row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from diffuapriel.data.documents import HELD_OUT, DocumentCorpus, split_documents
from diffuapriel.data.files import find_files, read_documents
from diffuapriel.data.huggingface import HubCorpus
from diffuapriel.data.registry import open_corpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.tokenizer import Tokenizer

Documents = Iterator[tuple[str, str]]  # ("train" or "heldout", text)
NAMES = ("tales", "stdlib", "hf", "tokens")


def documents_of(spec: str, tokenizer: Tokenizer) -> Documents:
    """The documents of the corpus that `spec` names (corpus.py), each with its part.

    Raises what `open_corpus` raises, and ValueError for a token cache, which holds no text.
    """
    path, _, field = spec.partition("#")
    if spec.partition(":")[0] not in NAMES and Path(path).exists():
        return _of_files(Path(path), field or "text")
    corpus = open_corpus(spec, tokenizer)
    if isinstance(corpus, TalesCorpus):
        return _of_tales(corpus)
    if isinstance(corpus, HubCorpus):
        return corpus.documents()
    if isinstance(corpus, DocumentCorpus):
        return ((part, text) for part in ("train", "heldout") for text in corpus.parts[part] if text)
    raise ValueError(
        f"{spec!r} is no corpus of documents; name tales, stdlib, a file, a folder or hf:owner/name"
    )


def endless(spec: str) -> bool:
    """Whether the documents of `spec` never end."""
    return spec.partition(":")[0] == "tales"


def _of_tales(corpus: TalesCorpus) -> Documents:
    for index in itertools.count():
        part = "heldout" if index % HELD_OUT == HELD_OUT - 1 else "train"
        yield part, corpus.document(index, split=part, seed=0)


def _of_files(path: Path, field: str) -> Documents:
    files = find_files(path)

    def texts() -> Iterator[str]:
        return (text for file in files for text in read_documents(file, field) if text.strip())

    count = sum(1 for _ in texts())
    if not count:
        raise ValueError(f"{path} holds no text")
    if count == 1:
        for part, halves in zip(("train", "heldout"), split_documents(list(texts())), strict=True):
            yield from ((part, text) for text in halves if text)
        return
    cut = count - max(1, count // HELD_OUT)
    for index, text in enumerate(texts()):
        yield ("train" if index < cut else "heldout"), text
