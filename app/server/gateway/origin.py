"""Which names the app answers to, and which web pages may send it requests.

A foreign web page can make a visitor's browser send requests here (CSRF), and can point its own name at this machine
(DNS rebinding). The first is seen by the Origin header, the second by the Host header. An address in numbers is always
accepted as a host: it cannot be pointed anywhere else.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

SAFE = ("GET", "HEAD")
HOSTS = ("host", "x-forwarded-host")  # the second one from a proxy; Gradio builds its links from it


class Origins:
    """The hosts of this app. `allowed`: names beside those of this machine; "*.example.org" covers subdomains."""

    def __init__(self, allowed: Sequence[str] = (), *, look_up: bool = False) -> None:
        """look_up: also ask DNS for the full name of this machine, which may take seconds."""
        mine = {"localhost", socket.gethostname(), f"{socket.gethostname()}.local"}
        if look_up:
            mine.add(socket.getfqdn())
        self.allowed = {name.lower() for name in allowed}
        self.mine = {name.lower() for name in mine}

    def refusal(self, method: str, headers: Headers) -> str:
        """Why a request may not pass, or an empty string."""
        hosts = [headers.get(name, "").split(",")[0].strip() for name in HOSTS]
        for host in (hosts[0], *filter(None, hosts[1:])):
            if not self.is_ours(name_of(host)):
                return f"this app does not answer to the name {name_of(host)[:100]!r}; --allowed-host adds a name"
        origin = headers.get("origin")
        if origin is not None and not self._is_same(origin, hosts):
            return "" if method in SAFE else "requests from other web pages are refused"
        if origin is None and headers.get("sec-fetch-site") == "cross-site" and method not in SAFE:
            return "requests from other web pages are refused"
        return ""

    def is_ours(self, name: str) -> bool:
        """Whether a host name, without a port, is one that the app answers to."""
        if name in self.mine or self._is_allowed(name):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_allowed(self, name: str) -> bool:
        return name in self.allowed or any(f"*.{rest}" in self.allowed for rest in endings(name))

    def _is_same(self, origin: str, hosts: Sequence[str]) -> bool:
        """Whether an origin is the page of this app: the host that was asked, or an allowed name behind a proxy."""
        try:
            found = urlsplit(origin)
            netloc, name = found.netloc.lower(), found.hostname or ""
        except ValueError:
            return False
        if found.scheme not in ("http", "https"):  # also "null"
            return False
        return netloc in (host.lower() for host in hosts) or self._is_allowed(name)


def name_of(host: str) -> str:
    """A Host header without its port, in small letters."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def endings(name: str) -> list[str]:
    """'a.b.c' -> ['b.c', 'c']"""
    parts = name.split(".")
    return [".".join(parts[first:]) for first in range(1, len(parts))]
