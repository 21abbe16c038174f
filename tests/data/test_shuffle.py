"""A shuffle that is computed, not stored."""

import numpy as np
import pytest

from diffuapriel.data.token_cache import Shuffle


def order(size, *key):
    shuffle = Shuffle(size, *key)
    return [shuffle[place] for place in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_every_number_comes_once(size):
    assert sorted(order(size, 0, "train", 3)) == list(range(size))


def test_a_key_has_one_order_and_another_key_another():
    first = order(1000, 7, "train", 0)
    assert first == order(1000, 7, "train", 0)
    assert first[:4] == [274, 835, 435, 971], "the same on every machine"
    for other in ((8, "train", 0), (7, "heldout", 0), (7, "train", 1)):
        assert sum(a == b for a, b in zip(first, order(1000, *other))) < 10


def test_neighbors_are_torn_apart():
    shuffled = order(5000, 0)
    assert abs(np.corrcoef(shuffled[:-1], shuffled[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(shuffled, range(5000))[0, 1]) < 0.05


def test_a_range_beyond_memory_is_no_matter():
    shuffle = Shuffle(10**15 + 1, 0)
    found = {shuffle[place] for place in (0, 1, 2, 10**15)}
    assert len(found) == 4 and min(found) > 10**9 and max(found) <= 10**15


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match="size is 0"):
        Shuffle(0)
    for place in (-1, 5):
        with pytest.raises(IndexError, match=f"place {place} is outside 0 to 4"):
            Shuffle(5)[place]
