"""How much a caller may do: token buckets, per address and per login.

A workshop often sits behind one address, so an address gets what forty people need; a login gets what one person
needs. Without a password there are addresses only. Every bound is a bucket: it holds `most`, refills at `per_second`,
and a request takes its cost out of it.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

MOST_CALLERS = 4096  # remembered; the one unseen for longest goes first


@dataclass(frozen=True)
class Rate:
    """Bounds of one bucket."""

    most: float
    per_second: float


@dataclass(frozen=True)
class Bounds:
    """What one caller may do."""

    requests: Rate  # in units of a cheap request, see routes.py
    sessions: Rate  # pages opened, and calls of programs without a session
    logins: Rate  # that succeed
    guesses: Rate  # logins that fail
    upload_bytes: Rate
    open: int  # requests under way, streams included
    waiting: int  # runs of a model, in the queue or in progress


HOUR = 3600.0
ROOM = Bounds(
    requests=Rate(3000, 200),
    sessions=Rate(600, 10),
    logins=Rate(200, 0.5),
    guesses=Rate(20, 0.2),
    upload_bytes=Rate(1e9, 1e9 / HOUR),
    open=400,
    waiting=48,
)
PERSON = Bounds(
    requests=Rate(600, 40),
    sessions=Rate(60, 1),
    logins=Rate(20, 0.1),
    guesses=Rate(20, 0.2),
    upload_bytes=Rate(2e8, 2e8 / HOUR),
    open=40,
    waiting=4,
)


class Bucket:
    """One bucket, full at first."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._level, self._seen = rate.most, clock()

    def take(self, cost: float) -> float:
        """Take `cost` and return 0; without enough, take nothing and return the seconds until there is."""
        now = self._clock()
        self._level = min(self._rate.most, self._level + (now - self._seen) * self._rate.per_second)
        self._seen = now
        if cost > self._level:
            return (cost - self._level) / self._rate.per_second
        self._level -= cost
        return 0.0

    def give_back(self, cost: float) -> None:
        self._level = min(self._rate.most, self._level + cost)


class Caller:
    """One address or login, and what is left of its bounds."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self.bounds, self.open = bounds, 0
        rates = {field.name: getattr(bounds, field.name) for field in fields(bounds)}
        self.buckets = {name: Bucket(rate, clock) for name, rate in rates.items() if isinstance(rate, Rate)}


class Callers:
    """All callers of the last time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, Caller] = OrderedDict()

    def of(self, address: str, login: str | None) -> list[Caller]:
        """The callers that answer for a request: its address, and its login where there is one."""
        found = [self._find(f"address {network(address)}", ROOM)]
        return [*found, self._find(f"login {login}", PERSON)] if login else found

    def _find(self, name: str, bounds: Bounds) -> Caller:
        caller = self._known.get(name) or self._known.setdefault(name, Caller(bounds, self._clock))
        self._known.move_to_end(name)
        if len(self._known) > MOST_CALLERS:
            idle = next((name for name, one in self._known.items() if not one.open), name)
            del self._known[idle]
        return caller


def take(callers: Iterable[Caller], bucket: str, cost: float = 1.0) -> float:
    """Take `cost` out of a bucket of every caller, or out of none; returns the seconds to wait, 0 if it was there."""
    taken: list[Bucket] = []
    for caller in callers:
        if wait := caller.buckets[bucket].take(cost):
            for one in taken:
                one.give_back(cost)
            return wait
        taken.append(caller.buckets[bucket])
    return 0.0


def network(address: str) -> str:
    """An address as one caller: of IPv6 its first 64 bits, since one machine has them all to itself."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False)) if found.version == 6 else address
