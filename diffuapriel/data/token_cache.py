"""A corpus that was tokenized once and is mapped into memory: `tokens:FOLDER`.

    index.json             tokenizer, dtype, source, and of each part its shards with their lengths and SHA-256
    train-00000.bin ...    token ids one after the other, little-endian; every document closed by <|endoftext|>
    train.documents        where each document ends, int64, counted in tokens
    heldout...             the same for the other part

`diffuapriel tokenize SPEC --out FOLDER` makes one (tokens_build.py). Opening it reads the index only; the system reads
the pages that a window touches, and every process of a machine shares them.

The windows of an epoch tile a part from end to end and come in a shuffled order (permutation.py): each once per epoch,
none in two rows, whoever asks for which rows. Every epoch tiles from another start, so that the cuts move, and has
another order. The window of any step and row is computed, not looked for: a run goes on anywhere at no cost.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffuapriel.data.base import check_rows, check_split, check_window, random_stream
from diffuapriel.data.permutation import Shuffle
from diffuapriel.storage import read_json, sha256
from diffuapriel.tokenizer import Tokenizer

INDEX = "index.json"
SCHEMA, VERSION = "diffuapriel-tokens", 1
PARTS = ("train", "heldout")


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where the vocabulary fits, else uint32; little-endian."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class TokenCorpus:
    """The tokens in `folder`, for the tokenizer they were made with.

    Raises FileNotFoundError where there is no such cache, ValueError for one that is half-built, damaged or made with
    another tokenizer; the message says what to do.
    """

    def __init__(self, folder: str | Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = Path(folder), tokenizer
        self.name = f"tokens:{folder}"
        self._index = _read_index(self.folder)
        self._check_tokenizer()
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.digest: str = self._index["digest"]
        self._starts: dict[str, list[int]] = {}  # of each shard, and the end of the last, in tokens
        for part in PARTS:
            lengths = [self._checked_length(shard) for shard in self._shards(part)]
            self._starts[part] = list(accumulate(lengths, initial=0))
        self._maps: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker maps the files itself

    def __repr__(self) -> str:
        held = ", ".join(f"{self.tokens(part):,} {part}" for part in PARTS)
        return f"TokenCorpus({str(self.folder)!r}, {held}, of {self._index['source']!r})"

    def tokens(self, split: str) -> int:
        """Tokens of a part, every <|endoftext|> counted."""
        return self._starts[check_split(split)][-1]

    def documents(self, split: str) -> int:
        """Documents of a part."""
        return self._index["parts"][check_split(split)]["documents"]

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a part, in the order of the source; the seed plays no role."""
        part = check_split(split)
        count = self.documents(part)
        if not 0 <= index < count:
            raise ValueError(f"{self.name} has the documents 0 to {count - 1} there, not {index}")
        ends = self._map(f"{part}.documents", np.dtype("<i8"))
        start = int(ends[index - 1]) if index else 0
        return self.tokenizer.decode(self._read(part, start, int(ends[index]) - 1))

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64; with `rows` only these rows of them.

        Row r of step s is window s x batch_size + r of the shuffled order; after an epoch's last begins the next.
        Raises ValueError for windows longer than the part.
        """
        check_window(step, batch_size, length)
        part, wanted = check_split(split), check_rows(rows, batch_size)
        total = self.tokens(part)
        if total < length:
            raise ValueError(
                f"{self.name} holds {total:,} tokens in the part {part!r}; a window of {length:,} does not fit"
            )
        windows = total // length  # of an epoch
        batch = np.empty((len(wanted), length), dtype=np.int64)
        epoch, first, order = -1, 0, None
        for i, row in enumerate(wanted):
            of, place = divmod(step * batch_size + row, windows)
            if order is None or of != epoch:
                epoch, order = of, Shuffle(windows, seed, part, of)
                first = random_stream("first window", seed, part, of).randint(0, total % length)
            start = first + length * order[place]
            batch[i] = self._read(part, start, start + length)
        return torch.from_numpy(batch)

    def verify(self) -> None:
        """Read everything and hold it to the index's SHA-256. Raises ValueError that names the damaged file."""
        for shard in (shard for part in PARTS for shard in self._shards(part)):
            file = self.folder / shard["file"]
            if sha256(file) != shard["sha256"]:
                raise ValueError(f"{file} is damaged: its SHA-256 is not the one in {INDEX}")

    def _shards(self, part: str) -> list[dict[str, Any]]:
        return self._index["parts"][part]["shards"]

    def _read(self, part: str, start: int, stop: int) -> np.ndarray:
        """The tokens start ... stop - 1 of a part, over the ends of shards."""
        starts = self._starts[part]
        pieces = []
        shard = bisect_right(starts, start) - 1
        while start < stop:
            tokens = self._map(self._shards(part)[shard]["file"], self.dtype)
            end = min(stop, starts[shard + 1])
            pieces.append(tokens[start - starts[shard] : end - starts[shard]])
            start, shard = end, shard + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _map(self, file: str, dtype: np.dtype) -> np.ndarray:
        if file not in self._maps:
            mapped = np.memmap(self.folder / file, dtype=dtype, mode="r")
            self._maps[file] = mapped.view(np.ndarray)  # a plain view: slices of a memmap are slow to make
        return self._maps[file]

    def _checked_length(self, shard: dict[str, Any]) -> int:
        """Tokens of a shard. ValueError when the file is not there or not as long as the index says."""
        file, promised = self.folder / shard["file"], shard["tokens"] * self.dtype.itemsize
        size = file.stat().st_size if file.is_file() else -1
        if size != promised:
            what = "missing" if size < 0 else f"damaged: {size:,} bytes, where {INDEX} says {promised:,}"
            raise ValueError(f"{file} is {what}; tokenize again into another folder")
        return shard["tokens"]

    def _check_tokenizer(self) -> None:
        made_with, source = self._index["tokenizer"], self._index["source"]
        if made_with != self.tokenizer.name or self._index["vocab_size"] != self.tokenizer.vocab_size:
            raise ValueError(
                f"{self.folder} was tokenized with {made_with!r}, this model reads {self.tokenizer.name!r}; make "
                f"another with: diffuapriel tokenize {source} --tokenizer {self.tokenizer.name} --out OTHER_FOLDER"
            )


def refuse_half_built(folder: Path) -> None:
    """ValueError where `folder` is being made, or a run that made it was killed (storage.py writes beside it)."""
    writing = folder.resolve().with_name(f".{folder.resolve().name}.writing")
    if writing.exists():
        raise ValueError(
            f"{folder} is half-built: it is being made, or what made it was killed. In that case remove {writing} and "
            "run `diffuapriel tokenize` again"
        )


def _read_index(folder: Path) -> dict[str, Any]:
    if not (folder / INDEX).is_file():
        refuse_half_built(folder)
        raise FileNotFoundError(
            f"{folder} holds no tokens (no {INDEX} there); make them with: diffuapriel tokenize SPEC --out {folder}"
        )
    index = read_json(folder / INDEX)
    if (index.get("schema"), index.get("version")) != (SCHEMA, VERSION):
        raise ValueError(
            f"{folder / INDEX} is {json.dumps(index.get('schema'))} version {index.get('version')}; "
            f"this program reads {SCHEMA} version {VERSION}"
        )
    missing = {"source", "tokenizer", "vocab_size", "digest", "parts"} - index.keys()
    if missing:
        raise ValueError(f"{folder / INDEX} is damaged: it lacks {', '.join(sorted(missing))}")
    return index
