"""Byte-level BPE from tables shipped in assets/, plus one [MASK].

    gpt2          GPT-2's 50,256 ranks
    gpt2-4k       the first 4,096 of them, for small models on any text
    tales-words   the words of the tales, each one token, for models of the tales

Each vocabulary ends with <|endoftext|> and [MASK]. All three split text by GPT-2's rule, and all are lossless for any
text, because every single byte is among the first 256 ranks.

Byte-pair ranks are ordered by when they were merged, so a prefix of GPT-2's table is itself a complete tokenizer: the
ids of `gpt2-4k` are ids of GPT-2; it only stops merging earlier. A laptop-sized model spends its parameters on its
layers and not on an embedding of 50,000 rows. `tales-words` goes further: the bytes, then each word of the tales with
and without its leading space. A word of the tales is one token; any other word is spelled in bytes.

tiktoken's own `get_encoding("gpt2")` downloads at first use; building `tiktoken.Encoding` from the
shipped table needs no network. The table's SHA-256 is the one tiktoken records for `r50k_base`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache, lru_cache

import tiktoken

RANKS_FILE = "gpt2.tiktoken"
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
WORDS_FILE = "tales-words.txt"  # written by tools/tales_words.py
WORDS_SHA256 = "f2cdb07b783e9298924b7c63ca72c4da434dcd773fdb7aeb69c4e5c7e7d24be6"
VOCABULARIES = {"gpt2": 50256, "gpt2-4k": 4096, "tales-words": 1016}  # name -> number of ranks
BYTES = 256  # the ranks that are single bytes
EOS = "<|endoftext|>"
MASK = "[MASK]"

# GPT-2's splitting rule: contractions, words, numbers and punctuation with at most one leading space.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# On a million white-space characters tiktoken panics, past every `except Exception`. _SPACE is what its regex calls \s.
LONG_SPACE = 100_000
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_LONG_SPACES = re.compile(f"(?<!{_SPACE}){_SPACE}{{{LONG_SPACE},}}")


class Tokenizer:
    """Text to token ids and back. Make one with `get_tokenizer`.

    Attributes:
        name: one of `VOCABULARIES`.
        vocab_size: number of ranks + 2 (the two specials come last).
        eos_id: id of <|endoftext|>, `vocab_size - 2`.
        mask_id: id of [MASK], `vocab_size - 1`.
    """

    def __init__(self, name: str, ranks: dict[bytes, int]) -> None:
        self.name = name
        self.vocab_size = len(ranks) + 2
        self.eos_id = self.vocab_size - 2
        self.mask_id = self.vocab_size - 1
        self._encoding = tiktoken.Encoding(
            name=name,
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={EOS: self.eos_id, MASK: self.mask_id},
        )
        self._bytes = [b""] * len(ranks) + [EOS.encode(), MASK.encode()]
        for token, rank in ranks.items():
            self._bytes[rank] = token

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size})"

    def __reduce__(self):
        return get_tokenizer, (self.name,)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text: "<|endoftext|>" and "[MASK]" inside it are text, never specials."""
        if not isinstance(text, str):
            raise TypeError(f"encode takes a string, not {type(text).__name__}")
        encoding, start = self._encoding, 0
        ids: list[int] = []
        for spaces in _LONG_SPACES.finditer(text) if len(text) >= LONG_SPACE else ():
            end = spaces.end() - (spaces.end() < len(text))  # the splitting rule leaves the last one to what follows
            ids += encoding.encode_ordinary(text[start : spaces.start()])
            ids += encoding._encode_single_piece(text[spaces.start() : end])
            start = end
        return ids + encoding.encode_ordinary(text[start:])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; specials appear as "<|endoftext|>" and "[MASK]", invalid UTF-8 as U+FFFD."""
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; a special's are those of its name. ValueError outside the vocabulary."""
        index = int(id)
        if not 0 <= index < self.vocab_size:
            raise ValueError(f"token id {index} is outside the vocabulary of {self.name}: 0 to {self.vocab_size - 1}")
        return self._bytes[index]

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        r"""One display string per token; a byte that is no whole character is shown as e.g. "\xe2"."""
        return [self.token_bytes(i).decode("utf-8", errors="backslashreplace") for i in ids]


@lru_cache(maxsize=2)
def _read_table(name: str, sha256: str) -> list[bytes]:
    """The lines of a table in assets/. Raises FileNotFoundError, or ValueError if its SHA-256 is another."""
    from diffuapriel import assets  # here, so that a Tokenizer can be imported without the assets

    path = assets.path(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(
            f"the tokenizer's table {path} cannot be read ({error.strerror}); "
            "it is part of the project: check it out again with `git checkout -- assets`"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"the tokenizer's table {path} is damaged: its SHA-256 is {digest}, not {sha256}; "
            "delete it, then restore it with `git checkout -- assets`"
        )
    return data.splitlines()


def _ranks(name: str) -> dict[bytes, int]:
    """token -> rank, in the order of the ranks."""
    size = BYTES if name == "tales-words" else VOCABULARIES[name]
    pairs = (line.split() for line in _read_table(RANKS_FILE, RANKS_SHA256) if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs if int(rank) < size}
    if name == "tales-words":
        ranks |= {word: rank for rank, word in enumerate(_read_table(WORDS_FILE, WORDS_SHA256), start=BYTES)}
    return ranks


@cache
def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name`, one of `VOCABULARIES`. Cached: the same object every time."""
    if name not in VOCABULARIES:
        raise ValueError(f"no tokenizer called {name!r}; choose one of {', '.join(VOCABULARIES)}")
    return Tokenizer(name, _ranks(name))
