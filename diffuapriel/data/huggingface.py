"""Datasets of the Hugging Face Hub, streamed: nothing is kept on disk but the library's own cache.

Documents are read in the dataset's order through a small shuffling buffer, joined by <|endoftext|> and cut
into windows. Where the dataset has a split "validation" or "test", that is the held-out part; otherwise it
is every tenth document of "train". At the end of the dataset the next pass begins, in another order.

A batch is still a pure function of its arguments, but a stream has no middle: what lies ahead, as the next step
does, is reached by reading on, and rows that were not asked for are read and thrown away; for what lies behind,
and when a run is resumed, the stream is read again from its start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.data.base import check_rows, check_split, check_window, random_stream
from diffuapriel.data.documents import HELD_OUT
from diffuapriel.data.files import field_text
from diffuapriel.tokenizer import Tokenizer

BUFFER = 256  # documents in the shuffling buffer
HELD_OUT_NAMES = ("validation", "valid", "test")


class HubCorpus:
    """A streamed dataset.

    Args:
        name: "owner/name" or "owner/name:config"; a folder that `datasets.load_dataset` can read will do.
        field: the column that holds the text.

    What is cheap: the next step. What is not: a run that goes on, whose first step reads everything before it again;
    several workers or ranks, each of which reads the whole stream for its share of the rows. `datasets` can note a
    stream's position and can deal its files out, but then a batch would depend on what was read before it and on the
    number of workers, and no longer on the step alone. For more than a look at a dataset, `diffuapriel tokenize` reads
    it once; any step and row of the corpus tokens:FOLDER is found at the same small cost.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, *, field: str = "text") -> None:
        self.dataset, _, self.config = name.partition(":")
        known_form = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.dataset)
        if not known_form and not (self.dataset and Path(self.dataset).is_dir()):
            raise ValueError(
                f"a dataset of the Hub is written hf:owner/name or hf:owner/name:config, not {name!r}"
            )
        self.name, self.tokenizer, self.field = f"hf:{name}", tokenizer, field
        self._sources: dict[str, Any] | None = None
        self._stream: tuple[tuple, int, Iterator[list[int]]] | None = None  # (which, windows read, the rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": None, "_stream": None}  # a worker opens its own stream

    def __repr__(self) -> str:
        return f"HubCorpus({self.name!r}, field={self.field!r})"

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a part, in the dataset's order; reads the stream up to it."""
        part = check_split(split)
        found = next(itertools.islice(self._documents(part), index, None), None)
        if index < 0 or found is None:
            raise ValueError(f"{self.name} has no document {index} in the part {part!r}")
        return found

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64; with `rows` only these rows of them. Reads on, or starts over."""
        check_window(step, batch_size, length)
        wanted = check_rows(rows, batch_size)
        which, first = (check_split(split), length, seed), step * batch_size + wanted.start
        if self._stream is None or self._stream[0] != which or self._stream[1] > first:
            self._stream = (which, 0, self._windows(*which))
        _, position, windows = self._stream
        ids = torch.tensor(list(itertools.islice(windows, first - position, first - position + len(wanted))))
        self._stream = (which, first + len(wanted), windows)
        return ids

    def _windows(self, part: str, length: int, seed: int) -> Iterator[list[int]]:
        ids: list[int] = []
        for text in self._shuffled(part, seed):
            ids += [*self.tokenizer.encode(text), self.tokenizer.eos_id]
            whole = len(ids) // length * length
            for start in range(0, whole, length):
                yield ids[start : start + length]
            ids = ids[whole:]

    def _shuffled(self, part: str, seed: int) -> Iterator[str]:
        """Endless: pass after pass, each document leaving the buffer at a random time."""
        for number in itertools.count():
            rng = random_stream(seed, part, "pass", number)
            buffer: list[str] = []
            for text in self._documents(part):
                if len(buffer) < BUFFER:
                    buffer.append(text)
                    continue
                drawn = int(rng.random() * BUFFER)
                yield buffer[drawn]
                buffer[drawn] = text
            if not buffer:
                raise ValueError(f"{self.name} holds no text in the part {part!r}")
            rng.shuffle(buffer)
            yield from buffer

    def documents(self) -> Iterator[tuple[str, str]]:
        """Every document once, with its part, in one reading; a held-out split of the dataset's own comes first."""
        own, first = self._splits()
        if own:
            yield from (("heldout", text) for _, text in self._texts(own))
        for index, text in self._texts(first):
            held_out = not own and index % HELD_OUT == HELD_OUT - 1
            yield ("heldout" if held_out else "train"), text

    def _documents(self, part: str) -> Iterator[str]:
        """The documents of a part that hold text, in the dataset's order."""
        own, first = self._splits()
        if part == "heldout" and own:
            yield from (text for _, text in self._texts(own))
            return
        for index, text in self._texts(first):
            if own or (index % HELD_OUT == HELD_OUT - 1) == (part == "heldout"):
                yield text

    def _splits(self) -> tuple[str | None, str]:
        """The names of the dataset's own held-out split, if it has one, and of the one to train on."""
        if self._sources is None:
            self._sources = self._open()
        own = next((name for name in HELD_OUT_NAMES if name in self._sources), None)
        return own, "train" if "train" in self._sources else next(iter(self._sources))

    def _texts(self, split: str) -> Iterator[tuple[int, str]]:
        """(index, text) of a split's records that hold text."""
        assert self._sources is not None
        for index, record in enumerate(self._sources[split]):
            text = field_text(record, self.field, f"{self.name}, record {index}")
            if text.strip():
                yield index, text

    def _open(self) -> dict[str, Any]:
        """The dataset's splits, by name."""
        try:
            import datasets
        except ImportError as error:
            raise ImportError(
                "reading from the Hugging Face Hub needs datasets: pip install datasets"
            ) from error
        try:
            splits = datasets.load_dataset(self.dataset, self.config or None, streaming=True)
            return {str(name): split for name, split in splits.items()}
        except Exception as error:  # the library raises a dozen kinds, network and Hub errors among them
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the dataset {self.dataset!r} cannot be opened: {reason}. Is the name right, is the network "
                "there, does it need a configuration (hf:owner/name:config) or a login?"
            ) from error
