"""Headless Chromium for the tools that measure pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


class NoBrowser(Exception):
    """Playwright or Chromium is not installed; the message says how to get it."""


def find() -> str:
    """The path of Chromium or Chrome. Raises NoBrowser."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        raise NoBrowser("needs playwright: pip install playwright") from error
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise NoBrowser("no Chromium on the path (Debian: apt-get install chromium)")
    return path


@contextmanager
def open_tab(path: str, gpu: bool = False) -> Iterator[Page]:
    """A tab of 1280 x 900 pixels in the browser at `path`; with `gpu`, of a browser that may use one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", *([] if gpu else ["--disable-gpu"])]
        )
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()
