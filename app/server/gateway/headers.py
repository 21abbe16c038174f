"""Headers that every answer gets: what a browser may do with the page, and who may embed it.

Gradio's page consists of inline scripts and styles and compiles templates, so both must be allowed; nothing may be
loaded from or sent to another machine. Files are shown without scripts.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

PAGE = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
FILE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'"
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def secure(headers: MutableHeaders, *, is_file: bool) -> None:
    """Add the headers; drop those for other origins, and keep the login cookie from them."""
    headers.update({**ALWAYS, "Content-Security-Policy": FILE if is_file else PAGE})
    cookies = headers.getlist("set-cookie")
    if cookies:
        del headers["set-cookie"]
        for cookie in cookies:
            headers.append("set-cookie", cookie.replace("SameSite=none", "SameSite=lax"))
