"""The teacher's page: a password of its own, who is where, a message to all, and results of lessons that report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest

from app.main import build, launch
from app.server.gateway.bodies import HTTPRefusal
from app.server.gateway.teacher import MOST_MESSAGE, MOST_RESULTS, Teacher
from app.server.models import Models
from diffuapriel.lessons.check import reports
from diffuapriel.lessons.check.verdict import checker, require

EVIL, PASSWORD = "<img src=x onerror=alert(1)>", "chalk:and cheese"
AUTH = ("teacher", PASSWORD)


@pytest.fixture(scope="module")
def url(checkpoints) -> Iterator[str]:
    page = build(Models(checkpoints))
    yield launch(page, auth=("room", "blackboard"), teacher_password=PASSWORD)
    page.close(verbose=False)


@pytest.fixture(scope="module")
def student(url) -> Iterator[httpx.Client]:
    """Logged in to the room."""
    with httpx.Client(base_url=url) as client:
        assert client.post("login", data={"username": "room", "password": "blackboard"}).status_code == 200
        yield client


def test_the_page_needs_its_own_password(url, student):
    for answer in (student.get("teacher"), httpx.get(f"{url}teacher/list", auth=("room", "blackboard"))):
        assert answer.status_code == 401 and "Basic" in answer.headers["www-authenticate"]
    assert httpx.get(f"{url}teacher", auth=AUTH).status_code == 200


def test_a_message_reaches_every_page_and_is_escaped_and_bounded():
    teacher = Teacher(PASSWORD)
    teacher.say(f"message={EVIL}  now".encode())
    assert teacher.message == f"{EVIL} now" and EVIL not in teacher.page()
    teacher.say(b"message=" + b"a" * 9999)
    assert len(teacher.message) == MOST_MESSAGE
    teacher.say(b"")
    assert teacher.message == ""


def test_the_form_sends_a_message_and_other_web_pages_cannot(url, student):
    said = {"data": {"message": "Look up, please"}, "auth": AUTH}
    foreign = httpx.post(f"{url}teacher", headers={"origin": "https://evil.example"}, **said)
    assert foreign.status_code == 403
    assert student.get("notice").json() == {"message": ""}
    sent = httpx.post(f"{url}teacher", **said)
    assert sent.status_code == 303
    assert student.get("notice").json() == {"message": "Look up, please"}
    assert httpx.get(f"{url}notice").status_code == 401


def test_reports_are_checked_kept_within_bounds_and_escaped():
    teacher = Teacher(PASSWORD)
    for bad in ({}, {"name": "a", "check": "b", "state": "maybe"}, {"name": "a" * 99, "check": "b", "state": "right"}):
        with pytest.raises(HTTPRefusal):
            teacher.take(bad)
    for n in range(MOST_RESULTS + 5):
        teacher.take({"name": f"{EVIL}{n % 3}", "check": "masking", "state": "right" if n % 2 else "wrong"})
    assert len(teacher.results) == MOST_RESULTS
    teacher.note("one", 5)
    running = SimpleNamespace(session_hash="one", alive=True)
    queue = SimpleNamespace(waiting=lambda: [SimpleNamespace(session_hash="two")], running=lambda: [running])
    shown = teacher.list(["one", "two"], queue, lambda handler: "Race" if handler == 5 else "")  # pyright: ignore
    assert "<td>1</td><td>Race</td><td>running</td>" in shown and "<td>waiting</td>" in shown
    assert EVIL not in shown and "&lt;img" in shown


def test_a_lesson_reports_only_to_an_address_that_the_student_gave(url, monkeypatch):
    sent = []
    monkeypatch.setattr("diffuapriel.lessons.progress.QUICK", True)  # keeps nothing among the reader's own results
    monkeypatch.setattr(reports.urllib.request, "urlopen", lambda *call, **_: sent.append(call) or httpx.Response(200))

    @checker
    def masking(answer):
        require(answer == 1, "one")

    assert masking(1) and not sent
    with pytest.raises(ValueError, match="http"):
        reports.report_to("file:///etc/passwd", "Mia")
    reports.report_to(f"{url}", "Mia")
    try:
        thread = reports.report("masking", "right")
        assert thread is not None
        thread.join(10)
        assert [request.full_url for (request,) in sent] == [f"{url}lesson"]
        body = json.loads(sent[0][0].data)
        assert body == {"name": "Mia", "check": "masking", "state": "right"}
        assert httpx.post(f"{url}lesson", json=body).status_code == 200
        assert httpx.post(f"{url}lesson", json={**body, "state": "x"}).status_code == 422
    finally:
        reports.report_to("")
    assert reports.report("masking", "right") is None


def test_guesses_are_slowed(url):
    guesses = [httpx.get(f"{url}teacher", auth=("t", f"{n}")).status_code for n in range(25)]
    assert guesses[0] == 401 and guesses[-1] == 429


def test_without_a_password_there_is_no_page(served):
    assert httpx.get(f"{served.url}teacher").status_code == 404
    assert httpx.post(f"{served.url}lesson", json={}).status_code == 404
    assert httpx.get(f"{served.url}notice").json() == {"message": ""}
