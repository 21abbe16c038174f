"""A room of visitors: the place in the queue in sight, a full queue said, a password asked for, a page in German."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import httpx
from playwright.sync_api import Page, expect

from app.server.limits import Limits
from tests.app.toys import toy_checkpoints
from tests.browser.visiting import PATIENCE_MS

pytestmark = pytest.mark.browser
Serve = Callable[..., SimpleNamespace]


@pytest.fixture
def serve(tmp_path) -> Iterator[Serve]:
    """Serve the app on two untrained nano checkpoints: limits for `build`, the rest for `launch`."""
    from app.main import build, launch
    from app.server.models import Models

    pages = []

    def start(limits=None, **options) -> SimpleNamespace:
        models = Models(toy_checkpoints(tmp_path))
        page = build(models, limits)
        pages.append(page)
        return SimpleNamespace(url=launch(page, **options), models=models)

    yield start
    for page in pages:
        page.close(verbose=False)


def join(served: SimpleNamespace, session: str) -> int:
    """Somebody else asks for a text; the answer is not read. Returns the HTTP status."""
    handlers = httpx.get(f"{served.url}config").json()["dependencies"]
    number = next(handler["id"] for handler in handlers if handler["api_name"] == "unmask")
    data = ["", "toy-diffuapriel", 8, 2, "low_confidence", 1.0, 0, 1.0, 0, 0, "prompt", 0.9]
    body = {"session_hash": session, "fn_index": number, "data": data}
    return httpx.post(f"{served.url}gradio_api/queue/join", json=body).status_code


def opened(page: Page, url: str) -> Page:
    expect.set_options(timeout=PATIENCE_MS)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    expect(page.locator("#unmask-player .da-token").first).to_be_visible()
    return page


def test_a_visitor_sees_the_place_in_the_queue_and_then_gets_a_turn(serve, page):
    served = serve(Limits(batch=1))
    opened(page, served.url)
    with served.models.turn():
        assert [join(served, name) for name in ("ada", "bob")] == [200, 200]
        page.locator("#unmask-run").click()
        expect(page.locator("#da-turn")).to_have_text("Your place in the queue: 2 of 2.")
        expect(page.locator("#da-turn")).to_be_in_viewport()
    expect(page.locator("#da-turn")).to_be_empty()
    expect(page.locator("#unmask-player .da-state")).to_contain_text(", 0 masks left")


def test_a_message_of_the_teacher_appears_on_the_page(serve, page):
    served = serve(teacher_password="chalk and cheese")
    opened(page, served.url)
    said = {"data": {"message": "Look up, <b>please</b>"}, "auth": ("teacher", "chalk and cheese")}
    assert httpx.post(f"{served.url}teacher", **said).status_code == 303
    expect(page.locator("#da-notice")).to_have_text("Look up, <b>please</b>")
    expect(page.locator("#da-notice b")).to_have_count(0)


def test_the_page_and_its_player_speak_german(serve, page):
    from app.strings.language import COOKIE

    served = serve()
    page.context.add_cookies([{"name": COOKIE, "value": "de", "url": served.url}])
    opened(page, served.url)
    for name in ("Aufdecken", "Rennen", "Innen", "Güte"):
        expect(page.get_by_role("tab", name=name)).to_be_visible()
    expect(page.locator("#unmask-player")).to_contain_text("Masken")
    expect(page.get_by_label("Text mit Lücken")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "de")


def test_a_password_is_asked_for_and_opens_the_page(serve, page):
    served = serve(auth=("room", "secret"))
    assert httpx.get(f"{served.url}config").status_code == 401
    assert httpx.get(f"{served.url}gradio_api/info").status_code == 401
    page.goto(served.url)
    page.get_by_label("username").fill("room")
    page.get_by_label("password").fill("secret")
    page.get_by_role("button", name="Login").click()
    expect(page.locator("#unmask-player .da-token").first).to_be_visible(timeout=PATIENCE_MS)
