"""`xz -9` on the validation text of a corpus: a baseline in bits per byte that a model has to beat.

A compressor and a model both say how many bits a text costs given what they know: xz knows the part of this text that
it has already read (up to 64 MB back), a model knows its training data. The whole split is compressed as one stream,
the best case for xz. The bits of a model include those for <|endoftext|>; the bytes are those of the text in both
cases.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass

from diffuapriel.data.base import Corpus
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.token_cache import TokenCorpus

MOST_BYTES = 100_000_000  # takes about a minute; more does not improve the ratio


@dataclass(frozen=True)
class XzEstimate:
    """The result of `xz -9` on `text_bytes` bytes."""

    bits_per_byte: float
    text_bytes: int

    def verdict(self, interval: tuple[float, float]) -> str:
        """A model whose bits per byte lie in `interval` is "below xz", "above xz" or "level with xz"."""
        if interval[1] < self.bits_per_byte:
            return "below xz"
        return "above xz" if interval[0] > self.bits_per_byte else "level with xz"


def xz_bits_per_byte(corpus: Corpus, *, split: str = "validation", most: int = MOST_BYTES) -> XzEstimate | None:
    """Compress the first `most` bytes of a split; None without a list of documents (tales, streams, mixes).

    Uses preset 9 of liblzma in the .xz format, like the command `xz -9`.
    """
    if not isinstance(corpus, (DocumentCorpus, TokenCorpus)):
        return None
    compressor, compressed, size = lzma.LZMACompressor(preset=9), 0, 0
    for document in corpus.texts(split):
        data = document.encode()[: most - size]
        compressed += len(compressor.compress(data))
        size += len(data)
        if size == most:
            break
    compressed += len(compressor.flush())
    return XzEstimate(8 * compressed / size, size)
