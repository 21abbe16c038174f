"""The routes that the app needs, each with its bounds. Gradio has more; requests for those are answered 404."""

from __future__ import annotations

import re
from dataclasses import dataclass

API = "/gradio_api"
READ = ("GET", "HEAD")
SMALL_BODY = 16_384  # bytes: forms and short messages
EVENT_BODY = 250_000  # the values of one event: Gradio takes a second of the event loop for a few megabytes


@dataclass(frozen=True)
class Route:
    """Requests whose path matches `path` as a whole."""

    path: re.Pattern[str]
    methods: tuple[str, ...] = READ
    body: int = 0  # most bytes
    cost: float = 1.0  # in requests: about 10 ms of one core each
    needs_login: bool = True
    kind: str = ""  # what the gateway checks or does itself


def route(path: str, *methods: str, **options: object) -> Route:
    return Route(re.compile(path), methods or READ, **options)  # pyright: ignore[reportArgumentType]


NAME = "[A-Za-z0-9_-]{1,64}"  # of a session, an event or an upload
ENDPOINT = "[A-Za-z0-9_]{1,64}"
FILES = r"/(?:assets|static|svelte)/[^\x00]{1,300}|/favicon\.ico|/robots\.txt|/manifest\.json"
ROUTES = (
    route("/", needs_login=False, kind="same"),
    route(FILES, cost=0.1, needs_login=False),
    route("/login/?", "POST", body=SMALL_BODY, cost=2, needs_login=False, kind="login"),
    route("/logout", "POST", kind="logout"),
    route("/teacher", "GET", "POST", body=SMALL_BODY, cost=2, needs_login=False, kind="teacher"),
    route("/teacher/list", cost=2, needs_login=False, kind="teacher"),
    route("/lesson", "POST", body=SMALL_BODY, cost=5, needs_login=False, kind="lesson"),
    route("/notice", cost=0.1, kind="notice"),
    route("/config/?", kind="same"),
    route(r"(?:/gradio_api)?/theme\.css", kind="same"),
    route(f"{API}/startup-events|{API}/login_check/?|{API}/user/?|{API}/token/?|{API}/app_id/?", needs_login=False),
    route(rf"{API}/info/?|{API}/openapi\.json", kind="same"),
    route(f"{API}/queue/status"),
    route(f"{API}/queue/join", "POST", body=EVENT_BODY, kind="event"),
    route(f"{API}/(?:run|api)/({ENDPOINT})/?", "POST", body=EVENT_BODY, kind="direct"),
    route(f"{API}/call/(?:v2/)?({ENDPOINT})/?", "POST", body=EVENT_BODY, kind="call"),
    route(f"{API}/call/(?:v2/)?{ENDPOINT}/({NAME})", kind="result"),
    route(f"{API}/queue/data", kind="stream"),
    route(f"{API}/heartbeat/({NAME})", cost=2, kind="heartbeat"),
    route(f"{API}/(?:cancel|reset)/?", "POST", body=SMALL_BODY, kind="event"),
    route(f"{API}/upload", "POST", cost=10, kind="upload"),
    route(f"{API}/upload_progress", cost=2),
    route(rf"{API}/file[=/](?!(?i:https?:))[^\x00]{{1,1000}}", kind="file"),
)
MCP = route(f"{API}/mcp(?:/.{{0,100}})?", "GET", "POST", "DELETE", body=EVENT_BODY)


def find_route(path: str, *, mcp: bool = False) -> tuple[Route, re.Match[str]] | None:
    """The first route for `path`, and its match."""
    routes = (*ROUTES, MCP) if mcp else ROUTES
    return next(((one, found) for one in routes if (found := one.path.fullmatch(path))), None)
