"""Token buckets: what an address and a login may do, and that a room behind one address can work."""

from __future__ import annotations

import pytest

from app.server.gateway import rates
from app.server.gateway.rates import PERSON, ROOM, Bucket, Callers, Rate, network, take


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_is_full_at_first_and_refills_at_its_rate():
    clock = Clock()
    bucket = Bucket(Rate(10, 2), clock)
    assert [bucket.take(5), bucket.take(5)] == [0, 0]
    assert bucket.take(1) == 0.5
    clock.now += 0.5
    assert bucket.take(1) == 0
    clock.now += 1000
    assert bucket.take(10) == 0
    assert bucket.take(0.1) > 0, "it holds no more than its most"


def test_guesses_of_one_address_are_slowed_and_others_are_not():
    clock = Clock()
    callers = Callers(clock)
    taken = sum(take(callers.of("10.0.0.1", None), "guesses") == 0 for _ in range(8000))
    assert taken == ROOM.guesses.most
    clock.now += 60
    more = sum(take(callers.of("10.0.0.1", None), "guesses") == 0 for _ in range(8000))
    assert more == 12, "one in five seconds"
    assert take(callers.of("10.0.0.2", None), "guesses") == 0


def test_one_login_cannot_use_up_what_its_room_shares():
    callers = Callers(Clock())
    mine, neighbor = callers.of("10.0.0.1", "a"), callers.of("10.0.0.1", "b")
    taken = 0
    while not take(mine, "requests"):
        taken += 1
    assert taken == PERSON.requests.most < ROOM.requests.most
    assert take(neighbor, "requests") == 0


def test_what_one_caller_refuses_is_taken_from_none():
    callers = Callers(Clock())
    both = callers.of("10.0.0.1", "a")
    while not take(both, "sessions"):
        pass
    room = callers.of("10.0.0.1", None)
    left = sum(take(room, "sessions") == 0 for _ in range(1000))
    assert left == ROOM.sessions.most - PERSON.sessions.most


def test_thirty_laptops_behind_one_address_open_the_page_and_run_at_once():
    """A page takes about 150 files, 10 requests and 2 streams, and has one run in progress and one waiting."""
    callers = Callers(Clock())
    for laptop in range(30):
        found = callers.of("203.0.113.7", f"login {laptop}")
        assert not take(found, "logins") and not take(found, "sessions", 2)
        assert not take(found, "requests", 150 * 0.1 + 10 + 20)
        assert not take(found, "upload_bytes", 10e6)
    assert ROOM.open >= 30 * (2 + 6), "streams, and the connections that a browser opens at once"
    assert PERSON.open >= 2 * (2 + 6)
    assert ROOM.waiting >= 30


def test_callers_are_forgotten_but_for_those_with_requests_under_way(monkeypatch):
    monkeypatch.setattr(rates, "MOST_CALLERS", 3)
    callers = Callers(Clock())
    [busy] = callers.of("10.0.0.1", None)
    busy.open = 1
    for last in range(2, 50):
        callers.of(f"10.0.0.{last}", None)
    assert len(callers._known) == 3
    assert callers.of("10.0.0.1", None) == [busy]


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_network_of_ipv6_is_one_caller(address, caller):
    assert network(address) == caller
