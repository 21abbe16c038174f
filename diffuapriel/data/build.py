"""Making a token cache (tokens.py): documents in, shards of token ids out, in bounded memory.

Documents are read in order by one thread and tokenized by several: tiktoken lets go of Python's lock while it works, so
threads share the text where processes would have to copy it to and fro, and nothing is forked beside a running model.
What is read ahead is bounded, so memory is too, whatever the size of the source.

The folder appears whole or not at all: it is written aside and renamed (storage.py). A run that was killed leaves the
half-built folder there, which the next one refuses by name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from diffuapriel.data.documents import HELD_OUT
from diffuapriel.data.sources import documents_of, endless
from diffuapriel.data.token_cache import (
    INDEX,
    PARTS,
    SCHEMA,
    VERSION,
    TokenCorpus,
    refuse_half_built,
    token_dtype,
)
from diffuapriel.storage import replace_folder, write_json
from diffuapriel.tokenizer import Tokenizer

SHARD_TOKENS = 2**28  # a shard is closed at the first end of a document after so many
JOB_CHARACTERS = 100_000  # of documents that a thread takes at once
AHEAD = 2  # jobs a thread that are read before they are wanted
PIECE_CHARACTERS = 1_000_000  # a longer document is tokenized in pieces

Job = list[tuple[str, str]]  # (part, text) of some documents
Done = list[tuple[str, np.ndarray]]  # (part, ids), each closed by <|endoftext|>


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

    most_tokens: stop a part at the first end of a document beyond so many tokens of train, and a ninth of them held
    out. threads: None takes one a core. on_progress is called with the documents and tokens written so far.
    Raises FileExistsError when `folder` is there, ValueError for a half-built one, for a corpus without text in one of
    its parts, for tales without `most_tokens` (they never end), and whatever the source raises.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it, or name another folder")
    refuse_half_built(folder)
    for name, value in (("most_tokens", most_tokens), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if endless(spec) and most_tokens is None:
        raise ValueError(f"{spec} never ends: say how many tokens are wanted (--tokens 10000000)")
    documents, threads = documents_of(spec, tokenizer), threads or os.cpu_count() or 1

    def write(into: Path) -> None:
        writers = {part: _Writer(into, part, token_dtype(tokenizer.vocab_size)) for part in PARTS}
        limits = {"train": most_tokens, "heldout": most_tokens and -(-most_tokens // (HELD_OUT - 1))}
        for part, ids in _tokenized(_wanted(documents, writers, limits), tokenizer, threads):
            if not _full(writers[part], limits[part]):
                writers[part].add(ids)
                if on_progress:
                    on_progress(
                        *(sum(w.count(what) for w in writers.values()) for what in ("documents", "tokens"))
                    )
        parts = {part: writer.close() for part, writer in writers.items()}
        for part, described in parts.items():
            if not described["documents"]:
                raise ValueError(f"{spec}: too little text, nothing is left for the part {part!r}")
        write_json(into / INDEX, _index(spec, tokenizer, parts))

    replace_folder(folder, write)
    return TokenCorpus(folder, tokenizer)


class _Writer:
    """The shards and the documents' ends of one part."""

    def __init__(self, folder: Path, part: str, dtype: np.dtype) -> None:
        self.folder, self.part, self.dtype = folder, part, dtype
        self.documents = self.tokens = 0
        self._ends = (folder / f"{part}.documents").open("wb")
        self._shards: list[dict[str, Any]] = []
        self._open()

    def count(self, what: str) -> int:
        return getattr(self, what)

    def add(self, ids: np.ndarray) -> None:
        """One document, closed by <|endoftext|>."""
        data = ids.astype(self.dtype).tobytes()
        self._file.write(data)
        self._sha256.update(data)
        self._in_shard += len(ids)
        self.tokens += len(ids)
        self.documents += 1
        self._ends.write(np.array(self.tokens, dtype="<i8").tobytes())
        if self._in_shard >= SHARD_TOKENS:
            self._close_shard()
            self._open()

    def close(self) -> dict[str, Any]:
        """What the index says of this part."""
        self._close_shard()
        self._ends.close()
        return {"documents": self.documents, "tokens": self.tokens, "shards": self._shards}

    def _open(self) -> None:
        self._name = f"{self.part}-{len(self._shards):05}.bin"
        self._file = (self.folder / self._name).open("wb")
        self._sha256, self._in_shard = hashlib.sha256(), 0

    def _close_shard(self) -> None:
        self._file.close()
        if self._in_shard:
            digest = self._sha256.hexdigest()
            self._shards.append({"file": self._name, "tokens": self._in_shard, "sha256": digest})
        else:
            (self.folder / self._name).unlink()


def _full(writer: _Writer, limit: int | None) -> bool:
    return limit is not None and writer.tokens >= limit


def _wanted(
    documents: Iterable[tuple[str, str]], writers: dict[str, _Writer], limits: dict[str, int | None]
) -> Iterator[tuple[str, str]]:
    """The documents of parts that are not full yet; ends when all are."""
    for part, text in documents:
        if not _full(writers[part], limits[part]):
            yield part, text
        elif all(_full(writers[p], limits[p]) for p in PARTS):
            return


def _tokenized(
    documents: Iterable[tuple[str, str]], tokenizer: Tokenizer, threads: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(part, ids) of every document, in order; at most AHEAD jobs a thread are under way."""
    under_way: deque[Future[Done]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in _jobs(documents):
                under_way.append(pool.submit(_encode, job, tokenizer))
                if len(under_way) >= AHEAD * threads:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _jobs(documents: Iterable[tuple[str, str]]) -> Iterator[Job]:
    job: Job = []
    characters = 0
    for part, text in documents:
        job.append((part, text))
        characters += len(text)
        if characters >= JOB_CHARACTERS:
            yield job
            job, characters = [], 0
    if job:
        yield job


def _encode(job: Job, tokenizer: Tokenizer) -> Done:
    done = []
    for part, text in job:
        pieces = [np.array(tokenizer.encode(piece), dtype=np.uint32) for piece in pieces_of(text)]
        done.append((part, np.concatenate([*pieces, np.array([tokenizer.eos_id], dtype=np.uint32)])))
    return done


def pieces_of(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The text in pieces of about `size` characters, which together have the tokens of the whole.

    It is cut before a space between two lower-case letters of ASCII: GPT-2's rule ends a token there in any case.
    """
    start = 0
    while len(text) - start > size and (found := _BETWEEN_WORDS.search(text, start + size)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


_BETWEEN_WORDS = re.compile(r"(?<=[a-z]) (?=[a-z])")


def _index(spec: str, tokenizer: Tokenizer, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    shards = [shard["sha256"] for part in PARTS for shard in parts[part]["shards"]]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "source": spec,
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "digest": hashlib.sha256("\n".join([tokenizer.name, *shards]).encode()).hexdigest(),
        "parts": parts,
    }
