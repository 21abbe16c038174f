"""A shuffle that is computed, not stored."""

import numpy as np
import pytest

from diffuapriel.text.permutation import Shuffle


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_every_number_comes_once(size):
    shuffled = Shuffle(size, 0, "train", 3)(np.arange(size))
    assert np.array_equal(np.sort(shuffled), np.arange(size))


def test_a_key_has_one_order_and_another_key_another():
    places = np.arange(1000)
    first = Shuffle(1000, 7, "train", 0)(places)
    assert np.array_equal(first, Shuffle(1000, 7, "train", 0)(places))
    assert Shuffle(1000, 7, "train", 0)(np.array([41])) == first[41]
    for other in ((8, "train", 0), (7, "heldout", 0), (7, "train", 1)):
        assert np.mean(Shuffle(1000, *other)(places) == first) < 0.01
    assert first[:4].tolist() == [274, 835, 435, 971], "the same on every machine"


def test_neighbors_are_torn_apart():
    shuffled = Shuffle(10_000, 0)(np.arange(10_000)).astype(float)
    assert abs(np.corrcoef(shuffled[:-1], shuffled[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(shuffled, np.arange(10_000))[0, 1]) < 0.05


def test_a_range_beyond_memory_is_no_matter():
    size = 10**15 + 1
    shuffled = Shuffle(size, 0)(np.array([0, 1, size - 1]))
    assert len(set(shuffled.tolist())) == 3 and (shuffled < size).all() and (shuffled > 10**9).all()


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match="size is 0"):
        Shuffle(0)
    with pytest.raises(ValueError, match="position 5 is outside 0 to 4"):
        Shuffle(5)(np.array([5]))
