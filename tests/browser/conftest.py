"""Headless Chromium for the browser tests.

`new_page(**context)` opens a page in a context of its own (viewport, color_scheme, reduced_motion, ...); `page` is
one of ordinary size. Whatever a page does, its test fails if it wrote an error to the console, threw, or asked
anything of another machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright import sync_api

from tests.browser.visitor import Visitor

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Each window would load two pages of suggestions for its address bar, longer than most pages under test. The last
    # such list counts, so it also has what tests need of Playwright's own.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxFullPopup,WebUIOmniboxAimPopup,PaintHolding,HttpsUpgrades",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser on two busy cores now and then loses a race that has nothing to do with the page: two more tries.

    What fails three times fails. The summary counts the further tries ("rerun"), and `-rR` names their tests.
    """
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2))


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


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
    with closing(Visitor(browser)) as visitor:
        yield visitor.open
    visitor.complain()


@pytest.fixture
def page(new_page: Callable[..., sync_api.Page]) -> sync_api.Page:
    return new_page()
