"""Diagrams of the scan: two directions and the packed form, chunks with the carried state, L beside attention."""

from __future__ import annotations

import math

from drawing.svg import SMALL, Picture

WORDS = ["Tom", "gave", "the", "key", "to", "Ann"]


def two_scans() -> Picture:
    picture = Picture(
        "two_scans",
        "Two scans over one row, and one packed call",
        "A row of six tokens with an arrow from left to right above and one from right to left below; their outputs "
        "are added. On the right the packed form: one batch with both directions as two groups of heads.",
        320,
    )
    picture.tokens(40, 146, WORDS, 60)
    picture.arrow((44, 108), (436, 108), color="mamba")
    picture.text(44, 96, "forward: knows what came before", SMALL)
    picture.arrow((436, 216), (44, 216), color="hybrid")
    picture.text(44, 242, "reverse: knows what comes after", SMALL)
    picture.text(44, 280, "y = forward + reverse; nothing is flipped", SMALL, quiet=True)
    picture.line((478, 62), (478, 290), dashed=True)
    picture.text(500, 80, "packed form", bold=True)
    picture.box(500, 100, 260, 36, "one in_proj", "plain", size=SMALL)
    picture.box(500, 162, 124, 48, "heads of\nforward", "mamba", size=SMALL)
    picture.box(636, 162, 124, 48, "heads of\nreverse", "hybrid", size=SMALL)
    picture.box(500, 236, 260, 36, "one out_proj adds them", "plain", size=SMALL)
    for x in (562, 698):
        picture.arrow((x, 138), (x, 160))
        picture.arrow((x, 212), (x, 234))
    return picture


def chunks() -> Picture:
    picture = Picture(
        "chunks",
        "Chunks: much work side by side, one small state handed on",
        "Four chunks of four tokens. Inside each, a small triangle of products is computed for all chunks at once. "
        "Then a state moves from chunk to chunk, from left to right.",
        300,
    )
    for c in range(4):
        x = 40 + 184 * c
        picture.tokens(x, 62, ["x"] * 4, 34, gap=4, height=28)
        for row in range(4):
            for column in range(row + 1):
                picture.box(x + 38 * column, 104 + 22 * row, 34, 18, "", "mamba", solid=0.3)
        picture.text(x + 152, 122, f"chunk {c + 1}", SMALL, at="end", quiet=True)
        place = (x + 40, 212, 72, 36, "state H", "noise")
        picture.box(*place, size=SMALL, extra=f' id="h{c + 1}"')
        if c < 3:
            picture.arrow((x + 114, 230), (x + 222, 230), color="noise")
    picture.text(400, 282, "all triangles at once; only H waits for the chunk before", SMALL, at="middle", quiet=True)
    frames = (
        "".join(f"#h{c + 1}{{animation:pulse 4s {c}s infinite}}" for c in range(4))
        + "@keyframes pulse{0%{fill-opacity:.18}5%{fill-opacity:.75}25%{fill-opacity:.18}}"
    )
    picture.style = f"@media(prefers-reduced-motion:no-preference){{{frames}}}"
    return picture


def staircase() -> Picture:
    picture = Picture(
        "staircase",
        "The same scan as a matrix, beside attention's",
        "Left: the matrix L of a forward scan, a lower triangle that fades with distance. Middle: with the reverse "
        "scan, both triangles. Right: attention has every entry, chosen by content.",
        330,
    )
    size, n = 25, 8
    for panel, (title, color) in enumerate(
        (("forward scan: L", "mamba"), ("both scans", "mamba"), ("attention", "attention"))
    ):
        x0 = 40 + 256 * panel
        picture.text(x0, 74, title, bold=True)
        for t in range(n):
            for u in range(n):
                if panel == 0 and u > t:
                    continue
                share = math.exp(-abs(t - u) / 2.2) if panel < 2 else (0.25 + 0.75 * ((5 * t + 3 * u) % 7 == 0))
                place = (x0 + u * size, 88 + t * size, size - 3, size - 3)
                picture.box(*place, "", color, solid=round(0.85 * share, 2))
    for panel, words in enumerate(("fades with distance", "first and last see all", "chosen by content")):
        picture.text(40 + 256 * panel, 312, words, SMALL, quiet=True)
    return picture


DIAGRAMS = (two_scans, chunks, staircase)
