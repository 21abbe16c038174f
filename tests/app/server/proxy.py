"""A small reverse proxy that serves an app below a path and strips that path, as nginx does."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

OWN = {"host", "connection", "transfer-encoding", "content-length"}


@contextmanager
def proxied(target: str, path: str) -> Iterator[str]:
    """The address, with a slash at its end, at which `target` is served below `path`."""
    client = httpx.AsyncClient(base_url=target, timeout=None)

    async def forward(request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in OWN}
        headers |= {"x-forwarded-host": request.headers["host"], "x-forwarded-proto": "http"}
        query = request.url.query.encode()
        url = (
            httpx.URL(path=f"/{request.path_params['rest']}", query=query)
            if query
            else f"/{request.path_params['rest']}"
        )
        asked = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(asked, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in answer.aiter_raw():
                yield piece

        kept = {name: value for name, value in answer.headers.items() if name not in OWN}
        return StreamingResponse(pieces(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    async def no_icon(request: Request) -> Response:
        return Response(status_code=204)  # a browser asks the site for one by itself

    below = Route(f"{path}/{{rest:path}}", forward, methods=["GET", "HEAD", "POST"])
    proxy = Starlette(routes=[below, Route("/favicon.ico", no_icon)])
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(proxy, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [line]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{line.getsockname()[1]}{path}/"
        server.should_exit = server.force_exit = True
        thread.join(10)
