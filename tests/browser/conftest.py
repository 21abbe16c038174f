"""Headless Chromium for the browser tests.

`new_page(**context)` opens a page in a context of its own (viewport, color_scheme, reduced_motion, ...); `page` is
one of ordinary size. Whatever a page does, its test fails if it wrote an error to the console, threw, or asked
anything of another machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TIMEOUT_MS = 60_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser on two busy cores now and then loses a race that has nothing to do with the page: one more try.

    What fails twice fails. The summary counts the second tries ("rerun").
    """
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def stays_on_this_machine(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in ("127.0.0.1", "localhost")


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on the path (Debian: apt-get install chromium; or set CHROMIUM=/path/to/it)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: sync_api.Browser) -> Iterator[Callable[..., sync_api.Page]]:
    contexts: list[sync_api.BrowserContext] = []
    faults: list[str] = []

    def open_page(**options) -> sync_api.Page:
        context = browser.new_context(**({"viewport": {"width": 1000, "height": 800}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
        page.on(
            "request", lambda r: None if stays_on_this_machine(r.url) else faults.append(f"request: {r.url}")
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, "the page misbehaved:\n" + "\n".join(faults)


@pytest.fixture
def page(new_page: Callable[..., sync_api.Page]) -> sync_api.Page:
    return new_page()
