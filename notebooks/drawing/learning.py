"""Diagrams of the later lessons: GPT beside diffusion, recall, learning from a verifier, the map of the course."""

from __future__ import annotations

from drawing.svg import SMALL, Picture

WORDS = ["Mia", "gave", "", "hat", "to", "Tom"]


def gpt() -> Picture:
    picture = Picture(
        "gpt",
        "What a prediction may read",
        "A GPT predicts the third token from the first two. A masked diffusion model predicts it from both sides.",
        270,
    )
    for row, (name, color, reach) in enumerate((("GPT", "attention", (0, 1)), ("diffusion", "mamba", (0, 1, 3, 4, 5)))):
        y = 84 + 92 * row
        picture.text(40, y + 22, name, bold=True)
        for i, word in enumerate(WORDS):
            place = (160 + 100 * i, y, 90, 34)
            if i == 2:
                picture.box(*place, "?", "plain", dashed=True, solid=0.06)
            elif i in reach:
                picture.box(*place, word, color)
            else:
                picture.box(*place, word, "plain", solid=0.04, dashed=True)
    picture.text(160, 142, "one new token per call, from the left", SMALL, quiet=True)
    picture.text(160, 234, "any number per call, in any order", SMALL, quiet=True)
    return picture


def recall() -> Picture:
    picture = Picture(
        "recall",
        "Recall: pairs first, questions later",
        "A row of key and value pairs, then keys alone whose values are asked for. Attention looks back at the pair; a "
        "state must hold all pairs.",
        280,
    )
    row = ["K", "7", "B", "2", "M", "9", "B", "?", "K", "?"]
    for i, word in enumerate(row):
        color = "plain" if word == "?" else "noise" if i % 2 == 0 else "mamba"
        picture.box(40 + 72 * i + (16 if i > 5 else 0), 84, 62, 40, word, color, dashed=word == "?")
    picture.text(250, 70, "pairs", SMALL, at="middle", quiet=True)
    picture.text(624, 70, "questions", SMALL, at="middle", quiet=True)
    picture.arrow((590, 128), (590, 160), (287, 160), (287, 128), color="attention")
    picture.text(440, 182, "attention looks the pair up", SMALL, at="middle")
    picture.box(40, 208, 350, 48, "a state holds all pairs in N × P numbers", "mamba", size=SMALL)
    picture.text(408, 238, "few pairs: exact; many: they mix", SMALL)
    return picture


def verifier() -> Picture:
    picture = Picture(
        "verifier",
        "Learning from a verifier",
        "The model writes a group of stories; tales.check gives each one a reward of 0 or 1; the advantage is the "
        "reward minus the group's mean; right stories become more probable and wrong ones less, a little per turn. The "
        "leash holds the model near the base model.",
        280,
    )
    picture.box(40, 90, 130, 60, "model", "mamba")
    picture.arrow((172, 120), (228, 120))
    picture.box(230, 90, 140, 60, "a group of\nstories", "plain", size=SMALL)
    picture.arrow((372, 120), (428, 120))
    picture.box(430, 90, 150, 60, "tales.check:\n0 or 1", "good", size=SMALL)
    picture.arrow((582, 120), (628, 120))
    picture.box(630, 90, 140, 60, "reward − mean\n= advantage", "noise", size=SMALL)
    picture.arrow((700, 152), (700, 200), (105, 200), (105, 152))
    picture.text(400, 192, "right: more probable, wrong: less; a little per turn", SMALL, at="middle")
    picture.box(40, 222, 130, 40, "base model", "plain", size=SMALL)
    picture.text(184, 248, "the leash: the divergence from it costs", SMALL, quiet=True)
    return picture


LESSONS = (
    ("00 Start", 40, 70), ("01 Diffusion", 40, 150), ("02 Mamba-2", 240, 70), ("03 Denoiser", 240, 150),
    ("04 Backbones", 440, 70), ("05 Unmasking", 40, 230), ("06 Speed", 440, 150), ("07 Quality", 240, 230),
    ("08 Your text", 440, 230), ("09 Blocks", 620, 70), ("10 GPT", 620, 126), ("11 Recall", 620, 182),
    ("12 Kernel", 620, 238), ("13 Verifier", 620, 294),
)  # fmt: skip


def course() -> Picture:
    picture = Picture(
        "course",
        "The course",
        "Lessons 00 to 08 are the base: 01 leads to 03, 05 and 07, 02 leads to 03 and 06, 03 leads to 04. Lessons 09, "
        "10 and 13 need 01; 09, 11 and 12 need 02.",
        360,
    )
    for name, x, y in LESSONS:
        picture.box(x, y, 140, 40, name, "mamba" if int(name[:2]) < 9 else "hybrid", size=SMALL)
    for start, end in (
        ((110, 112), (110, 148)), ((182, 170), (238, 170)), ((310, 112), (310, 148)), ((110, 192), (110, 228)),
        ((182, 250), (238, 250)), ((382, 250), (438, 250)), ((382, 160), (438, 100)), ((382, 90), (438, 150)),
    ):  # fmt: skip
        picture.arrow(start, end)
    picture.text(
        40, 334, "An arrow: is needed for. On the right: lessons to choose from after 01 to 03.", SMALL, quiet=True
    )
    return picture


DIAGRAMS = (gpt, recall, verifier, course)
