"""Sequences are drawn and split as documented, and variety is counted within texts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffuapriel.evaluation.samples import (
    default_sampler,
    distinct_n,
    draw_sequences,
    split_at_eos,
    tokens_per_pass,
    unigram_entropy,
)
from diffuapriel.tokenizer import get_tokenizer
from tests.evaluation.known_models import Letters, even

EOS = 4


def test_sequences_do_not_depend_on_the_batch_size():
    drawn = []
    for batch_size in (2, 3):
        batches = draw_sequences(even(6), Letters(), default_sampler(5, seed=1), 5, batch_size=batch_size)
        drawn.append(list(itertools.islice(itertools.chain.from_iterable(batches), 6)))
    assert drawn[0] == drawn[1]
    ids, calls = zip(*drawn[0])
    assert len({tuple(row) for row in ids}) > 3 and torch.tensor(ids).shape == (6, 5) and calls == (5,) * 6


def test_tokens_per_pass_count_the_text_in_one_tokenizer_and_every_call():
    story = "Mia found a red ball in the garden."
    tokens = len(get_tokenizer("gpt2-4k").encode(story))
    speed, (low, high) = tokens_per_pass([[story], [story, story], []], [4, 5, 1])
    assert speed == pytest.approx(3 * tokens / 10) and low < speed < high
    assert tokens_per_pass([[story], [story]], [tokens, tokens]) == (1.0, (1.0, 1.0))
    with pytest.raises(ValueError, match="sequences is 1; it must be 2 or more"):
        tokens_per_pass([[story]], [4])


def test_a_window_is_split_at_endoftext_and_its_padding_is_no_story():
    assert split_at_eos([1, 2, EOS, 3, EOS, EOS, EOS], EOS) == [[1, 2], [3]]
    assert split_at_eos([1, 2, EOS, 3], EOS) == [[1, 2], [3]]  # the last may lack its end
    assert split_at_eos([1, EOS, EOS, 3, EOS], EOS) == [[1], [], [3]]  # an empty story counts
    assert split_at_eos([EOS, EOS], EOS) == []


def test_distinct_n_counts_runs_within_a_text():
    texts = [[1, 2, 1, 2], [2, 1], [3], []]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 2 / 4  # 12 21 12, and 21; none across two texts
    assert distinct_n(texts, 3) == 2 / 2  # 121 212
    assert distinct_n(texts, 5) == distinct_n([], 1) == 0


def test_unigram_entropy_of_equal_frequencies_is_their_log():
    assert unigram_entropy([1, 2, 3, 4] * 5) == pytest.approx(math.log(4))
    assert unigram_entropy([7, 7]) == 0
