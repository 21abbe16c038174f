"""The body of a request: read within bounds of size and time, and looked at before Gradio parses it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, QueryParams
from starlette.types import Message, Receive

from app.server.gateway.routes import NAME

if TYPE_CHECKING:
    from gradio.blocks import Blocks

BODY_SECONDS = 30.0
UPLOAD_SECONDS = 180.0
MOST_VALUES = 64  # more than any handler takes
NAMES = ("session_hash", "event_id", "upload_id")
IS_NAME = re.compile(NAME)


class HTTPRefusal(Exception):
    """An answer of the gateway instead of Gradio's."""

    def __init__(self, status: int, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.status, self.text, self.wait = status, text, wait


def check_length(headers: Headers, most: int, *, required: bool = False) -> int:
    """The Content-Length, 0 where there is none. Raises HTTPRefusal for a bad, missing or too large one."""
    given = headers.get("content-length")
    if given is None:
        if required:
            raise HTTPRefusal(411, "an upload must say its length")
        return 0
    if not given.isdecimal() or len(given) > 15:
        raise HTTPRefusal(400, "the Content-Length is not a number")
    if int(given) > most:
        raise HTTPRefusal(413, f"the request has {int(given):,} bytes; it may have up to {most:,}")
    return int(given)


async def read_body(receive: Receive, most: int) -> bytes:
    """The whole body. Raises HTTPRefusal where it is larger or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise HTTPRefusal(400, "the request was broken off")
                body += message.get("body", b"")
                if len(body) > most:
                    raise HTTPRefusal(413, f"the request has more than {most:,} bytes")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise HTTPRefusal(408, f"the request did not arrive within {BODY_SECONDS:.0f} s") from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body again, then what comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def hurried(receive: Receive) -> Receive:
    """A `receive` that breaks an upload off where it takes too long."""
    until = asyncio.get_running_loop().time() + UPLOAD_SECONDS
    whole = False

    async def hurry() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        whole = not message.get("more_body", False)
        return message

    return hurry


def check_names(query: QueryParams) -> None:
    """Raises HTTPRefusal for a query with a name that is none."""
    for name in NAMES:
        for value in query.getlist(name):
            _check_name(name, value)


def read_event(body: bytes) -> dict[str, Any]:
    """The JSON object of an event. Raises HTTPRefusal for anything else, and for names that are none."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPRefusal(400, "the request is not JSON") from None
    if not isinstance(event, dict):
        raise HTTPRefusal(422, "the request is not a JSON object")
    for name in NAMES:
        if event.get(name) is not None:
            _check_name(name, event[name])
    return event


def _check_name(name: str, value: Any) -> None:
    if not (isinstance(value, str) and IS_NAME.fullmatch(value)):
        raise HTTPRefusal(400, f"{name} must be 1 to 64 letters, digits, - or _")


def check_endpoint(page: Blocks, event: dict[str, Any], endpoint: str | None) -> None:
    """Raises HTTPRefusal where the event names no handler of the page, by number or by `endpoint`."""
    number = event.get("fn_index")
    if number is None and endpoint is not None:
        if not any(fn.api_name == endpoint for fn in page.fns.values()):
            raise HTTPRefusal(404, "no such endpoint")
    elif type(number) is not int or number not in page.fns:
        raise HTTPRefusal(404, "no such event")
    if isinstance(event.get("data"), list) and len(event["data"]) > MOST_VALUES:
        raise HTTPRefusal(422, f"an event has at most {MOST_VALUES} values")
