"""The longest copied run is that of a brute-force search; a repetition is counted where it begins."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.evaluation.text import copying
from diffuapriel.evaluation.text.copying import longest_copies, words_before_repeat, words_of

TEXT = st.lists(st.sampled_from("ab.c d"), max_size=30).map(" ".join)


def by_brute_force(samples: list[list[str]], training: list[str]) -> list[int]:
    """Every run of every sample, looked for at every place."""
    held = [words_of(text) for text in training]

    def stands(run: list[str]) -> bool:
        return any(run == words[i : i + len(run)] for words in held for i in range(len(words)))

    def longest(words: list[str]) -> int:
        return max(
            (j - i for i in range(len(words)) for j in range(i, len(words) + 1) if stands(words[i:j])), default=0
        )

    return [max((longest(words_of(text)) for text in documents), default=0) for documents in samples]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(TEXT, max_size=3), max_size=4), st.lists(TEXT, max_size=5), st.integers(1, 7))
def test_the_longest_copy_is_that_of_a_brute_force_search(samples, training, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "PIECE_WORDS", piece)  # runs cross the borders of pieces
        assert longest_copies(samples, training) == by_brute_force(samples, training)


def test_a_passage_is_found_whole_in_much_text():
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(300)]
    training = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 900))) for _ in range(60)]
    long = max(training, key=len)
    copied = long.split()[11:134]
    sample = ["word0 is new. " + " ".join(copied) + " unheard of", "word1"]
    assert longest_copies([sample, ["never seen"], [], sample[::-1]], training) == [len(copied), 0, 0, len(copied)]


def test_punctuation_case_and_white_space_do_not_hide_a_copy():
    assert words_of("Don't go, Mr. O’Neil -- it's\n7 p.m.!") == ["don't", "go", "mr", "o’neil", "it's", "7", "p", "m"]
    assert longest_copies([["The  cat; SAT\non the mat?"]], ["so the cat sat, on the mat."]) == [6]


def test_no_run_crosses_the_end_of_a_document():
    assert longest_copies([["a b c d"]], ["x a b", "c d y"]) == [2]
    assert longest_copies([["x a b", "c d y"]], ["a b c d"]) == [2]


def test_a_sample_repeats_itself_where_a_known_run_begins_again():
    once = "one two three four five six seven eight"
    assert words_before_repeat([f"{once} nine {once}"]) == 9
    assert words_before_repeat([f"{once} nine {once[:-6]} ten"]) is None, "seven words in a row are no repetition"
    assert words_before_repeat(["so " * 30]) == 1, "the two runs may overlap"
    assert words_before_repeat([f"{once} nine", once]) is None, "another document may begin like the first"
    assert words_before_repeat(["new", f"{once} {once}"]) == 9, "words of earlier documents count"
    assert words_before_repeat(["a b a b"], n=2) == 2
    assert words_before_repeat([]) is None
