"""Datasets of the Hugging Face Hub, streamed: only the `datasets` library's own cache is on disk.

Documents are read in the order of the dataset through a small shuffle buffer, joined by <|endoftext|> and cut into
windows. The dataset's own split "validation", "valid" or "test" is used for validation; without one, every tenth
document of "train". At the end of the dataset the next pass begins, in another order.

A batch is a pure function of its arguments here too, but a stream has no random access. The next step is reached by
reading on, and rows that were not asked for are read and dropped; for an earlier step, and for a resumed run, the
stream is read again from its start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.data.base import check_batch, check_split, random_stream, split_of, stream_key
from diffuapriel.data.files import field_text
from diffuapriel.tokenizer import Tokenizer

BUFFER = 256  # documents in the shuffle buffer
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
        self._sources: dict[str, Any] | None = None
        self._stream: tuple[tuple, int, Iterator[list[int]]] | None = None  # (key, windows read, the rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": None, "_stream": None}  # a worker opens its own stream

    def __repr__(self) -> str:
        return f"HubCorpus({self.name!r}, field={self.field!r})"

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a split, in the order of the dataset; reads the stream up to it."""
        split = check_split(split)
        found = next(itertools.islice(self.documents(split), max(index, 0), None), None)
        if index < 0 or found is None:
            raise ValueError(f"{self.name} has no document {index} in the split {split!r}")
        return found[1]

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64. Reads on from the last batch if it can, else from the start."""
        split, rows = check_batch(step, split, batch_size, length, rows)
        key, first = (split, length, seed), step * batch_size + rows.start
        if self._stream is None or self._stream[0] != key or self._stream[1] > first:
            self._stream = (key, 0, self._windows(*key))
        _, position, windows = self._stream
        ids = torch.tensor(list(itertools.islice(windows, first - position, first - position + len(rows))))
        self._stream = (key, first + len(rows), windows)
        return ids

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
            text = field_text(record, self.field, f"{self.name}, record {index}")
            if text.strip():
                yield index, text

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
