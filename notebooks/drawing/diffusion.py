"""Diagrams of masked diffusion: the process, the weight, the samplers, the parts of the bound."""

from __future__ import annotations

from drawing.svg import SMALL, Picture

STORY = ["Mia", "lost", "her", "red", "ball", "in", "the", "park"]
HIDDEN = {0.25: {3, 6}, 0.5: {0, 3, 4, 6}, 0.75: {0, 1, 3, 4, 6, 7}, 1.0: set(range(8))}


def process() -> Picture:
    picture = Picture(
        "process",
        "Noise hides tokens, the model brings them back",
        "Five rows of the same sentence, from time 0 with every token visible to time 1 with masks only. The forward "
        "process leads down, the reverse process leads up.",
        330,
    )
    for row, t in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        y = 62 + 50 * row
        picture.text(62, y + 22, f"t = {t:g}", SMALL, quiet=True, at="middle")
        words = ["" if i in HIDDEN.get(t, set()) else word for i, word in enumerate(STORY)]
        picture.tokens(116, y, words, 58)
    picture.arrow((650, 70), (650, 290), color="noise")
    picture.text(664, 156, "forward:\nhide each with\nprobability t", SMALL)
    picture.arrow((782, 290), (782, 70), color="mamba")
    picture.text(664, 250, "reverse:\nthe model fills", SMALL)
    return picture


def weight() -> Picture:
    picture = Picture(
        "weight",
        "A mask stands for all tokens like it: weight 1/t",
        "At time 0.25, 2 of 8 tokens are masked and each counts 4 times; at 0.5, 4 count twice; at 1, 8 count once. "
        "Each row adds up to 8.",
        250,
    )
    picture.text(700, 66, "masks × weight", SMALL, at="middle", quiet=True)
    for row, (t, masks) in enumerate(((0.25, {3, 6}), (0.5, {0, 3, 4, 6}), (1.0, set(range(8))))):
        y = 78 + 54 * row
        picture.text(58, y + 22, f"t = {t:g}", SMALL, quiet=True, at="middle")
        picture.tokens(110, y, ["" if i in masks else word for i, word in enumerate(STORY)], 58)
        picture.text(700, y + 22, f"{len(masks)} × {1 / t:g} = 8", at="middle")
    return picture


SAMPLERS = {  # name: x, y and color; right of x = 440 are those that look at the probabilities
    "random": (40, 84, "noise"),
    "ancestral": (40, 142, "noise"),
    "first_hitting": (40, 200, "noise"),
    "remdm": (40, 306, "noise"),
    "low_confidence": (460, 84, "mamba"),
    "entropy": (460, 142, "mamba"),
    "margin": (624, 142, "mamba"),
    "threshold": (460, 200, "mamba"),
}
NOTES = {
    "random": "a fixed number, anywhere",
    "ancestral": "each, with one probability",
    "first_hitting": "one per call",
    "remdm": "as ancestral, and may mask again",
    "threshold": "all sure enough",
}


def samplers() -> Picture:
    picture = Picture(
        "samplers",
        "Eight samplers on a map",
        "Left: random, ancestral, first_hitting and remdm do not look at the probabilities to choose a position. "
        "Right: low_confidence, entropy, margin and threshold do. Only remdm takes tokens back.",
        372,
    )
    picture.text(40, 70, "do not look at the probabilities", SMALL, quiet=True)
    picture.text(460, 70, "fill where the model is sure", SMALL, quiet=True)
    picture.line((440, 58), (440, 250), dashed=True)
    picture.line((30, 262), (770, 262), dashed=True)
    picture.text(460, 288, "above this line: what is filled stays", SMALL, quiet=True)
    for name, (x, y, color) in SAMPLERS.items():
        wide = 150
        picture.box(x, y, wide, 40, name, color, size=SMALL)
        picture.text(x + wide + 14, y + 26, NOTES.get(name, ""), SMALL)
    picture.text(624, 110, "a fixed number", SMALL)
    return picture


def nelbo() -> Picture:
    picture = Picture(
        "nelbo",
        "What the bound is made of",
        "A bar in three parts: the entropy of the text, which no model can beat; the error of the model; and the "
        "looseness of the bound. An interval of the estimate is at its end.",
        240,
    )
    picture.box(40, 92, 440, 56, "entropy of the text", "plain")
    picture.box(480, 92, 120, 56, "model's\nerror", "mamba", size=SMALL)
    picture.box(600, 92, 110, 56, "looseness", "noise", size=SMALL)
    picture.text(40, 76, "0 nats", SMALL, quiet=True)
    picture.line((690, 76), (730, 76), color="attention")
    picture.line((690, 68), (690, 84), color="attention")
    picture.line((730, 68), (730, 84), color="attention")
    picture.text(680, 80, "95 % of estimates", SMALL, at="end", quiet=True)
    picture.text(260, 176, "no model can be below it", SMALL, at="middle")
    picture.text(540, 176, "training", SMALL, at="middle")
    picture.text(655, 176, "order of filling", SMALL, at="middle")
    picture.line((480, 204), (710, 204))
    picture.line((480, 196), (480, 204))
    picture.line((710, 196), (710, 204))
    picture.text(595, 226, "excess", SMALL, at="middle", quiet=True)
    return picture


DIAGRAMS = (process, weight, samplers, nelbo)
