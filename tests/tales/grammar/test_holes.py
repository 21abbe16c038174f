"""A story with holes in: what stands there is possible, or it is not, and where."""

from __future__ import annotations

import random

import pytest

from diffuapriel.tales import language as tales
from diffuapriel.tales.grammar.holes import HoleReader, Part

READERS = {level: HoleReader(tales.grammar(level)) for level in tales.LEVELS}


@pytest.mark.parametrize("level", tales.LEVELS)
def test_every_part_of_a_true_story_is_possible(level):
    rng = random.Random(level)
    for _ in range(12):
        story = tales.generate(level, rng)
        first, last = sorted(rng.sample(range(len(story) + 1), 2))
        for part in (
            Part(story, True, True),
            Part(story[:last], True, False),
            Part(story[first:last], False, False),
            Part(story[first:], False, True),
        ):
            found = READERS[level].read(part)
            assert found.grammatical and found.consistent is not False, (part, found)
            assert found.consistent is None or part.opens


def test_a_word_that_fits_nowhere_is_pointed_at():
    for part, opens in (("Ruth had zebra nuts", True), (" zebra nuts, ate", False)):
        failure = READERS[1].read(Part(part, opens, False)).failure
        assert failure and "'zebra' does not fit here" in failure.message
        assert part[failure.position :].startswith("zebra")


def test_words_in_an_order_that_no_story_has_break_at_the_second():
    found = READERS[3].read(Part(" gave the Ruth", False, False))
    assert not found.grammatical and found.failure and found.failure.position > 1


def test_a_part_before_a_hole_may_break_off_in_a_word_but_an_ended_story_may_not():
    assert READERS[1].read(Part("Ruth had five nu", True, False)).grammatical
    ended = READERS[1].read(Part("Ruth had five", True, True))
    assert ended.failure and "breaks off" in ended.failure.message


def test_agreement_is_followed_as_far_as_the_story_is_whole():
    right = READERS[1].read(Part("Ruth had five nuts, ate three and kept two", True, False))
    wrong = READERS[1].read(Part("Ruth had five nuts, ate three and kept four.", True, False))
    assert right.consistent is True
    assert wrong.grammatical and wrong.consistent is False
    assert wrong.failure and "does not add up" in wrong.failure.message
    late = READERS[1].read(Part(" had five nuts, ate three and kept four.", False, True))
    assert late.grammatical and late.consistent is None


def test_nothing_between_two_holes_says_nothing():
    assert READERS[2].read(Part("", False, False)).grammatical
    assert READERS[2].read(Part("ox", False, False)).grammatical
