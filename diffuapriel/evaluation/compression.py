"""What `xz -9` makes of a corpus's held-out text: the bits per byte that a model has to beat.

A compressor and a model answer the same question, how many bits a text costs to someone who knows what they know: xz
knows what it has read so far of this very text (up to 64 MB back), a model what it was trained on. The held-out part
is compressed as one stream, as large as it is, which is the best case for xz. A model's bits count its <|endoftext|>s
too; the bytes are those of the text on both sides.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass

from diffuapriel.data.base import Corpus, check_split
from diffuapriel.data.documents import DocumentCorpus

MOST_BYTES = 100_000_000  # about a minute; xz gains nothing from more


@dataclass(frozen=True)
class XzEstimate:
    """`xz -9` of `text_bytes` bytes: how many bits each costs."""

    bits_per_byte: float
    text_bytes: int

    def verdict(self, interval: tuple[float, float]) -> str:
        """How a model whose bits per byte lie in `interval` stands: "below xz", "above xz" or "level with xz"."""
        if interval[1] < self.bits_per_byte:
            return "below xz"
        return "above xz" if interval[0] > self.bits_per_byte else "level with xz"


def xz_bits_per_byte(
    corpus: Corpus, *, split: str = "validation", most: int = MOST_BYTES
) -> XzEstimate | None:
    """Of the first `most` bytes of a part of the corpus; None where it is no list of documents (tales, streams).

    Preset 9 of liblzma in the .xz format, which is what the command `xz -9` writes.
    """
    if not isinstance(corpus, DocumentCorpus):
        return None
    compressor, compressed, size = lzma.LZMACompressor(preset=9), 0, 0
    for document in corpus.splits[check_split(split)]:
        data = document.encode()[: most - size]
        compressed += len(compressor.compress(data))
        size += len(data)
        if size == most:
            break
    compressed += len(compressor.flush())
    return XzEstimate(8 * compressed / size, size)
