"""A picture in SVG: boxes, arrows, rows of tokens and texts, on a card of its own.

The card makes a picture readable in any theme: light, or dark where the reader's system is dark. A picture has no
script and no font of its own, and asks nothing of the network. Units are pixels of a picture 800 wide.

Texts have two colors, `ink` and `quiet`; shapes have a color by meaning, and a pale filling of the same color.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from diffuapriel.charts.palette import ARCHITECTURES, OTHERS

WIDTH = 800
SMALL, NORMAL, LARGE = 15, 17, 20  # font sizes
THEMES = {
    "light": {"card": "#ffffff", "ink": "#1f2328", "quiet": "#4d555e"},
    "dark": {"card": "#161b22", "ink": "#e6edf3", "quiet": "#a3adb8"},
}
COLORS = {
    "mamba": ARCHITECTURES["diffuapriel"].color,
    "attention": ARCHITECTURES["diffutran"].color,
    "hybrid": ARCHITECTURES["diffuapriel-h"].color,
    "good": OTHERS[0].color,
    "noise": OTHERS[1].color,
    "plain": OTHERS[3].color,
}
FILLED = 0.18  # opacity of a filling
LINE = 1.25  # height of a line of text, in font sizes
STYLE = "".join(f".{name}{{stroke:{color};fill:{color}}}" for name, color in COLORS.items())


def _theme(name: str) -> str:
    colors = THEMES[name]
    return (
        f".card{{fill:{colors['card']}}}.ink{{fill:{colors['ink']}}}.quiet{{fill:{colors['quiet']}}}"
        f".line{{stroke:{colors['quiet']};fill:none}}.tip{{fill:{colors['quiet']}}}"
    )


class Picture:
    """A picture under construction. `name` is that of its file, `title` its heading, `words` what it shows."""

    def __init__(self, name: str, title: str, words: str, height: int) -> None:
        self.name, self.title, self.words, self.height = name, title, words, height
        self.parts: list[str] = []
        self.style = ""
        self.text(24, 34, title, LARGE, bold=True)

    def text(
        self, x: float, y: float, words: str, size: int = NORMAL, *, at: str = "start", quiet: bool = False,
        bold: bool = False, code: bool = False,
    ) -> None:  # fmt: skip
        """Lines of text; y is the base line of the first one. at: "start", "middle" or "end" of the line is at x."""
        kind = "quiet" if quiet else "ink"
        extra = (' font-weight="600"' if bold else "") + (' font-family="ui-monospace,monospace"' if code else "")
        for i, line in enumerate(words.split("\n")):
            place = f'x="{x:g}" y="{y + i * LINE * size:g}" font-size="{size}" text-anchor="{at}"'
            self.parts.append(f'<text class="{kind}" {place}{extra}>{html.escape(line)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, words: str = "", color: str = "plain",
        *, size: int = NORMAL, dashed: bool = False, solid: float = FILLED, extra: str = "", bold: bool = False,
    ) -> None:  # fmt: skip
        """A rectangle with centered text."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect class="{color}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
            f'fill-opacity="{solid:g}" stroke-width="1.6"{dash}{extra}/>'
        )
        if words:
            lines = words.count("\n")
            base = y + height / 2 + 0.36 * size - lines * LINE * size / 2
            self.text(x + width / 2, base, words, size, at="middle", bold=bold)

    def arrow(self, *points: tuple[float, float], color: str = "", dashed: bool = False) -> None:
        """A line through the points with a tip at the last one."""
        (x0, y0), (x1, y1) = points[-2:]
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        ends = [*points[:-1], (x1 - 8 * dx, y1 - 8 * dy)]
        self.line(*ends, color=color, dashed=dashed)
        corners = [(x1, y1), *((x1 - 10 * dx + s * 5 * dy, y1 - 10 * dy - s * 5 * dx) for s in (1, -1))]
        self.parts.append(f'<polygon class="{color or "tip"}" points="{_points(corners)}"/>')

    def line(self, *points: tuple[float, float], color: str = "", dashed: bool = False, width: float = 1.8) -> None:
        """A line through the points."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        kind = color or "line"
        self.parts.append(
            f'<polyline class="{kind}" style="fill:none" points="{_points(points)}" stroke-width="{width}"{dash}/>'
        )

    def dot(self, x: float, y: float, color: str, radius: float = 6) -> None:
        self.parts.append(f'<circle class="{color}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')

    def tokens(
        self, x: float, y: float, words: Sequence[str], width: float, *, height: float = 32, color: str = "mamba",
        gap: float = 6, size: int = SMALL,
    ) -> None:  # fmt: skip
        """A row of tokens; an empty word is a mask."""
        for i, word in enumerate(words):
            place = (x + i * (width + gap), y, width, height)
            if word:
                self.box(*place, word, color, size=size)
            else:
                self.box(*place, "?", "plain", size=size, dashed=True, solid=0.06)

    def render(self) -> str:
        """The file."""
        words = f"<title>{html.escape(self.title)}</title><desc>{html.escape(self.words)}</desc>"
        style = STYLE + _theme("light") + f"@media(prefers-color-scheme:dark){{{_theme('dark')}}}" + self.style
        size = f'viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" height="{self.height}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="system-ui,sans-serif">\n'
            f"{words}\n<style>{style}</style>\n"
            f'<rect class="card" width="{WIDTH}" height="{self.height}" rx="10"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
