"""Runs of words: the longest one that a text shares with training text, and the first one that it says twice.

A word is a run of letters, digits, underscores and inner apostrophes, in lower case. Punctuation and white space are
ignored: a copy with another comma is a copy. A run lies within one document, of the sample and of the training text.

The samples are indexed and the training text is read once, in pieces, so memory does not depend on its size. All runs
of k words in the samples are numbered, for k = 1, 2, ... The number of a run of k + 1 words follows from that of its
first k words and its last word; so the positions of the training text whose k words are a run of a sample are followed
from k to k + 1, all of a piece at once, until none is left. No hash is involved: the result is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from diffuapriel.data.build import pieces_of

PIECE_WORDS = 2**20  # of the training text that are followed at once
REPEAT_WORDS = 8  # ordinary text repeats phrases of 4 or 5 words, and hardly ever one of 8
_WORD = re.compile(r"\w+(?:['’]\w+)*")

Ids = NDArray[np.int64]


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def words_before_repeat(documents: Iterable[str], n: int = REPEAT_WORDS) -> int | None:
    """The words of a sample, given as its documents, before it repeats itself; None if it never does.

    It repeats itself where the first run of n words begins that began earlier in the same document. The two may
    overlap: the sample that says only "so so so ..." has one word before it repeats itself.
    """
    before = 0
    for document in documents:
        words, seen = words_of(document), set()
        for start in range(len(words) - n + 1):
            run = tuple(words[start : start + n])
            if run in seen:
                return before + start
            seen.add(run)
        before += len(words)
    return None


def longest_copies(samples: Sequence[Sequence[str]], training: Iterable[str]) -> list[int]:
    """The number of words of the longest run of each sample that stands in a training document.

    samples: the documents of each. training: documents, read once.
    """
    index = _RunIndex(samples)
    piece: list[Ids] = []
    held = 0
    for document in training:
        ids = [index.ids_of(words_of(part)) for part in pieces_of(document)]
        piece += [*ids, np.zeros(1, np.int64)]  # no run crosses the end of a document
        held += sum(map(len, ids)) + 1
        if held >= PIECE_WORDS:
            index.follow(np.concatenate(piece))
            piece, held = [], 0
    if piece:
        index.follow(np.concatenate(piece))
    return index.longest()


class _Runs:
    """The runs of k words of the samples: where they begin, the number of each, and which of them were found."""

    def __init__(self, positions: Ids, keys: Ids) -> None:
        self.positions = positions
        self.keys, self.numbers = np.unique(keys, return_inverse=True)  # keys are sorted
        self.found = np.zeros(len(self.keys), bool)


class _RunIndex:
    """Words as ids, 0 for the end of a document and for a word of no sample; and runs of k words, runs[k - 1]."""

    def __init__(self, samples: Sequence[Sequence[str]]) -> None:
        self.vocabulary: dict[str, int] = {}
        words, owners = [0], [0]
        for number, documents in enumerate(samples):
            for document in documents:
                spelled = words_of(document)
                words += [self.vocabulary.setdefault(word, len(self.vocabulary) + 1) for word in spelled] + [0]
                owners += [number] * (len(spelled) + 1)
        self.words, self.owners, self.num_samples = np.array(words), np.array(owners), len(samples)
        (positions,) = self.words.nonzero()
        self.runs = [_Runs(positions, self.words[positions])]

    def ids_of(self, words: Sequence[str]) -> Ids:
        return np.array([self.vocabulary.get(word, 0) for word in words], np.int64)

    def follow(self, ids: Ids) -> None:
        """Mark the runs of the samples that stand in `ids`, which end with 0."""
        for start in range(0, len(ids), PIECE_WORDS):
            positions = start + ids[start : start + PIECE_WORDS].nonzero()[0]
            numbers = ids[positions] - 1  # the runs of one word are numbered in the order of their ids
            k = 0
            while len(positions):
                self.runs[k].found[numbers] = True
                k += 1
                runs = self._of_length(k)
                if not len(runs.keys):
                    break
                keys = numbers * (len(self.vocabulary) + 1) + ids[positions + k]
                numbers = np.searchsorted(runs.keys, keys).clip(max=len(runs.keys) - 1)
                stand = runs.keys[numbers] == keys
                positions, numbers = positions[stand], numbers[stand]

    def _of_length(self, k: int) -> _Runs:
        """The runs of k + 1 words."""
        if k == len(self.runs):
            shorter = self.runs[-1]
            last = self.words[shorter.positions + k]
            keys = shorter.numbers * (len(self.vocabulary) + 1) + last
            self.runs.append(_Runs(shorter.positions[last > 0], keys[last > 0]))
        return self.runs[k]

    def longest(self) -> list[int]:
        lengths = np.zeros(self.num_samples, np.int64)
        for k, runs in enumerate(self.runs, start=1):
            lengths[self.owners[runs.positions[runs.found[runs.numbers]]]] = k
        return lengths.tolist()
