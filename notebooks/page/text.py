"""Markdown with formulas as HTML: TeX becomes MathML, which browsers draw by themselves, without a script."""

from __future__ import annotations

import html
import re

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
LESSON = re.compile(r"(?:\./)?(\d\d_\w+)\.ipynb(#.*)?")


def to_html(source: str, *, trusted: bool) -> str:
    """Markdown as HTML. What is not `trusted`, such as the output of a cell, keeps its tags as text."""
    return MarkdownWithMath(renderer=_Renderer(escape=not trusted)).render(source)


def to_mathml(tex: str, display: str = "inline") -> str:
    """A formula as a <math> element; one that cannot be read stays TeX."""
    tex = re.sub(r"\{aligned\}", "{align*}", html.unescape(tex).strip())
    try:
        made = convert(tex, display=display)
    except Exception:  # the library raises a class of its own for each kind of mistake
        return f"<code>{html.escape(tex)}</code>"
    return FUNCTION.sub(r'\1<mspace width="0.167em" />', made)  # log p, as TeX sets it


class _Renderer(IPythonRenderer):
    """Of a piece of Markdown; the names are mistune's."""

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def block_html(self, html: str) -> str:
        return super().block_html(html if self._escape else PARTS.sub(_formula, html))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to another lesson leads to its page."""
        return super().link(text, LESSON.sub(r"\1.html\2", url), title)


def _formula(part: re.Match[str]) -> str:
    if part[1]:
        return to_mathml(part[1], "block")
    return to_mathml(part[2]) if part[2] else part[0]
