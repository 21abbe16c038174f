"""Results of checks sent to a teacher, if the reader asks for it. Otherwise nothing leaves the notebook.

    from diffuapriel.lessons.check.reports import report_to

    report_to("http://teacher-laptop:7860", name="Mia")      # the address of the teacher's app

It sends the name, the check's name and right, wrong or open; never an answer. report_to("") ends it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request

SECONDS = 3.0
MOST_NAME = 60  # characters
_to: dict[str, str] = {}


def report_to(address: str, name: str = "") -> None:
    """Send the results of checks from now on. Raises ValueError for an address that is none, and for a long name."""
    if address and not address.startswith(("http://", "https://")):
        raise ValueError(f"the address is {address!r}; it must begin with http:// or https://, or be empty")
    if address and not 1 <= len(name) <= MOST_NAME:
        raise ValueError(f"the name has {len(name)} characters; permitted: 1 to {MOST_NAME}")
    _to.clear()
    if address:
        _to.update(address=f"{address.rstrip('/')}/lesson", name=name)


def report(check: str, state: str) -> threading.Thread | None:
    """Send a result in the background, so that the notebook never waits; what cannot be sent is dropped."""
    if not _to:
        return None
    body = json.dumps({"name": _to["name"], "check": check[:MOST_NAME], "state": state}).encode()
    asked = urllib.request.Request(_to["address"], body, {"Content-Type": "application/json"})

    def send() -> None:
        with contextlib.suppress(OSError, ValueError):
            urllib.request.urlopen(asked, timeout=SECONDS).close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread
