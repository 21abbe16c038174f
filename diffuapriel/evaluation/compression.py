"""`xz -9` on the validation text of a corpus: a baseline in bits per byte that a model has to beat.

A compressor and a model both say how many bits a text costs given what they know. xz knows the part of this text that
it has already read, up to 64 MB back. It can be given the training text first (`trained`): the cost of the validation
text is then what it adds to the compressed size. The whole split is compressed as one stream, the best case for xz. The
bits of a model include those for <|endoftext|>; the bytes are those of the text in both cases.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from diffuapriel.data.base import Corpus
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.token_cache import TokenCorpus

MOST_BYTES = 100_000_000  # takes about a minute; more does not improve the ratio
MOST_TRAINING_BYTES = 60_000_000  # what the dictionary of 64 MiB holds beside some validation text


@dataclass(frozen=True)
class XzEstimate:
    """The result of `xz -9` on `text_bytes` bytes: alone, and if asked for, after the training text."""

    bits_per_byte: float
    text_bytes: int
    after_training_text: float | None = None  # bits per byte

    def verdict(self, interval: tuple[float, float]) -> str:
        """A model whose bits per byte lie in `interval` is "below xz", "above xz" or "level with xz", at its best."""
        best = min(self.bits_per_byte, self.after_training_text or math.inf)
        if interval[1] < best:
            return "below xz"
        return "above xz" if interval[0] > best else "level with xz"


def xz_bits_per_byte(
    corpus: Corpus, *, trained: bool = False, split: str = "validation", most: int = MOST_BYTES
) -> XzEstimate | None:
    """Compress the first `most` bytes of a split; None without a list of documents (tales, streams, mixes).

    Uses preset 9 of liblzma in the .xz format, like the command `xz -9`. trained: also after the first 60 MB of the
    training text, which takes a minute or two.
    """
    if not isinstance(corpus, (DocumentCorpus, TokenCorpus)):
        return None
    text = list(_first_bytes(corpus, split, most))
    size, after = sum(map(len, text)), None
    if trained:
        training = list(_first_bytes(corpus, "train", MOST_TRAINING_BYTES))
        after = 8 * (_compressed([*training, *text]) - _compressed(training)) / size
    return XzEstimate(8 * _compressed(text) / size, size, after)


def _first_bytes(corpus: DocumentCorpus | TokenCorpus, split: str, most: int) -> Iterator[bytes]:
    """The documents of a split, the last one cut so that there are at most `most` bytes."""
    for document in corpus.texts(split):
        data = document.encode()[:most]
        yield data
        most -= len(data)
        if not most:
            return


def _compressed(pieces: Iterable[bytes]) -> int:
    """Bytes of the pieces as one .xz stream."""
    compressor = lzma.LZMACompressor(preset=9)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())
