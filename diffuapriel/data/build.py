"""Makes a token cache: documents in, shards of token ids out (token_cache.py), in bounded memory.

Every document of a corpus is read once, in order, and assigned to the split that it also has without a cache; of the
endless tales every tenth is for validation. Files are read twice: their documents are counted first.

A .txt file is one document and must fit in memory; JSON lines and Parquet are read line by line and row by row.

One thread reads and several tokenize: tiktoken releases Python's global lock, so threads share the text, which
processes would have to copy, and nothing is forked beside a running model. The amount read ahead is bounded.

The folder appears whole or not at all: it is written beside its place and renamed (storage.py). A run that fails or is
interrupted removes what it has written. A killed one leaves the half-built folder, and the next run refuses to start
until it is removed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np

from diffuapriel.data.base import SPLITS, VALIDATION_EVERY, split_of
from diffuapriel.data.documents import DocumentCorpus, split_documents
from diffuapriel.data.files import find_files, own_splits, read_documents
from diffuapriel.data.huggingface import HubCorpus
from diffuapriel.data.mixed import MixedCorpus, MixPart, naming_part, read_mix, write_mix
from diffuapriel.data.registry import check_spec, open_corpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.data.token_cache import (
    DISK_NAMES,
    INDEX,
    SCHEMA,
    VERSION,
    TokenCorpus,
    refuse_half_built,
    token_dtype,
)
from diffuapriel.options import check_least
from diffuapriel.storage import replace_folder, write_json
from diffuapriel.tokenizer import Tokenizer

SHARD_TOKENS = 2**28  # a shard ends with the document that reaches this number
JOB_CHARACTERS = 100_000  # of the documents that a thread takes at once
AHEAD = 2  # jobs per thread that are read in advance
PIECE_CHARACTERS = 1_000_000  # a longer document is tokenized in pieces
KNOWN_KINDS = ("tales", "stdlib", "hf", "tokens")

Documents = Iterator[tuple[str, str]]  # ("train" or "validation", text)
Job = list[tuple[str, str]]  # (split, text) of some documents
Done = list[tuple[str, int, np.ndarray]]  # (split, characters, ids), each ending with <|endoftext|>


def build_tokens(
    spec: str,
    folder: str | Path,
    tokenizer: Tokenizer,
    *,
    most_tokens: int | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenCorpus:
    """Tokenize the corpus `spec` into `folder`, and open it.

    Args:
        most_tokens: end the training split with the document that reaches this number of tokens, and the validation
            split at a ninth of it.
        threads: None for one per core.
        on_progress: called with the documents and tokens written so far.

    Raises FileExistsError if `folder` exists; ValueError if it is half-built, if a split has no text, and for tales
    without `most_tokens` (they never end); and what the source raises.
    """
    folder = Path(folder)
    _refuse_existing(folder)
    check_least(most_tokens=1 if most_tokens is None else most_tokens, threads=1 if threads is None else threads)
    if spec.partition(":")[0] == "tales" and most_tokens is None:
        raise ValueError(f"{spec} never ends: give a number of tokens (--tokens 10000000)")
    left_out: Counter[str] = Counter()
    documents, threads = documents_of(spec, tokenizer, left_out), threads or os.cpu_count() or 1

    with _one_interrupt() as no_more:

        def write(into: Path) -> None:
            limits = {
                "train": most_tokens,
                "validation": most_tokens and -(-most_tokens // (VALIDATION_EVERY - 1)),
            }
            with ExitStack() as stack:
                pool, stop = stack.enter_context(ThreadPoolExecutor(threads)), Event()
                writers = {
                    split: stack.enter_context(_Writer(into, split, tokenizer, limits[split])) for split in SPLITS
                }
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
                stack.callback(stop.set)
                stack.push(no_more)  # the first to be called when something fails
                encode = partial(_encode, tokenizer=tokenizer, stop=stop)
                for split, characters, ids in _tokenized(_wanted(documents, writers), pool, encode, AHEAD * threads):
                    if not writers[split].full:
                        writers[split].add(characters, ids)
                        if on_progress:
                            on_progress(
                                sum(writer.documents for writer in writers.values()),
                                sum(writer.tokens for writer in writers.values()),
                            )
                parts = {DISK_NAMES[split]: writer.close() for split, writer in writers.items()}
            for split, writer in writers.items():
                if not writer.documents:
                    raise ValueError(f"{spec}: too little text, nothing is left for the split {split!r}")
            write_json(into / INDEX, _index(spec, tokenizer, parts, left_out))

        replace_folder(folder, write)
    return TokenCorpus(folder, tokenizer)


def build_mix(
    spec: str,
    folder: str | Path,
    tokenizer: Tokenizer,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> MixedCorpus:
    """Tokenize every part of `mix:FILE` into `folder`, write `folder`/mix.yaml, and open that mix.

    Parts that are token caches, and the endless tales, stay as they are. Arguments and errors are those of
    `build_tokens`, for each part.
    """
    folder, mix = Path(folder), read_mix(Path(spec.removeprefix("mix:")))
    _refuse_existing(folder)
    before = [0, 0]  # documents and tokens of the parts that are done

    def show(*numbers: int) -> None:
        if on_progress:
            on_progress(*map(sum, zip(before, numbers)))

    def tokenize(part: MixPart, into: Path, number: int) -> MixPart:
        kind, _, rest = part.corpus.partition(":")
        if kind == "tales":
            return part
        if kind == "tokens":
            return replace(part, corpus=f"tokens:{TokenCorpus(rest, tokenizer).folder.resolve()}")
        name = f"{number}-" + re.sub(r"[^A-Za-z0-9]+", "-", part.name).strip("-")
        cache = build_tokens(part.corpus, into / name, tokenizer, on_progress=show, **options)
        for i, count in enumerate((cache.documents, cache.tokens)):
            before[i] += sum(map(count, SPLITS))
        return replace(part, corpus=f"tokens:{name}")

    with _one_interrupt() as no_more:

        def write(into: Path) -> None:
            with ExitStack() as stack:
                stack.push(no_more)
                parts = []
                for number, part in enumerate(mix.parts, 1):
                    with naming_part(spec, part):
                        parts.append(tokenize(part, into, number))
                write_mix(into / "mix.yaml", replace(mix, parts=tuple(parts)))

        replace_folder(folder, write)
    corpus = open_corpus(f"mix:{folder / 'mix.yaml'}", tokenizer)
    assert isinstance(corpus, MixedCorpus)
    return corpus


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it, or choose another folder")
    refuse_half_built(folder)


@contextmanager
def _one_interrupt() -> Iterator[Callable[..., None]]:
    """Gives an exit function for a context: from its first error on Ctrl-C is ignored, until this block is left.

    So an impatient second Ctrl-C does not end the removal of what the first one left.
    """
    handler = signal.getsignal(signal.SIGINT)
    alone = handler is not None and current_thread() is main_thread()  # or signals are not ours

    def no_more(kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None and alone:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        yield no_more
    finally:
        if alone:
            signal.signal(signal.SIGINT, handler)


class _Writer:
    """The shards of one split, and the file of the document ends."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, limit: int | None) -> None:
        self.folder, self.limit, self.dtype = folder, limit, token_dtype(tokenizer.vocab_size)
        self.documents = self.characters = self.tokens = 0
        self._stem = DISK_NAMES[split]
        self._ends = (folder / f"{self._stem}.documents").open("wb")
        self._shards: list[dict[str, Any]] = []
        self._open()

    @property
    def full(self) -> bool:
        return self.limit is not None and self.tokens >= self.limit

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self._file, self._ends):
            with suppress(OSError):  # on a full disk a file cannot be closed in peace
                file.close()

    def add(self, characters: int, ids: np.ndarray) -> None:
        """Write one document, which ends with <|endoftext|>."""
        data = ids.astype(self.dtype).tobytes()
        self._file.write(data)
        self._sha256.update(data)
        self._in_shard += len(ids)
        self.tokens += len(ids)
        self.documents += 1
        self.characters += characters
        self._ends.write(np.array(self.tokens, dtype="<i8").tobytes())
        if self._in_shard >= SHARD_TOKENS:
            self._close_shard()
            self._open()

    def close(self) -> dict[str, Any]:
        """Close the files; returns the entry of this split in the index."""
        self._close_shard()
        self._ends.close()
        numbers = {"documents": self.documents, "characters": self.characters, "tokens": self.tokens}
        return {**numbers, "shards": self._shards}

    def _open(self) -> None:
        self._name = f"{self._stem}-{len(self._shards):05}.bin"
        self._file = (self.folder / self._name).open("wb")
        self._sha256, self._in_shard = hashlib.sha256(), 0

    def _close_shard(self) -> None:
        self._file.close()
        if self._in_shard:
            digest = self._sha256.hexdigest()
            self._shards.append({"file": self._name, "tokens": self._in_shard, "sha256": digest})
        else:
            (self.folder / self._name).unlink()


def _wanted(documents: Documents, writers: dict[str, _Writer]) -> Documents:
    """The documents of splits that are not full; ends when all are."""
    for split, text in documents:
        if not writers[split].full:
            yield split, text
        elif all(writer.full for writer in writers.values()):
            return


def _tokenized(
    documents: Documents, pool: ThreadPoolExecutor, encode: Callable[[Job], Done], ahead: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(split, characters, ids) of every document, in order; at most `ahead` jobs are pending."""
    pending: deque[Future[Done]] = deque()
    for job in _jobs(documents):
        pending.append(pool.submit(encode, job))
        if len(pending) >= ahead:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _jobs(documents: Documents) -> Iterator[Job]:
    job: Job = []
    characters = 0
    for split, text in documents:
        job.append((split, text))
        characters += len(text)
        if characters >= JOB_CHARACTERS:
            yield job
            job, characters = [], 0
    if job:
        yield job


def _encode(job: Job, tokenizer: Tokenizer, stop: Event) -> Done:
    done = []
    for split, text in job:
        ids = []
        for piece in pieces_of(text):
            if stop.is_set():
                return []
            ids.append(np.array(tokenizer.encode(piece), dtype=np.uint32))
        ids.append(np.array([tokenizer.eos_id], dtype=np.uint32))
        done.append((split, len(text), np.concatenate(ids)))
    return done


def pieces_of(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The text in pieces of about `size` characters, which together have the same tokens as the whole.

    It is cut before a single space or line feed between characters, where GPT-2's rule always ends a token.
    """
    start = 0
    while len(text) - start > size and (found := _BETWEEN_WORDS.search(text, start + size)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


_BETWEEN_WORDS = re.compile(r"(?<=\S)[ \n](?=\S)")


def _index(
    spec: str, tokenizer: Tokenizer, parts: dict[str, dict[str, Any]], left_out: dict[str, int]
) -> dict[str, Any]:
    shards = [shard["sha256"] for split in SPLITS for shard in parts[DISK_NAMES[split]]["shards"]]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "source": spec,
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "digest": hashlib.sha256("\n".join([tokenizer.name, *shards]).encode()).hexdigest(),
        "left_out": left_out,
        "parts": parts,
    }


# ---- the documents of a corpus ---------------------------------------------------------------------


def documents_of(spec: str, tokenizer: Tokenizer, left_out: Counter[str]) -> Documents:
    """(split, text) of every document of the corpus that `spec` names (see registry.py).

    What is passed over is added to `left_out` as it is read. Raises what `open_corpus` raises, and ValueError for a
    token cache, which holds no text.
    """
    check_spec(spec)
    path, _, field = spec.partition("#")
    if spec.partition(":")[0] not in KNOWN_KINDS and Path(path).exists():
        files = find_files(Path(path), left_out)  # now, before the cache is there, too
        if splits := own_splits(Path(path), files, left_out):
            return (
                (split, text)
                for split in SPLITS
                for file in splits[split]
                for text in read_documents(file, field or "text", left_out)
            )
        return _of_files(path, files, field or "text", left_out)
    corpus = open_corpus(spec, tokenizer)
    if isinstance(corpus, TalesCorpus):
        splits = map(split_of, itertools.count())
        return ((split, corpus.document(i, split=split, seed=0)) for i, split in enumerate(splits))
    if isinstance(corpus, HubCorpus):
        corpus.left_out = left_out
        return corpus.documents()
    if isinstance(corpus, DocumentCorpus):
        return ((split, text) for split in SPLITS for text in corpus.splits[split] if text)
    raise ValueError(f"{spec!r} is no corpus of documents; name tales, stdlib, a file, a folder or hf:owner/name")


def _of_files(path: str, files: list[Path], field: str, left_out: Counter[str]) -> Documents:
    def texts(left_out: Counter[str]) -> Iterator[str]:
        return (text for file in files for text in read_documents(file, field, left_out))

    count = sum(1 for _ in texts(Counter()))
    if not count:
        raise ValueError(f"{path} holds no text")
    if count == 1:
        for split, halves in zip(SPLITS, split_documents(list(texts(left_out))), strict=True):
            yield from ((split, text) for text in halves if text)
        return
    cut = count - max(1, count // VALIDATION_EVERY)
    for index, text in enumerate(texts(left_out)):
        yield ("train" if index < cut else "validation"), text
