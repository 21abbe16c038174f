"""Who opens pages, and holds against a test what they do wrong: errors, and questions to other machines."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright import sync_api

TIMEOUT_MS = 60_000


def stays_on_this_machine(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in ("127.0.0.1", "localhost")


class Visitor:
    """Opens pages, each in a context of its own, and notes what they do wrong."""

    def __init__(self, browser: sync_api.Browser) -> None:
        self.browser = browser
        self.contexts: list[sync_api.BrowserContext] = []
        self.faults: list[str] = []

    def open(self, **options) -> sync_api.Page:
        context = self.browser.new_context(**({"viewport": {"width": 1000, "height": 800}} | options))
        self.contexts.append(context)
        page, note = context.new_page(), self.faults.append
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda m: note(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: note(f"exception: {error}"))
        page.on("request", lambda r: None if stays_on_this_machine(r.url) else note(f"request: {r.url}"))
        return page

    def complain(self) -> None:
        """Fail for the faults since the last complaint."""
        faults = self.faults[:]
        self.faults.clear()
        assert not faults, "the page misbehaved:\n" + "\n".join(faults)

    def close(self) -> None:
        """Close all pages."""
        for context in self.contexts:
            context.close()
