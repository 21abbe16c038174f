"""Markdown with formulas as HTML: TeX becomes MathML, which browsers draw without a script."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# In raw HTML: code and tags, which stay as they are, or a formula between dollars.
PARTS = re.compile(
    r"<code\b.*?</code>|<pre\b.*?</pre>|<[^>]*>"
    r"|\$\$(.+?)\$\$"
    r"|(?<![\\$])\$(?!\s)(.+?)(?<![\\\s])\$",
    re.S,
)
FUNCTION = re.compile(r"(?<!<msub>)(?<!<msup>)(<mi>(?:log|ln|exp|max|min|sin|cos)</mi>)(?=<m(?!o))")
DIAGRAMS = Path(__file__).resolve().parents[1] / "diagrams"
DIAGRAM = re.compile(r"(?:\.\./)?diagrams/(\w+\.svg)")
LESSON = re.compile(r"(?:\./)?(\d\d_\w+)\.ipynb(#.*)?")


def to_html(source: str, *, trusted: bool) -> str:
    """Markdown as HTML. If it is not `trusted` (the output of a cell), its tags stay text."""
    return MarkdownWithMath(renderer=_Renderer(escape=not trusted)).render(source)


def to_mathml(tex: str, display: str = "inline") -> str:
    """A formula as a <math> element; a formula that cannot be parsed stays TeX."""
    tex = re.sub(r"\{aligned\}", "{align*}", html.unescape(tex).strip())
    try:
        made = convert(tex, display=display)
    except Exception:  # the library raises its own class for each kind of error
        return f"<code>{html.escape(tex)}</code>"
    return FUNCTION.sub(r'\1<mspace width="0.167em" />', made)  # log p, as TeX sets it


class _Renderer(IPythonRenderer):
    """Renders Markdown; mistune defines the method names."""

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def block_html(self, html: str) -> str:
        return super().block_html(html if self._escape else PARTS.sub(_formula, html))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to another lesson leads to its page; a file of the project, which is not beside it, is named only."""
        if url.startswith("../"):
            return f"<code>{html.escape(url.lstrip('./'))}</code>"
        return super().link(text, LESSON.sub(r"\1.html\2", url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A diagram is carried in the page."""
        found = DIAGRAM.fullmatch(url)
        if not found or self._escape:
            return super().image(text, url, title)
        data = base64.b64encode((DIAGRAMS / found[1]).read_bytes()).decode()
        return f'<img class="lesson-diagram" alt="{html.escape(text)}" src="data:image/svg+xml;base64,{data}">'


def _formula(part: re.Match[str]) -> str:
    if part[1]:
        return to_mathml(part[1], "block")
    return to_mathml(part[2]) if part[2] else part[0]
