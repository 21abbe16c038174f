"""A corpus that was tokenized once and is memory-mapped: `tokens:FOLDER`.

    index.json             tokenizer, dtype, source, what was left out of it, and for each split the numbers of its
                           documents, characters and tokens, and its shards with their lengths and SHA-256
    train-00000.bin ...    token ids, little-endian; every document ends with <|endoftext|>
    train.documents        where each document ends, int64, in tokens
    heldout...             the same for validation, under the name that the split had at first, so that caches and
                           their digests stay valid

`diffuapriel tokenize SPEC --out FOLDER` makes one (build.py). Opening it reads the index only; the system loads the
pages that a window touches and shares them between processes.

The windows of an epoch tile a split from end to end and come in a shuffled order: each window once per epoch,
whichever rank or worker asks for it. Every epoch starts tiling at another token, so that the cuts move, and has
another order. The window of any step and row is computed directly, so a resumed run skips ahead at no cost.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffuapriel.data.base import SPLITS, check_batch, check_split, describe_left_out, random_stream, stream_key
from diffuapriel.storage import read_json, sha256, writing_folder
from diffuapriel.tokenizer import Tokenizer

INDEX = "index.json"
SCHEMA, VERSION = "diffuapriel-tokens", 1
VERIFIED_BYTES = 10**9  # of tokens that a fingerprint checks
DISK_NAMES = {"train": "train", "validation": "heldout"}

ROUNDS = 4
BITS = 64
ALL_BITS = 2**BITS - 1


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 if the vocabulary fits, else uint32; little-endian."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class TokenCorpus:
    """The tokens in `folder`, for the tokenizer that made them.

    Raises FileNotFoundError if there is no such cache, ValueError if it is half-built, damaged or made with another
    tokenizer; the message says what to do.
    """

    def __init__(self, folder: str | Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = Path(folder), tokenizer
        self.name = f"tokens:{folder}"
        self._index = _read_index(self.folder)
        made_with, source = self._index["tokenizer"], self._index["source"]
        if (made_with, self._index["vocab_size"]) != (tokenizer.name, tokenizer.vocab_size):
            raise ValueError(
                f"{folder} was tokenized with {made_with!r}, this model reads {tokenizer.name!r}; make another "
                f"with: diffuapriel tokenize {source} --tokenizer {tokenizer.name} --out OTHER_FOLDER"
            )
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.digest: str = self._index["digest"]
        self._starts: dict[str, list[int]] = {}  # first token of each shard, and the end of the last
        for split in SPLITS:
            lengths = [self._checked_length(shard) for shard in self._of(split)["shards"]]
            self._starts[split] = list(accumulate(lengths, initial=0))
        self._maps: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker maps the files itself

    def __repr__(self) -> str:
        held = ", ".join(f"{self.tokens(split):,} {split}" for split in SPLITS)
        return f"TokenCorpus({str(self.folder)!r}, {held}, of {self._index['source']!r})"

    @property
    def description(self) -> str:
        documents, tokens = (sum(map(count, SPLITS)) for count in (self.documents, self.tokens))
        share = self.tokens("validation") / tokens
        read = f"{documents:,} documents, {tokens:,} tokens, {share:.1%} of them for validation"
        return read + describe_left_out(self.left_out)

    @property
    def left_out(self) -> dict[str, int]:
        """What the documents were read without; empty for caches that do not say."""
        return self._index.get("left_out", {})

    def fingerprint(self) -> str:
        """The digest in the index. Only a cache of up to 1 GB is held against it, which takes a second."""
        if sum(map(self.tokens, SPLITS)) * self.dtype.itemsize <= VERIFIED_BYTES:
            self.verify()
        return self.digest

    def tokens(self, split: str) -> int:
        """Tokens of a split, including every <|endoftext|>."""
        return self._starts[check_split(split)][-1]

    def documents(self, split: str) -> int:
        return self._of(check_split(split))["documents"]

    def characters(self, split: str) -> int:
        """Characters of the documents of a split; 0 for caches that do not say."""
        return self._of(check_split(split)).get("characters", 0)

    def table(self) -> str:
        """Lines for a terminal: the size of each split, what was left out, and the digest."""
        lines = [
            f"{split:10} {self.documents(split):>12,} documents {self.characters(split):>15,} characters "
            f"{self.tokens(split):>15,} tokens"
            for split in SPLITS
        ]
        left_out = [describe_left_out(self.left_out).lstrip("; ")] if self.left_out else []
        return "\n".join([*lines, *left_out, f"SHA-256    {self.digest}"])

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a split, in the order of the source; the seed plays no role."""
        split = check_split(split)
        count = self.documents(split)
        if not 0 <= index < count:
            raise ValueError(f"{self.name} has documents 0 to {count - 1} in the split {split!r}, not {index}")
        ends = self._map(f"{DISK_NAMES[split]}.documents", np.dtype("<i8"))
        start = int(ends[index - 1]) if index else 0
        return self.tokenizer.decode(self._read(split, start, int(ends[index]) - 1))

    def texts(self, split: str) -> Iterator[str]:
        return (self.document(index, split=split) for index in range(self.documents(split)))

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64; with `rows` only these rows of the batch.

        Row r of step s is window s x batch_size + r of the shuffled order, which continues from epoch to epoch.
        Raises ValueError for windows longer than the split.
        """
        split, rows = check_batch(step, split, batch_size, length, rows)
        total, key = self.tokens(split), stream_key(split)
        if total < length:
            raise ValueError(
                f"{self.name} holds {total:,} tokens in the split {split!r}; a window of {length:,} does not fit"
            )
        windows = total // length  # per epoch
        batch = np.empty((len(rows), length), dtype=np.int64)
        epoch, first, order = -1, 0, None
        for i, row in enumerate(rows):
            of, place = divmod(step * batch_size + row, windows)
            if order is None or of != epoch:
                epoch, order = of, Shuffle(windows, seed, key, of)
                first = random_stream("first window", seed, key, of).randint(0, total % length)
            start = first + length * order[place]
            batch[i] = self._read(split, start, start + length)
        if (largest := batch.max()) >= self.tokenizer.vocab_size:
            raise ValueError(
                f"{self.name} is damaged: it holds the token {largest} in the split {split!r}; make it again"
            )
        return torch.from_numpy(batch)

    def verify(self) -> None:
        """Read everything and check its SHA-256. Raises ValueError that names the damaged file."""
        for shard in (shard for split in SPLITS for shard in self._of(split)["shards"]):
            file = self.folder / shard["file"]
            if sha256(file) != shard["sha256"]:
                raise ValueError(f"{file} is damaged: its SHA-256 is not the one in {INDEX}")

    def _of(self, split: str) -> dict[str, Any]:
        return self._index["parts"][DISK_NAMES[split]]

    def _read(self, split: str, start: int, stop: int) -> np.ndarray:
        """The tokens start ... stop - 1 of a split, across shards."""
        starts, shards = self._starts[split], self._of(split)["shards"]
        pieces = []
        shard = bisect_right(starts, start) - 1
        while start < stop:
            tokens = self._map(shards[shard]["file"], self.dtype)
            end = min(stop, starts[shard + 1])
            pieces.append(tokens[start - starts[shard] : end - starts[shard]])
            start, shard = end, shard + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _map(self, file: str, dtype: np.dtype) -> np.ndarray:
        if file not in self._maps:
            mapped = np.memmap(self.folder / file, dtype=dtype, mode="r")
            self._maps[file] = mapped.view(np.ndarray)  # a plain view: slicing a memmap is slow
        return self._maps[file]

    def _checked_length(self, shard: dict[str, Any]) -> int:
        """Tokens of a shard. ValueError if the file is missing or not as long as the index says."""
        file, promised = self.folder / shard["file"], shard["tokens"] * self.dtype.itemsize
        size = file.stat().st_size if file.is_file() else -1
        if size != promised:
            what = "missing" if size < 0 else f"damaged: {size:,} bytes, where {INDEX} says {promised:,}"
            raise ValueError(f"{file} is {what}; tokenize again into another folder")
        return shard["tokens"]


def refuse_half_built(folder: Path) -> None:
    """ValueError if `folder` is being made, or if a run that made it was killed (storage.py writes beside it)."""
    if (writing := writing_folder(folder)).exists():
        raise ValueError(
            f"{folder} is half-built: it is being made, or the run that made it was killed. In that case remove "
            f"{writing} and run `diffuapriel tokenize` again"
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


class Shuffle:
    """The permutation of 0 ... size - 1 for a key: computed element by element, the same on every machine.

    A Feistel network permutes the numbers of 2h bits, whatever its round function f is:

        (left, right) -> (right, left xor f(right))         ROUNDS times, each with its own key

    h is the least with 4^h >= size. A number outside 0 ... size - 1 is sent through again until it is inside (cycle
    walking), which keeps the map a permutation of that range (Black and Rogaway, "Ciphers with Arbitrary Finite
    Domains", 2002; used here to mix, not for secrecy).
    """

    def __init__(self, size: int, *key: int | str) -> None:
        if not 1 <= size <= 2**BITS:
            raise ValueError(f"size is {size}; it must be from 1 to 2^{BITS} elements")
        self.size = size
        self._half = max(1, -(-(size - 1).bit_length() // 2))
        stream = random_stream("shuffle", *key)
        self._keys = [stream.getrandbits(BITS) for _ in range(ROUNDS)]

    def __getitem__(self, place: int) -> int:
        """The element at `place`; IndexError outside 0 ... size - 1."""
        if not 0 <= place < self.size:
            raise IndexError(f"place {place} is outside 0 to {self.size - 1}")
        number = self._mix(place)
        while number >= self.size:
            number = self._mix(number)
        return number

    def _mix(self, number: int) -> int:
        mask = (1 << self._half) - 1
        left, right = number >> self._half, number & mask
        for key in self._keys:
            left, right = right, left ^ (_scatter(right + key) & mask)
        return (left << self._half) | right


def _scatter(x: int) -> int:
    """The finalizer of SplitMix64: every bit of x changes about half of the bits of the result."""
    x &= ALL_BITS
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & ALL_BITS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & ALL_BITS
    return x ^ (x >> 31)
