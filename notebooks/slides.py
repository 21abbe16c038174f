"""The diagrams as slides, one HTML file that opens offline: lessons-html/slides.html, which `make lessons-html` writes.

Arrow keys, space and Page Up/Down move; so do a click and a swipe. Printed, it is a handout with a slide per page.
Only the slides: `python notebooks/slides.py` writes the same file without running a lesson.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from drawing import ALL
from drawing.svg import THEMES

PAGES = Path(__file__).resolve().parents[1] / "lessons-html"
SLIDES = {  # diagram: what to say, in the order of the course
    "course": ["Nine lessons are the base, five more are to choose from.", "Predict first, then run."],
    "process": ["Which token does the model fill first?", "The last row is all that the model starts from."],
    "weight": ["Why 1/t? Every token counts once, on average.", "Without it, the loss bounds nothing."],
    "mamba_block": [
        "Everything but the scan treats each token alone, or four of them.",
        "A, dt, B, C: what are they for?",
    ],
    "chunks": [
        "The recurrence and the matrix product are its two extremes.",
        "Only the state waits for the chunk before.",
    ],
    "staircase": [
        "A scan is attention without softmax, and with decay.",
        "So it can be folded into a state of fixed size.",
    ],
    "two_scans": ["A mask needs both sides.", "The packed form makes one call of two."],
    "adaln": ["How would the model know the noise level without it?", "It can count the masks."],
    "hybrid": ["One attention layer in six: what is it for?", "Lesson 11 measures the answer."],
    "samplers": ["Two families: faithful to the process, or greedy about positions.", "Only one takes tokens back."],
    "roofline": ["One short text: the weights are read for a few tokens.", "More rows cost nothing, up to a point."],
    "nelbo": ["What can training lower, and what can it not?", "The entropy of the tales is known exactly."],
    "blocks": ["The forward state is the past: nothing is lost.", "Why can a reverse scan not be kept?"],
    "gpt": ["Given both sides, a hole is an easier question.", "One token per call, or many."],
    "recall": ["How many pairs fit into a state?", "Attention looks back; what does it pay?"],
    "tiles": ["Which numbers do two programs share?", "Where would a program read without its mask?"],
    "kernel": ["Every number is read once and written once.", "The reverse scan is the same program."],
    "verifier": ["The reward says right or wrong, never how.", "A higher reward: what did it cost?"],
}
STYLE = f"""
:root {{ color-scheme: light dark; --card: {THEMES["light"]["card"]}; --ink: {THEMES["light"]["ink"]};
  --quiet: {THEMES["light"]["quiet"]}; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --card: {THEMES["dark"]["card"]}; --ink: {THEMES["dark"]["ink"]}; --quiet: {THEMES["dark"]["quiet"]}; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--card); color: var(--ink); font: 2.2vh/1.4 system-ui, sans-serif; }}
section {{ display: none; height: 100vh; padding: 4vh 6vw; flex-direction: column; justify-content: center; }}
section.now {{ display: flex; }}
img {{ width: 100%; max-height: 66vh; object-fit: contain; }}
h2, ul {{ margin: 2vh auto 0; padding: 0 0 0 1em; font-size: 3.4vh; max-width: 84vw; }}
h2 {{ position: absolute; left: -100vw; }}
li {{ margin: 1vh 0; }}
nav {{ position: fixed; right: 2vw; bottom: 2vh; color: var(--quiet); }}
@media print {{ section {{ display: flex; break-after: page; }} nav {{ display: none; }} }}
"""
SCRIPT = """
const slides = [...document.querySelectorAll("section")];
let now = 0;
function show(n) {
  now = Math.max(0, Math.min(slides.length - 1, n));
  slides.forEach((slide, i) => slide.classList.toggle("now", i === now));
  document.querySelector("nav").textContent = `${now + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${slides[now].id}`);
}
const moves = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
addEventListener("keydown", (e) => { if (moves[e.key]) { e.preventDefault(); show(now + moves[e.key]); } });
addEventListener("click", (e) => show(now + (e.clientX < innerWidth / 3 ? -1 : 1)));
addEventListener("hashchange", () => show(slides.findIndex((s) => `#${s.id}` === location.hash)));
show(slides.findIndex((s) => `#${s.id}` === location.hash));
"""


def page() -> str:
    """All slides, with the diagrams inside."""
    made = []
    for name, points in SLIDES.items():
        picture = ALL[name]
        data = base64.b64encode(picture.render().encode()).decode()
        items = "".join(f"<li>{html.escape(point)}</li>" for point in points)
        made.append(
            f'<section id="{name}"><h2>{html.escape(picture.title)}</h2>'
            f'<img alt="{html.escape(picture.words)}" src="data:image/svg+xml;base64,{data}"><ul>{items}</ul></section>'
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>DiffuApriel: slides</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(made)
        + f"\n<nav></nav>\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    (PAGES / "slides.html").write_text(page(), encoding="utf-8")
    print((PAGES / "slides.html").relative_to(PAGES.parent))


if __name__ == "__main__":
    main()
