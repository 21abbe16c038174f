"""The teacher's page: who is where, a message to all, and what lessons have reported. Behind a password of its own.

The browser asks for the password (HTTP Basic, any user name). The page is plain HTML without scripts; its list renews
itself.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import html
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from app.server.gateway.bodies import HTTPRefusal
from app.strings.language import texts

if TYPE_CHECKING:
    from app.server.queue import VisitorQueue

MOST_MESSAGE, MOST_NAME = 500, 60  # characters
MOST_RESULTS, MOST_SEEN = 500, 300
RENEW_SECONDS = 5
STATES = ("right", "wrong", "open")  # of a check (diffuapriel/lessons/check/verdict.py)
STYLE = """
body { font: 18px system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #bbb }
textarea, iframe { width: 100%; font: inherit }
iframe { height: 70vh; border: 0; margin-top: 1rem }
button { font: inherit; padding: .3rem 1rem }
"""


@dataclass(frozen=True)
class CheckResult:
    """What a check of a lesson said of a student's answer."""

    name: str
    check: str
    state: str


@dataclass
class Teacher:
    """`password`: empty for no such page. `seen`: by session, the handler that the visitor used last, and when."""

    password: str = ""
    message: str = ""
    results: deque[CheckResult] = field(default_factory=lambda: deque(maxlen=MOST_RESULTS))
    seen: OrderedDict[str, tuple[int, float]] = field(default_factory=OrderedDict)

    def permits(self, authorization: str) -> bool:
        """Whether an Authorization header holds the password."""
        kind, _, coded = authorization.partition(" ")
        try:
            given = base64.b64decode(coded, validate=True) if kind.lower() == "basic" else b""
        except binascii.Error:
            return False
        return hmac.compare_digest(given.partition(b":")[2], self.password.encode())

    def note(self, session: str, handler: int) -> None:
        """A visitor has done something on the page."""
        self.seen[session] = handler, time.monotonic()
        self.seen.move_to_end(session)
        while len(self.seen) > MOST_SEEN:
            self.seen.popitem(last=False)

    def say(self, form: bytes) -> None:
        """Take the message to all from the page's form; an empty one takes the last one back."""
        found = parse_qs(form.decode("utf-8", "replace"), max_num_fields=8).get("message", [""])
        self.message = " ".join(found[0].split())[:MOST_MESSAGE]

    def take(self, event: dict[str, Any]) -> None:
        """Keep what a lesson reports. Raises HTTPRefusal for anything else."""
        values = [event.get(name) for name in ("name", "check", "state")]
        if not all(isinstance(one, str) and len(one) <= MOST_NAME for one in values) or values[2] not in STATES:
            raise HTTPRefusal(422, f"a report has name and check, up to {MOST_NAME} characters, and state: {STATES}")
        self.results.append(CheckResult(*map(str, values)))

    def page(self) -> str:
        """The HTML of the page: the form, and a frame with the list, which renews itself."""
        return document(
            f"<h1>{html.escape(texts.TEACHER_TITLE)}</h1>"
            f'<form method="post"><label>{texts.TEACHER_MESSAGE}<textarea name="message" maxlength="{MOST_MESSAGE}">'
            f"{html.escape(self.message)}</textarea></label><button>{texts.TEACHER_SEND}</button></form>"
            f'<iframe src="teacher/list" title="{texts.TEACHER_LIST}"></iframe>'
        )

    def list(self, sessions: Sequence[str], queue: VisitorQueue, tab_of: Callable[[int], str]) -> str:
        """The HTML of the list; `sessions` are open, `tab_of` names the tab of a handler."""
        waiting = {event.session_hash for event in queue.waiting()}
        running = {event.session_hash for event in queue.running() if event.alive}
        rows = []
        for number, session in enumerate(sessions, start=1):
            handler, since = self.seen.get(session, (-1, 0.0))
            state = texts.TEACHER_RUNS if session in running else texts.TEACHER_WAITS if session in waiting else ""
            ago = f"{time.monotonic() - since:,.0f} s" if since else ""
            rows.append((f"{number}", tab_of(handler), state, ago))
        newest = {(one.name, one.check): one.state for one in self.results}
        count = Counter(newest.values())
        checks = [(name, check, texts.TEACHER_STATES[state]) for (name, check), state in sorted(newest.items())]
        summary = texts.TEACHER_CHECKS.format(**{state: count[state] for state in STATES})
        return document(
            f'<meta http-equiv="refresh" content="{RENEW_SECONDS}">'
            f"<h2>{texts.TEACHER_VISITORS.format(number=len(sessions))}</h2>{table(texts.TEACHER_COLUMNS, rows)}"
            f"<h2>{html.escape(summary)}</h2>{table(texts.TEACHER_CHECK_COLUMNS, checks)}"
        )


def document(body: str) -> str:
    return (
        f'<!doctype html><html lang="{texts.LANGUAGE}"><meta charset="utf-8"><title>{texts.TEACHER_TITLE}</title>'
        f"<style>{STYLE}</style>{body}</html>"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
