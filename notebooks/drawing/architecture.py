"""Diagrams of the denoiser: the Mamba block, AdaLN, the hybrid stack."""

from __future__ import annotations

from drawing.svg import SMALL, Picture


def mamba_block() -> Picture:
    picture = Picture(
        "mamba_block",
        "A Mamba-2 mixer",
        "in_proj makes the gate z, the inputs x, B and C, and the step dt. A short convolution and SiLU follow for x, "
        "B and C. The scan reads them; its output is multiplied by the gate, normalized, and goes through out_proj.",
        330,
    )
    picture.text(40, 196, "u", bold=True)
    picture.arrow((56, 190), (82, 190))
    picture.box(84, 84, 84, 212, "in_proj", "plain")
    picture.arrow((170, 110), (590, 110))
    picture.text(184, 100, "z, the gate", SMALL)
    picture.arrow((170, 190), (250, 190))
    picture.text(210, 180, "x, B, C", SMALL, at="middle")
    picture.box(252, 160, 130, 60, "convolution\nover 4, SiLU", "plain", size=SMALL)
    picture.arrow((384, 190), (426, 190))
    picture.arrow((170, 270), (478, 270), (478, 232))
    picture.text(184, 260, "dt = softplus(...)", SMALL)
    picture.box(428, 150, 100, 80, "scan", "mamba", bold=True)
    picture.arrow((530, 190), (590, 190))
    picture.text(560, 180, "y", SMALL, at="middle")
    picture.box(592, 84, 90, 140, "× SiLU(z)\nnorm", "plain", size=SMALL)
    picture.arrow((684, 154), (704, 154))
    picture.box(706, 114, 78, 80, "out_proj", "plain", size=SMALL)
    picture.text(542, 286, "h = exp(dt A) h + dt x B", SMALL, code=True)
    picture.text(542, 308, "y = C h + D x", SMALL, code=True)
    return picture


def adaln() -> Picture:
    picture = Picture(
        "adaln",
        "AdaLN: the noise level sets shift, scale and gate",
        "The noise level sigma becomes a vector, from which a linear layer makes shift, scale and gate of each "
        "sublayer. The normalized input is scaled and shifted before the mixer; the gate weighs its output.",
        300,
    )
    picture.box(40, 84, 130, 44, "noise level σ", "noise", size=SMALL)
    picture.arrow((172, 106), (218, 106))
    picture.box(220, 84, 150, 44, "sinusoids, MLP", "noise", size=SMALL)
    picture.arrow((372, 106), (408, 106))
    picture.box(410, 84, 340, 44, "linear layer: shift, scale, gate", "noise", size=SMALL)
    picture.text(40, 222, "x", bold=True)
    picture.arrow((58, 216), (98, 216))
    picture.box(100, 194, 80, 44, "norm", "plain", size=SMALL)
    picture.arrow((182, 216), (238, 216))
    picture.box(240, 194, 170, 44, "× (1 + scale) + shift", "noise", size=SMALL)
    picture.arrow((412, 216), (458, 216))
    picture.box(460, 194, 90, 44, "mixer", "mamba", size=SMALL)
    picture.arrow((552, 216), (588, 216))
    picture.box(590, 194, 80, 44, "× gate", "noise", size=SMALL)
    picture.arrow((672, 216), (714, 216))
    picture.text(724, 222, "+ x", bold=True)
    picture.arrow((450, 130), (450, 162), (325, 162), (325, 192), color="noise")
    picture.arrow((630, 130), (630, 192), color="noise")
    picture.text(40, 274, "A fresh gate is 0: at first each block does nothing.", SMALL, quiet=True)
    return picture


def hybrid() -> Picture:
    picture = Picture(
        "hybrid",
        "Three stacks of equal size",
        "DiffuApriel: twelve Mamba blocks. DiffuApriel-H: after every five Mamba blocks one attention block. "
        "DiffuTran: attention in every block.",
        390,
    )
    stacks = (
        ("DiffuApriel", ["mamba"] * 12, "linear in the length"),
        ("DiffuApriel-H", (["mamba"] * 5 + ["attention"]) * 2, "nearly linear, and look-up"),
        ("DiffuTran", ["attention"] * 12, "quadratic in the length"),
    )
    for column, (name, kinds, note) in enumerate(stacks):
        x = 40 + 256 * column
        picture.text(x, 72, name, bold=True)
        for i, kind in enumerate(kinds):
            picture.box(x, 320 - 21 * i, 150, 17, "", kind, solid=0.45)
        picture.text(x, 364, note, SMALL, quiet=True)
    for y, kind in ((102, "attention"), (165, "Mamba"), (229, "attention"), (291, "Mamba")):
        picture.text(454, y, kind, SMALL)
    return picture


DIAGRAMS = (mamba_block, adaln, hybrid)
