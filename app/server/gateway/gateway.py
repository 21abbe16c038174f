"""The gateway: an ASGI app around Gradio's that checks every request before Gradio sees it.

In this order: the host and the page that sent it (origin.py), the route (routes.py), the caller's bounds (rates.py),
the login, the body (bodies.py). It keeps the pages that are the same for everybody, answers heartbeats itself, and
adds the security headers (headers.py).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio.server_messages import UnexpectedErrorMessage
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.server.gateway.bodies import (
    HTTPRefusal,
    check_endpoint,
    check_length,
    check_names,
    hurried,
    read_body,
    read_event,
    replayed,
)
from app.server.gateway.headers import secure
from app.server.gateway.origin import Origins
from app.server.gateway.rates import Caller, Callers, take
from app.server.gateway.routes import API, SMALL_BODY, Route, find_route
from app.server.gateway.teacher import Teacher
from app.server.queue import CALLERS, VisitorQueue
from app.strings.language import texts

if TYPE_CHECKING:
    from gradio.routes import App

    from app.server.page import Page, VisitorStates

BEAT_SECONDS = 15.0
LEFT_SECONDS = 300.0
MOST_OPEN = 1000  # requests under way, of all callers
MOST_TOKENS = 5000  # logins; the oldest ones end first
MOST_KEPT = 24  # answers in the cache
MISS_COST = 10.0  # of a page that is not in the cache
MOST_DISK = 2_000_000_000  # bytes of uploads and downloads together
MULTIPART = 65_536  # bytes around the file of an upload
DROPPED = (b"origin", b"x-gradio-server")  # Gradio answers the first with CORS headers, and trusts the second
API_INFO = re.compile(rb"window\.gradio_api_info = .*?;</script>", re.DOTALL)
HEAD = '<head><title>{title}</title><link rel="icon" type="image/png" href="favicon.ico" />'
NO_API_INFO = b'window.gradio_api_info = {"named_endpoints":{},"unnamed_endpoints":{}};</script>'


@dataclass(frozen=True)
class Exchange:
    """One request under way."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Headers
    route: Route
    named: re.Match[str]  # of the route's pattern
    callers: list[Caller]
    user: str | None


class Gateway:
    """`folder` holds the uploads; `folder_bytes` is its size as last seen."""

    def __init__(
        self,
        inner: ASGIApp,
        app: App,
        origins: Origins,
        *,
        max_upload: int,
        folder: Path,
        mcp: bool,
        teacher_password: str = "",
    ) -> None:
        self.inner, self.app, self.origins = inner, app, origins
        self.max_upload, self.folder, self.mcp = max_upload, folder, mcp
        self.callers = Callers()
        self.teacher = Teacher(teacher_password)
        self.open = 0
        self.folder_bytes = 0
        self.pages: Counter[str] = Counter()  # heartbeats by session
        self.left: dict[str, float] = {}  # when a session's last page was closed
        self._kept: OrderedDict[tuple[Any, ...], tuple[list[tuple[bytes, bytes]], bytes, bytes]] = OrderedDict()

    @property
    def page(self) -> Page:
        return self.app.get_blocks()  # pyright: ignore[reportReturnType]

    @property
    def states(self) -> VisitorStates:
        return self.app.state_holder  # pyright: ignore[reportReturnType]

    @property
    def queue(self) -> VisitorQueue:
        return self.page._queue  # pyright: ignore[reportReturnType]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.inner(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        path = path_of(scope)
        texts.follow(cookie_parser(Headers(scope=scope).get("cookie", "")))

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure(MutableHeaders(scope=message), is_file=path.startswith(f"{API}/file"))
            await send(message)

        try:
            await self._admit(path, scope, receive, secured)
        except HTTPRefusal as refusal:
            headers = {"Connection": "close"} | ({"Retry-After": f"{math.ceil(refusal.wait)}"} if refusal.wait else {})
            answer = JSONResponse({"detail": refusal.text}, refusal.status, headers)
            await answer(scope, receive, secured)

    async def _admit(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """The checks that need no body."""
        headers, method = Headers(scope=scope), scope["method"]
        if refusal := self.origins.refusal(method, headers):
            raise HTTPRefusal(403, refusal)
        found = find_route(path, mcp=self.mcp)
        if found is None:
            raise HTTPRefusal(404, "no such page")
        route, named = found
        if method not in route.methods:
            raise HTTPRefusal(405, f"this page takes {', '.join(route.methods)} only")
        token = self._token(headers)
        user = self.app.tokens.get(token) if token else None
        address = (scope.get("client") or ("", 0))[0]
        callers = self.callers.of(address, token if user else None)
        charge(callers, "requests", route.cost)
        if self.app.auth is not None and user is None and route.needs_login:
            if path.endswith("theme.css"):  # the login page asks for it, too
                return await Response(media_type="text/css")(scope, receive, send)
            raise HTTPRefusal(401, "please log in first")
        if self.open >= MOST_OPEN or any(caller.open >= caller.bounds.open for caller in callers):
            raise HTTPRefusal(429, "too many requests are open", wait=1.0)
        kept = [pair for pair in scope["headers"] if pair[0] not in DROPPED]
        scope = {**scope, "headers": kept, CALLERS: callers}
        exchange = Exchange(scope, receive, send, headers, route, named, callers, user)
        self.open += 1
        for caller in callers:
            caller.open += 1
        try:
            await self._answer(exchange)
        finally:
            self.open -= 1
            for caller in callers:
                caller.open -= 1

    def _token(self, headers: Headers) -> str | None:
        cookies = cookie_parser(headers.get("cookie", ""))
        name = self.app.cookie_id
        return cookies.get(f"access-token-{name}") or cookies.get(f"access-token-unsecure-{name}")

    async def _answer(self, exchange: Exchange) -> None:
        query = QueryParams(exchange.scope["query_string"])
        check_names(query)
        route, named = exchange.route, exchange.named
        answers: dict[str, Callable[..., Any]] = {
            "same": self._same_for_all,
            "login": self._login,
            "logout": self._logout,
            "upload": self._upload,
            "teacher": self._teacher,
            "lesson": self._lesson,
            "notice": self._notice,
        }
        if route.kind == "upload":
            return await self._upload(exchange)
        check_length(exchange.headers, route.body)
        if route.body:
            body = await read_body(exchange.receive, route.body)
            if route.kind in ("event", "direct", "call"):
                self._check_event(exchange, body)
            exchange = replace(exchange, receive=replayed(body, exchange.receive))
        if answer := answers.get(route.kind):
            await answer(exchange)
        elif route.kind == "stream":
            await self._listen(exchange, query.get("session_hash", ""))
        elif route.kind == "result":
            await self._listen(exchange, self.queue.session_of(named[1]))
        elif route.kind == "heartbeat":
            await self._beat(exchange, named[1])
        elif route.kind == "direct":
            await self._pass(exchange, send=refusing(exchange.send))
        else:
            await self._pass(exchange)

    async def _pass(self, exchange: Exchange, *, send: Send | None = None) -> None:
        await self.inner(exchange.scope, exchange.receive, send or exchange.send)

    # -- pages that are the same for everybody --

    async def _same_for_all(self, exchange: Exchange) -> None:
        """Answer from the cache. Gradio makes the page and its config anew each time, for a tenth of a second."""
        headers, user = exchange.headers, exchange.user
        root = tuple(headers.get(name) for name in ("host", "x-forwarded-host", "x-forwarded-proto"))
        key = (path_of(exchange.scope), texts.LANGUAGE, user, self.app.auth is None, *root)
        if key not in self._kept:
            charge(exchange.callers, "requests", MISS_COST)
            start, body = await self._fetch(exchange)
            if start["status"] != 200:
                return await Response(body, start["status"])(exchange.scope, exchange.receive, exchange.send)
            if self.app.auth is not None and user is None:
                body = API_INFO.sub(NO_API_INFO, body)
            if key[0] == "/":  # Gradio's scripts give a title to pages of the app only
                body = body.replace(b"<head>", HEAD.format(title=texts.TITLE).encode(), 1)
            kept = [pair for pair in start["headers"] if pair[0] != b"content-length"]
            self._kept[key] = (kept, body, await asyncio.to_thread(gzip.compress, body, 5))
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        kept, body, packed = self._kept[key]
        answer = Response(body)
        if "gzip" in headers.get("accept-encoding", ""):
            answer = Response(packed, headers={"Content-Encoding": "gzip"})
        answer.raw_headers += [*kept, (b"vary", b"accept-encoding, cookie"), (b"cache-control", b"no-store")]
        if exchange.scope["method"] == "HEAD":
            answer.body = b""
        await answer(exchange.scope, exchange.receive, exchange.send)

    async def _fetch(self, exchange: Exchange) -> tuple[Message, bytes]:
        """Gradio's answer to a GET without a query, uncompressed."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        plain = [pair for pair in exchange.scope["headers"] if pair[0] not in (b"accept-encoding", b"range")]
        scope = {**exchange.scope, "method": "GET", "query_string": b"", "headers": plain}
        await self.inner(scope, replayed(b"", exchange.receive), keep)
        return messages[0], b"".join(message.get("body", b"") for message in messages[1:])

    # -- logins --

    async def _login(self, exchange: Exchange) -> None:
        charge(exchange.callers, "logins", 1)
        charge(exchange.callers, "guesses", 1)
        statuses: list[int] = []
        await self._pass(exchange, send=noting(exchange.send, statuses))
        succeeded = statuses[:1] == [200]
        for caller in exchange.callers:  # what it was not is not counted
            caller.buckets["guesses" if succeeded else "logins"].give_back(1)
        while len(self.app.tokens) > MOST_TOKENS:
            self.app.tokens.pop(next(iter(self.app.tokens)))

    async def _logout(self, exchange: Exchange) -> None:
        """End this login, and no other of the same user."""
        self.app.tokens.pop(self._token(exchange.headers), None)
        answer = RedirectResponse("./", status_code=303)
        for name in ("access-token", "access-token-unsecure"):
            answer.delete_cookie(f"{name}-{self.app.cookie_id}")
        await answer(exchange.scope, exchange.receive, exchange.send)

    # -- the teacher --

    async def _teacher(self, exchange: Exchange) -> None:
        self._check_teacher()
        charge(exchange.callers, "guesses", 1)
        if not self.teacher.permits(exchange.headers.get("authorization", "")):
            ask = {"WWW-Authenticate": 'Basic realm="DiffuApriel", charset="UTF-8"'}
            answer: Response = JSONResponse({"detail": "the teacher's password, please"}, 401, ask)
        else:
            for caller in exchange.callers:
                caller.buckets["guesses"].give_back(1)
            if exchange.scope["method"] == "POST":
                self.teacher.say(await read_body(exchange.receive, SMALL_BODY))
                answer = RedirectResponse("teacher", status_code=303)
            elif path_of(exchange.scope).endswith("/list"):
                answer = HTMLResponse(self.teacher.list(list(self.pages), self.queue, self.page.tab_of))
            else:
                answer = HTMLResponse(self.teacher.page())
        answer.headers["Cache-Control"] = "no-store"
        await answer(exchange.scope, exchange.receive, exchange.send)

    async def _lesson(self, exchange: Exchange) -> None:
        """A student's notebook reports a check."""
        self._check_teacher()
        self.teacher.take(read_event(await read_body(exchange.receive, SMALL_BODY)))
        await JSONResponse({"detail": "thank you"})(exchange.scope, exchange.receive, exchange.send)

    async def _notice(self, exchange: Exchange) -> None:
        """The message to all; pages ask for it every few seconds."""
        answer = JSONResponse({"message": self.teacher.message}, headers={"Cache-Control": "no-store"})
        await answer(exchange.scope, exchange.receive, exchange.send)

    def _check_teacher(self) -> None:
        if not self.teacher.password:
            raise HTTPRefusal(404, "no such page")

    # -- events --

    def _check_event(self, exchange: Exchange, body: bytes) -> None:
        event = read_event(body)
        path = path_of(exchange.scope)
        if path.startswith((f"{API}/cancel", f"{API}/reset")):
            return
        named = exchange.named[1] if exchange.route.kind in ("direct", "call") else None
        check_endpoint(self.page, event, named)
        session = event.get("session_hash")
        if session is None or session not in self.app.state_holder:
            charge(exchange.callers, "sessions", 1)
        if session is not None and type(event.get("fn_index")) is int:
            self.teacher.note(session, event["fn_index"])

    async def _listen(self, exchange: Exchange, session: str) -> None:
        """Pass on a session's messages, and note that somebody listens."""
        if session not in self.queue.pending_messages_per_session:
            if exchange.route.kind == "result":
                raise HTTPRefusal(404, "no such event, or its answer was fetched or forgotten")
            gone = UnexpectedErrorMessage(message="404: no such session", session_not_found=True)
            text = f"data: {json.dumps(gone.model_dump())}\n\n"
            answer = Response(text, media_type="text/event-stream")
            return await answer(exchange.scope, exchange.receive, exchange.send)
        self.queue.listen(session)
        try:
            await self._pass(exchange)
        finally:
            self.queue.stop_listening(session)

    async def _beat(self, exchange: Exchange, session: str) -> None:
        """Keep a page's connection. When the last one of a session closes, the visitor has left.

        Gradio's own would make the state of a session that never ran anything, only to end it.
        """
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
        over = [asyncio.create_task(disconnected(exchange.receive)), asyncio.create_task(self.app.stop_event.wait())]
        self.pages[session] += 1
        try:
            while not any(task.done() for task in over):
                await exchange.send({"type": "http.response.body", "body": b"data: ALIVE\n\n", "more_body": True})
                await asyncio.wait(over, timeout=BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in over:
                task.cancel()
            self.pages[session] -= 1
            if self.pages[session] <= 0:
                del self.pages[session]
                self._leave(session)
        await exchange.send({"type": "http.response.body"})

    def _leave(self, session: str) -> None:
        if session not in self.app.state_holder:
            return  # nothing was ever run
        self.app.state_holder.session_data[session].is_closed = True
        self.left[session] = time.monotonic()
        self.page.on_leave(session)

    def forget_left(self) -> None:
        """Free the state of sessions that left a while ago; until then a lost connection may return."""
        now = time.monotonic()
        for session, since in [*self.left.items()]:
            if session in self.pages:
                del self.left[session]
            elif now - since > LEFT_SECONDS:
                del self.left[session]
                self.states.forget(session)

    # -- uploads --

    async def _upload(self, exchange: Exchange) -> None:
        size = check_length(exchange.headers, self.max_upload + MULTIPART, required=True)
        if self.folder_bytes + size > MOST_DISK:
            raise HTTPRefusal(507, "there is no room for uploads now; please try again later", wait=60.0)
        charge(exchange.callers, "upload_bytes", size)
        self.folder_bytes += size
        await self._pass(replace(exchange, receive=hurried(exchange.receive)))


def path_of(scope: Scope) -> str:
    """The path without the root path of a proxy that leaves it in."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    return (path.removeprefix(root) or "/") if root and path.startswith(f"{root}/") else path


def charge(callers: list[Caller], bucket: str, cost: float) -> None:
    """Take `cost` from the callers. Raises HTTPRefusal with the seconds to wait where they have used it up."""
    if wait := take(callers, bucket, cost):
        raise HTTPRefusal(429, f"too many {bucket.replace('_', ' ')}; please wait {math.ceil(wait)} s", wait)


def noting(send: Send, statuses: list[int]) -> Send:
    """A `send` that also notes the status."""

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        await send(message)

    return note


def refusing(send: Send) -> Send:
    """A `send` that turns 500 into 400: Gradio's status for every error of a handler, refusals included."""

    async def refuse(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            message = {**message, "status": 400}
        await send(message)

    return refuse


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
