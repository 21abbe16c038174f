"""Gradio's app inside the gateway, and the watch that runs beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from gradio.routes import App, ORJSONResponse
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from app.server.folder import tidy
from app.server.gateway.gateway import MOST_DISK, Gateway
from app.server.gateway.origin import Origins
from app.server.page import VisitorStates

log = logging.getLogger("diffuapriel.app")

WATCH_SECONDS = 1.0
TIDY_SECONDS = 15.0
PART_SECONDS = 300.0  # of an upload that was broken off
SILENT_SECONDS = 15.0  # how long a connection may be open without a request
MOST_CONNECTIONS = 2000
# Raised by Gradio's routes for requests that they cannot read.
MALFORMED = (LookupError, ValueError, TypeError, AttributeError, AssertionError, OSError, FnIndexInferError)


class GatewayApp(App):
    """Gradio's app; every request passes the gateway first."""

    def __init__(self, origins: Origins, **options: Any) -> None:
        """options: of the gateway."""
        handlers: dict[Any, Any] = dict.fromkeys((*MALFORMED, ClientDisconnect), malformed)
        handlers[RequestValidationError] = invalid
        super().__init__(default_response_class=ORJSONResponse, exception_handlers=handlers, openapi_url=None)
        self.state_holder = VisitorStates()
        self._options = options
        self._origins = origins
        self.gateway: Gateway | None = None

    def build_middleware_stack(self) -> ASGIApp:
        self.gateway = Gateway(super().build_middleware_stack(), self, self._origins, **self._options)
        return self.gateway


async def malformed(request: Request, error: Exception) -> Response:
    log.info("a request was refused: %s: %s", type(error).__name__, str(error)[:200])
    return JSONResponse({"detail": "the request cannot be read"}, 400)


async def invalid(request: Request, error: Exception) -> Response:
    """FastAPI's own answer would repeat the request."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}"[:200] for one in error.errors()[:3]]
    return JSONResponse({"detail": "; ".join(found)}, 422)


@contextlib.asynccontextmanager
async def watched(app: GatewayApp) -> AsyncIterator[None]:
    """The lifespan of the app: its watch runs as long."""
    task = asyncio.create_task(watch(app))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def watch(app: GatewayApp) -> None:
    """End what nobody listens to, close silent connections and keep the folder small, for as long as the app runs."""
    silent: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
    tidied = -TIDY_SECONDS
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            gateway = app.gateway
            if gateway is None:
                continue
            await gateway.queue.drop_unheard()
            gateway.forget_left()
            if server := getattr(gateway.page, "server", None):
                close_silent(list(server.server_state.connections), silent, time.monotonic())
            if time.monotonic() - tidied > TIDY_SECONDS:
                tidied = time.monotonic()
                gateway.folder_bytes = await asyncio.to_thread(tidy, gateway.folder, MOST_DISK, PART_SECONDS)
        except Exception:
            log.exception("the watch goes on")


def close_silent(connections: list[Any], silent: weakref.WeakKeyDictionary[Any, float], now: float) -> None:
    """Close the connections that send no request, at once where there are too many. uvicorn waits for ever."""
    waiting = [one for one in connections if one.cycle is None or one.cycle.response_complete]
    for one in set(silent) - set(waiting):
        del silent[one]
    for one in waiting:
        silent.setdefault(one, now)
    most = MOST_CONNECTIONS - (len(connections) - len(waiting))
    oldest_first = sorted(waiting, key=lambda one: silent[one])
    for number, one in enumerate(oldest_first):
        too_many = len(waiting) - number > most
        if one.transport is not None and (too_many or now - silent[one] > SILENT_SECONDS):
            one.transport.abort()
