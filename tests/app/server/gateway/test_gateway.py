"""The served app behind its gateway, sent what an attacker sends. After each test it still answers."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import httpx
import pytest

from app.main import build, launch, raise_file_limit
from app.server.gateway import bodies
from app.server.gateway import gateway as module
from app.server.gateway.app import SILENT_SECONDS, close_silent
from app.server.models import Models
from app.ui.theme import ICON
from tests.app.conftest import Served
from tests.app.server.stranger import call, finished

API = "gradio_api/"
JSON = {"content-type": "application/json"}
SMALL = ["A [MASK:2] b.", "toy-diffuapriel", 8, 1, "low_confidence", 1.0, 0, 0.9, 0, 0, "prompt", 0.9]
BAD_NAMES = ["", "a" * 65, "a b", "ä", "a/b", "a\n", "\ud800", 7, True, [], {}, ["a"]]
CLOSED = (
    *("vibe-edit", "undo-vibe-edit", "vibe-code", "vibe-starter-queries", "process_recording", "component_server"),
    *(
        "proxy=https://x.hf.space/",
        "file=https://example.org/x",
        "file=HTTP://example.org/x",
        "dev/reload",
        "deep_link",
    ),
    *(
        "stream/a/b/1/playlist.m3u8",
        "stream/a",
        "custom_component/a/client/b/c",
        "monitoring",
        "runs",
        "mcp",
        "x" * 5000,
    ),
)
NEEDS_LOGIN = (
    *("config", f"{API}info", f"{API}openapi.json", f"{API}queue/status"),
    *(f"{API}heartbeat/x", f"{API}queue/data?session_hash=x", f"{API}call/models/x", f"{API}file=/etc/passwd"),
    f"{API}upload_progress?upload_id=x",
)


@pytest.fixture(scope="module")
def locked(checkpoints) -> Iterator[Served]:
    """The app with a password."""
    models = Models(checkpoints)
    page = build(models)
    yield Served(launch(page, auth=("room", "secret")), models, page)
    page.close(verbose=False)


@pytest.fixture
def gateway(served) -> module.Gateway:
    return served.page.app.gateway


@pytest.fixture(autouse=True)
def goes_on(request) -> Iterator[None]:
    """Whatever was sent, nothing of it is an error of the server, and the next visitor is served."""
    capture = request.getfixturevalue("capfd")
    yield
    if "served" in request.fixturenames:
        assert call(request.getfixturevalue("served").url, "models", []).event == "complete"
    written = capture.readouterr()
    assert "Traceback" not in written.out + written.err


def send(served: Served, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx.post(f"{served.url}{API}{path}", content=content, headers=JSON, timeout=60)


def number_of(served: Served, name: str) -> int:
    found = httpx.get(f"{served.url}config").json()["dependencies"]
    return next(one["id"] for one in found if one["api_name"] == name)


# -- names and bodies --


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_session_has_a_name_of_letters_and_digits(served, name):
    unmask = number_of(served, "unmask")
    for path in ("queue/join", "run/predict", "api/predict", "call/models", "cancel", "reset"):
        body = {"session_hash": name, "event_id": "x", "fn_index": unmask, "data": SMALL}
        assert 400 <= send(served, path, body).status_code < 500, path
    if isinstance(name, str) and name.isprintable():
        for path in ("queue/data", "upload_progress"):
            answer = httpx.get(f"{served.url}{API}{path}", params={"session_hash": name, "upload_id": name})
            assert answer.status_code == 400
        assert httpx.get(f"{served.url}{API}heartbeat/{name}").status_code == 404


def test_three_requests_do_not_stop_the_queue(served):
    """The third once ended the queue's loop for everybody."""
    unmask = number_of(served, "unmask")
    for session, status in (("one", 200), ("two", 200), ("", 400)):
        body = {"session_hash": session, "fn_index": unmask, "data": SMALL}
        assert send(served, "queue/join", body).status_code == status
    assert call(served.url, "unmask", SMALL).event == "complete"


@pytest.mark.parametrize("path", ["queue/join", "call/models", "call/v2/models", "run/predict", "cancel", "reset"])
def test_a_large_body_is_refused_before_it_is_parsed(served, path):
    large = b'{"data":[' + b"[]," * 400_000 + b"[]]}"
    assert send(served, path, large).status_code == 413

    def pieces() -> Iterator[bytes]:  # without a Content-Length
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    try:
        answer = httpx.post(f"{served.url}{API}{path}", content=pieces(), headers=JSON, timeout=60)
    except httpx.WriteError:  # the server closed the connection
        return
    assert answer.status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 200_000, b"\xff", b'{"data": 1e', b"null", b"[]", b'"a"', b"NaN"])
def test_what_is_no_json_object_is_refused(served, body):
    for path in ("queue/join", "run/predict", "call/models", "call/v2/models", "cancel"):
        assert 400 <= send(served, path, body).status_code < 500, path


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"data": None},
        {"data": [], "fn_index": 10**6},
        {"data": [], "fn_index": -1},
        {"data": [], "fn_index": "0"},
        {"data": [], "fn_index": True},
        {"data": {"a": 1}, "fn_index": 0},
        {"data": [[]] * 65, "fn_index": 0},
        {"data": [], "fn_index": 0, "trigger_id": "x"},
        {"data": [], "fn_index": 0, "event_data": "x", "batched": True},
        {"data": [[[]]] * 50, "fn_index": 3, "event_id": None},
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0},
    ],
    ids=repr,
)
def test_a_malformed_event_is_refused_in_a_few_words(served, event):
    for path in ("queue/join", "run/predict", "run/nobody", "call/nobody", "call/v2/nobody", "call/v2/models"):
        answer = send(served, path, {"session_hash": "abc", **event})
        assert answer.status_code < 500, path
        assert len(answer.text) < 2_000
        assert str(Path.home()) not in answer.text


def test_runs_do_not_pass_by_the_queue(served):
    assert send(served, "run/unmask", {"data": SMALL}).status_code == 404
    assert not served.models.busy


# -- routes --


@pytest.mark.parametrize("path", CLOSED)
def test_routes_that_the_app_does_not_need_are_closed(served, path):
    for method in ("GET", "POST", "PUT"):
        assert httpx.request(method, f"{served.url}{API}{path}").status_code == 404
    assert httpx.get(f"{served.url}{path}").status_code in (404, 405)


def test_other_methods_and_websockets_are_refused(served):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert httpx.request(method, served.url).status_code == 405
    assert httpx.get(f"{served.url}logout").status_code == 405
    with socket.create_connection(("127.0.0.1", httpx.URL(served.url).port), timeout=60) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert line.recv(4096)


@pytest.mark.parametrize("path", ["", "config", f"{API}info", "theme.css", "nowhere", f"{API}file=/etc/passwd"])
def test_every_answer_has_the_security_headers(served, path):
    headers = httpx.get(f"{served.url}{path}").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["referrer-policy"] == "same-origin"
    assert "object-src 'none'" in headers["content-security-policy"] or "sandbox" in headers["content-security-policy"]


def test_the_page_is_the_same_from_the_cache_and_a_query_changes_nothing(served):
    first = httpx.get(served.url)
    assert httpx.get(served.url).text == httpx.get(f"{served.url}?deep_link=x&page=y").text == first.text
    assert httpx.get(served.url, headers={"accept-encoding": "identity"}).text == first.text
    head = httpx.head(served.url)
    assert (head.status_code, head.text) == (200, "")


# -- other web pages --


def test_a_foreign_page_and_a_foreign_name_reach_nothing(served):
    room = {"host": f"{socket.gethostname()}:7860"}
    assert httpx.get(served.url, headers=room).status_code == 200
    assert httpx.get(served.url, headers={"host": "evil.example"}).status_code == 403
    read = httpx.get(served.url, headers={**room, "origin": "https://evil.example"})
    assert not [name for name in read.headers if name.startswith("access-control")]
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert httpx.options(f"{served.url}{API}upload", headers={**room, **asked}).status_code == 403
    file = {"files": ("a.json", b"{}")}
    foreign = {"origin": "https://evil.example"}
    assert httpx.post(f"{served.url}{API}upload", files=file, headers=foreign).status_code == 403
    own = {"origin": served.url.rstrip("/")}
    assert httpx.post(f"{served.url}{API}upload", files=file, headers=own).status_code == 200


# -- uploads --


def test_an_upload_says_its_length_and_stays_within_the_quota(served, gateway, monkeypatch):
    def pieces() -> Iterator[bytes]:
        yield b"--x\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert httpx.post(f"{served.url}{API}upload", content=pieces(), headers=headers).status_code == 411
    large = headers | {"content-length": "100000000000"}
    with socket.create_connection(("127.0.0.1", httpx.URL(served.url).port), timeout=60) as line:
        lines = "".join(f"{name}: {value}\r\n" for name, value in large.items())
        line.sendall(f"POST /{API}upload HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n".encode())
        assert b" 413 " in line.recv(4096)
    monkeypatch.setattr(module, "MOST_DISK", 0)
    assert httpx.post(f"{served.url}{API}upload", files={"files": ("a.json", b"{}")}).status_code == 507


def test_a_broken_upload_is_refused(served, gateway):
    before = set(gateway.folder.rglob("*"))
    for content in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", b"\0" * 9_000):
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = httpx.post(f"{served.url}{API}upload", content=content, headers=headers)
        assert answer.status_code < 500
    assert not [path for path in set(gateway.folder.rglob("*")) - before if path.is_file()]


# -- heartbeats and sessions --


def beat(served: Served, session: str) -> None:
    """Open and close a heartbeat."""
    with httpx.stream("GET", f"{served.url}{API}heartbeat/{session}", timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "data: ALIVE"


def until(true) -> bool:
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_only_a_session_that_ran_something_leaves_and_once(served, gateway, monkeypatch):
    left = []
    monkeypatch.setattr(served.page, "on_leave", left.append)
    for number in range(20):
        beat(served, f"nobody{number}")
    assert until(lambda: not gateway.pages)
    assert left == [] and "nobody1" not in gateway.app.state_holder
    models = number_of(served, "models")
    assert send(served, "queue/join", {"session_hash": "somebody", "fn_index": models, "data": []}).status_code == 200
    with httpx.stream("GET", f"{served.url}{API}heartbeat/somebody", timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        beat(served, "somebody")
        assert left == [], "a page of that session is still open"
    assert until(lambda: left == ["somebody"])
    assert "somebody" in gateway.app.state_holder, "a lost connection may return"
    monkeypatch.setattr(module, "LEFT_SECONDS", 0.0)
    assert until(lambda: "somebody" not in gateway.app.state_holder)


def test_a_session_costs_little_memory_and_few_are_kept(served, gateway):
    models = number_of(served, "models")
    assert send(served, "run/predict", {"session_hash": "small", "fn_index": models, "data": []}).status_code < 500
    assert send(served, "queue/join", {"session_hash": "small", "fn_index": models, "data": []}).status_code == 200
    assert not gateway.app.state_holder["small"].config_values
    assert gateway.app.state_holder.capacity == 300


def test_what_one_caller_without_a_session_writes_no_other_reads(served):
    results = number_of(served, "results")
    assert send(served, "run/predict", {"session_hash": "", "fn_index": results, "data": []}).status_code == 400


def test_one_session_has_one_run_waiting(served):
    unmask = number_of(served, "unmask")
    body = {"session_hash": "eager", "fn_index": unmask, "data": SMALL}
    with served.models.turn():
        answers = [send(served, "queue/join", body) for _ in range(1)]
        assert until(lambda: not served.page._queue.waiting())  # it runs, and waits for the model
        answers += [send(served, "queue/join", body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert "already have a run" in answers[-1].json()["detail"]


# -- connections --


async def never() -> Any:
    await asyncio.sleep(3600)


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.01)
    with pytest.raises(bodies.HTTPRefusal, match="did not arrive") as refused:
        finished(bodies.read_body(never, 10))
    assert refused.value.status == 408


def test_half_an_upload_is_broken_off(monkeypatch):
    async def half() -> list[str]:
        receive = bodies.hurried(never)
        return [(await receive())["type"]]

    monkeypatch.setattr(bodies, "UPLOAD_SECONDS", 0.01)
    assert finished(half()) == ["http.disconnect"]


def test_as_many_files_may_be_open_as_the_system_permits():
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    raise_file_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


def test_connections_without_a_request_are_closed_at_last():
    closed = []
    transport = SimpleNamespace(abort=lambda: closed.append(1))

    class Connection:
        def __init__(self, cycle: Any) -> None:
            self.cycle, self.transport = cycle, transport

    busy = Connection(SimpleNamespace(response_complete=False))
    silent = [Connection(None), Connection(SimpleNamespace(response_complete=True))]
    seen: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    close_silent([busy, *silent], seen, 0.0)
    assert not closed
    close_silent([busy, *silent], seen, SILENT_SECONDS + 1)
    assert len(closed) == 2
    crowd = [Connection(None) for _ in range(2_100)]
    close_silent([busy, *crowd], seen, SILENT_SECONDS + 1)
    assert len(closed) == 2 + 101, "too many, so the oldest go at once"


# -- with a password --


def login(locked: Served, password: str = "secret") -> httpx.Response:
    return httpx.post(f"{locked.url}login", data={"username": "room", "password": password})


def test_without_a_login_only_the_login_page_is_shown(locked):
    for path in NEEDS_LOGIN:
        assert httpx.get(f"{locked.url}{path}").status_code == 401, path
    for path in ("queue/join", "run/predict", "call/models", "cancel", "reset", "upload"):
        assert send(locked, path, {}).status_code == 401, path
    page = httpx.get(locked.url)
    assert page.status_code == 200 and "auth_required" in page.text
    assert httpx.get(f"{locked.url}theme.css").text == ""
    assert "/unmask" not in page.text and "toy-diffuapriel" not in page.text


@pytest.mark.parametrize("which", ["served", "locked"])
def test_every_page_has_its_title_and_a_served_icon_also_the_login_page(request, which):
    url = request.getfixturevalue(which).url
    head = httpx.get(url).text.partition("</head>")[0]
    assert head.count("<title>DiffuApriel</title>") == 1
    link = re.search(r'<link rel="icon" type="image/png" href="([^"]+)"', head)[1]
    assert not link.startswith("/"), "a proxy may serve the app below a path"
    icon = httpx.get(url + link)
    assert icon.status_code == 200 and icon.headers["content-type"] == "image/png"
    assert icon.content == ICON.read_bytes()


def test_guesses_are_slowed_and_a_login_is_not_counted_as_one(locked):
    statuses = [login(locked).status_code for _ in range(25)]
    assert set(statuses) == {200}
    statuses = [login(locked, "wrong").status_code for _ in range(25)]
    assert statuses[:20] == [400] * 20 and statuses[-1] == 429
    locked.page.app.gateway.callers = module.Callers()


def test_a_logout_ends_one_login_only_and_no_link_does_it(locked):
    first, second = httpx.Client(cookies=login(locked).cookies), httpx.Client(cookies=login(locked).cookies)
    assert first.get(f"{locked.url}logout").status_code == 405
    assert first.post(f"{locked.url}logout").status_code == 303
    assert first.get(f"{locked.url}config").status_code == 401
    assert second.get(f"{locked.url}config").status_code == 200


def test_the_login_cookie_is_for_this_app_s_pages_only(locked):
    cookies = login(locked).headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all(re.search("samesite=lax", cookie, re.IGNORECASE) for cookie in cookies)
