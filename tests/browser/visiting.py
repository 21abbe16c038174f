"""What every browser test of the whole app does: serve it, open it, see how it ended."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from app.strings.language import COOKIE
from tests.app.toys import toy_blocks, toy_checkpoints

if TYPE_CHECKING:
    from app.server.limits import Limits

PATIENCE_MS = 120_000  # a busy machine is no fault of the app
ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"


@contextmanager
def serving(
    folder: Path,
    limits: Limits | None = None,
    *,
    bundled: bool = True,
    blocks: bool = False,
    first: Sequence[str] = (),
) -> Iterator[str]:
    """The address of the app on two untrained nano checkpoints and, unless told otherwise, the bundled ones.

    blocks: an untrained model of blocks comes first. first: folders of models that come before all others.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from app.main import build, launch
    from app.server.models import Models
    from diffuapriel import checkpoint

    with pytest.MonkeyPatch.context() as patch:
        if not bundled:
            patch.setattr(checkpoint, "bundled", lambda: [])
        in_blocks = [toy_blocks(folder)] if blocks else []
        page = build(Models([*first, *in_blocks, *toy_checkpoints(folder)]), limits)
    yield launch(page)
    page.close(verbose=False)


def entered(new_page, address: str, scheme: str, width: int, **context) -> Page:
    """The open app, its canvas in sight."""
    expect.set_options(timeout=PATIENCE_MS)
    page = new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **context)
    page.goto(address)
    expect(page.locator("#unmask-player .da-token").first).to_be_visible()
    page.set_default_timeout(PATIENCE_MS)
    return page


def in_language(code: str) -> dict:
    """Options of `entered` with which the page is in a language."""
    cookie = {"name": COOKIE, "value": code, "domain": "127.0.0.1", "path": "/", "expires": -1, "sameSite": "Lax"}
    cookie |= {"httpOnly": False, "secure": False}
    return {"storage_state": {"cookies": [cookie], "origins": []}}


def keep_picture(page: Page, name: str) -> None:
    """No page is wider than its window, no chart of the app has a tool bar; DIFFUAPRIEL_PICTURES=1 keeps a picture."""
    if os.environ.get("DIFFUAPRIEL_PICTURES"):
        page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        f"{name}: the page is wider than the window"
    )
    expect(page.locator(".gradio-container .modebar:visible")).to_have_count(0)


def choose(page: Page, dropdown: str, name: str) -> None:
    """Choose an entry of an open tab's list; a trained model's size may stand behind its name."""
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=re.compile(rf"^{re.escape(name)}( · |$)")).click()
    expect(page.locator("li[role=option]")).to_have_count(0)  # tokens of a player are options too


def type_number(page: Page, label: str, value: int) -> None:
    """Type into the number beside a visible slider."""
    box = page.locator("input[type=number]:visible").and_(page.get_by_label(label)).first
    box.fill(str(value))
    box.press("Tab")
