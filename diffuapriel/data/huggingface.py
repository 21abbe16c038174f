"""Datasets of the Hugging Face Hub, streamed: only the `datasets` library's own cache is on disk.

Documents are read in the order of the dataset through a small shuffle buffer, joined by <|endoftext|> and cut into
windows. The dataset's own split "validation", "valid" or "test" is used for validation; without one, every tenth
document of "train". At the end of the dataset the next pass begins, in another order.

A batch is a pure function of its arguments here too, but a stream has no random access. The next step is reached by
reading on, and rows that were not asked for are read and dropped; for an earlier step, and for a resumed run, the
stream is read again from its start. Every split, length and seed has a stream of its own, whose first windows are kept:
validation, which reads the same ones every time, then reads nothing.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.data.base import (
    SPLITS,
    check_batch,
    check_split,
    describe_left_out,
    digest_of,
    random_stream,
    split_of,
    stream_key,
)
from diffuapriel.data.files import WITHOUT_TEXT, field_text, no_field
from diffuapriel.tokenizer import Tokenizer

BUFFER = 256  # documents in the shuffle buffer
KEPT_TOKENS = 2**18  # of each stream, from its start
MAX_STREAMS = 8  # that are open at once
NUM_FINGERPRINT = 64  # documents of each split that a fingerprint is made of
VALIDATION_NAMES = ("validation", "valid", "test")


class HubCorpus:
    """A streamed dataset.

    Args:
        name: "owner/name" or "owner/name:config", or a folder that `datasets.load_dataset` can read.
        field: the column that holds the text.

    Each worker or rank reads the whole stream for its share of the rows. `datasets` can save the position in a stream
    and distribute its files, but then a batch would depend on what was read before and on the number of workers. For
    more than a look at a dataset, use `diffuapriel tokenize`: tokens:FOLDER finds any step and row at once.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, *, field: str = "text") -> None:
        self.dataset, _, self.config = name.partition(":")
        known_form = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.dataset)
        if not known_form and not (self.dataset and Path(self.dataset).is_dir()):
            raise ValueError(f"a dataset of the Hub is written hf:owner/name or hf:owner/name:config, not {name!r}")
        self.name, self.tokenizer, self.field = f"hf:{name}", tokenizer, field
        self.left_out: Counter[str] = Counter()  # in all that has been read so far
        self._read: Counter[str] = Counter()  # records of each of the dataset's splits, at most
        self._sources: dict[str, Any] | None = None
        self._streams: dict[tuple[str, int, int], _Stream] = {}  # by split, length and seed; the last used is last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": None, "_streams": {}}  # a worker opens its own streams

    def __repr__(self) -> str:
        return f"HubCorpus({self.name!r}, field={self.field!r})"

    @property
    def description(self) -> str:
        return f"streamed from the Hugging Face Hub{describe_left_out(self.left_out)}"

    def fingerprint(self) -> str:
        """A digest of the first documents of each split: what lies behind them may change without a trace."""
        first = (itertools.islice(self.documents(split), NUM_FINGERPRINT) for split in SPLITS)
        return digest_of(text for documents in first for document in documents for text in document)

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a split, in the order of the dataset; reads the stream up to it."""
        split = check_split(split)
        found = next(itertools.islice(self.documents(split), max(index, 0), None), None)
        if index < 0 or found is None:
            raise ValueError(f"{self.name} has no document {index} in the split {split!r}")
        return found[1]

    def texts(self, split: str) -> Iterator[str]:
        return (text for _, text in self.documents(check_split(split)))

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64. Reads on from the last batch if it can, else from the start."""
        split, rows = check_batch(step, split, batch_size, length, rows)
        key = (split, length, seed)
        stream = self._streams.pop(key, None) or _Stream(lambda: self._windows(*key), KEPT_TOKENS // length)
        self._streams[key] = stream
        if len(self._streams) > MAX_STREAMS:
            del self._streams[next(iter(self._streams))]
        return torch.tensor(stream.read(step * batch_size + rows.start, len(rows)))

    def _windows(self, split: str, length: int, seed: int) -> Iterator[list[int]]:
        ids: list[int] = []
        for text in self._shuffled(split, seed):
            ids += [*self.tokenizer.encode(text), self.tokenizer.eos_id]
            whole = len(ids) // length * length
            for start in range(0, whole, length):
                yield ids[start : start + length]
            ids = ids[whole:]

    def _shuffled(self, split: str, seed: int) -> Iterator[str]:
        """Endless: pass after pass, each document leaving the buffer at a random time."""
        for number in itertools.count():
            rng = random_stream(seed, stream_key(split), "pass", number)
            buffer: list[str] = []
            for _, text in self.documents(split):
                if len(buffer) < BUFFER:
                    buffer.append(text)
                    continue
                drawn = int(rng.random() * BUFFER)
                yield buffer[drawn]
                buffer[drawn] = text
            if not buffer:
                raise ValueError(f"{self.name} holds no text in the split {split!r}")
            rng.shuffle(buffer)
            yield from buffer

    def documents(self, only: str | None = None) -> Iterator[tuple[str, str]]:
        """(split, text) of every document in the order of the dataset, its own validation split first.

        only: the split to read; None for both. Every tenth document is for validation unless the dataset has a split.
        """
        if self._sources is None:
            self._sources = self._open()
        own = next((name for name in VALIDATION_NAMES if name in self._sources), None)
        if own and only != "train":
            yield from (("validation", text) for _, text in self._texts(own))
        if own and only == "validation":
            return
        train = "train" if "train" in self._sources else next(iter(self._sources))
        for index, text in self._texts(train):
            split = "train" if own else split_of(index)
            if only in (None, split):
                yield split, text

    def _texts(self, split: str) -> Iterator[tuple[int, str]]:
        """(index, text) of the records of one of the dataset's splits that hold text."""
        assert self._sources is not None
        for index, record in enumerate(self._sources[split]):
            where = f"{self.name}, record {index}"
            if not index and self.field not in record:
                raise ValueError(no_field(record, self.field, where))
            text = field_text(record, self.field, where)
            if text and not text.isspace():
                yield index, text
            elif index >= self._read[split]:  # for the first time
                self.left_out[WITHOUT_TEXT] += 1
                self._read[split] = index + 1

    def _open(self) -> dict[str, Any]:
        try:
            import datasets
        except ImportError as error:
            raise ImportError("reading from the Hugging Face Hub needs datasets: pip install datasets") from error
        try:
            splits = datasets.load_dataset(self.dataset, self.config or None, streaming=True)
            return {str(name): split for name, split in splits.items()}
        except Exception as error:  # the library raises a dozen types, including network and Hub errors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the dataset {self.dataset!r} cannot be opened: {reason}. Check the name and the network; "
                "the dataset may also need a configuration (hf:owner/name:config) or a login"
            ) from error


class _Stream:
    """Windows that can only be read on, or again from their start. The first `keep` stay in memory."""

    def __init__(self, start: Callable[[], Iterator[list[int]]], keep: int) -> None:
        self._start, self._keep = start, keep
        self._windows, self._position = start(), 0
        self._first: list[list[int]] = []

    def read(self, first: int, number: int) -> list[list[int]]:
        """Windows `first` to `first + number - 1`."""
        if first + number <= len(self._first):
            return self._first[first : first + number]
        if first < self._position:
            self._windows, self._position = self._start(), 0
        found = []
        for window in itertools.islice(self._windows, first + number - self._position):
            if self._position == len(self._first) < self._keep:
                self._first.append(window)
            if self._position >= first:
                found.append(window)
            self._position += 1
        return found
