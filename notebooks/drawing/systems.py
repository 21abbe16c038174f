"""Diagrams of speed and memory: blocks and their cache, the roofline, a kernel and its grid."""

from __future__ import annotations

from drawing.svg import SMALL, Picture


def blocks() -> Picture:
    picture = Picture(
        "blocks",
        "Blocks, and a cache that is exact",
        "Two finished blocks, an active block with masks, and a block that is not begun. The forward state goes from "
        "the finished blocks into the active one; the reverse scan stays inside the active block.",
        330,
    )
    rows = (
        (["Tom", "lost", "his", "red"], "finished", "good"),
        (["kite", "in", "the", "sky"], "finished", "good"),
        (["", "Ann", "", ""], "active", "mamba"),
        (["", "", "", ""], "not begun", "plain"),
    )
    for b, (words, state, color) in enumerate(rows):
        x = 24 + 190 * b
        picture.tokens(x, 124, words, 40, gap=4, color=color)
        picture.text(x + 86, 84, f"block {b + 1}", SMALL, at="middle", bold=True)
        picture.text(x + 86, 106, state, SMALL, at="middle", quiet=True)
    for b in range(2):
        x = 24 + 190 * b
        picture.arrow((x, 178), (x + 172, 178), color="mamba")
        picture.arrow((x + 176, 178), (x + 188, 178), color="noise")
    picture.arrow((404, 178), (576, 178), color="mamba")
    picture.arrow((576, 202), (404, 202), color="hybrid")
    picture.text(24, 208, "forward state: all that is kept", SMALL)
    picture.text(490, 230, "reverse: inside the block only", SMALL, at="middle")
    picture.box(24, 252, 350, 50, "states: the same bytes at any length", "mamba", size=SMALL)
    picture.box(394, 252, 382, 50, "keys and values: bytes for every token", "attention", size=SMALL)
    return picture


def roofline() -> Picture:
    picture = Picture(
        "roofline",
        "A roofline: memory or arithmetic decides",
        "Attainable operations per second against operations per byte. A rising line, limited by memory, meets a flat "
        "line, limited by arithmetic. A single token lies on the rising part, a large batch on the flat one.",
        350,
    )
    picture.arrow((90, 300), (90, 70))
    picture.arrow((90, 300), (760, 300))
    picture.text(100, 82, "operations per second", SMALL, quiet=True)
    picture.text(752, 326, "operations per byte moved", SMALL, at="end", quiet=True)
    picture.line((90, 290), (400, 120), color="mamba", width=3)
    picture.line((400, 120), (740, 120), color="attention", width=3)
    picture.text(230, 150, "limited by\nmemory", SMALL, at="end")
    picture.text(570, 108, "limited by arithmetic", SMALL, at="middle")
    picture.dot(200, 230, "mamba")
    picture.text(218, 258, "one short text: weights\nread for few tokens", SMALL)
    picture.dot(600, 120, "attention")
    picture.text(600, 148, "long texts, many rows", SMALL, at="middle")
    picture.line((400, 120), (400, 300), dashed=True)
    picture.text(412, 200, "balance of the machine", SMALL, quiet=True)
    return picture


def kernel() -> Picture:
    picture = Picture(
        "kernel",
        "One program of the kernel: load, scan, gate, store",
        "A program loads one chunk of x, dt, B, C and z from memory, computes the chunk in fast memory with the state "
        "it holds, multiplies by the gate, and stores the output once. The state stays for the next chunk.",
        290,
    )
    picture.box(40, 70, 150, 150, "slow memory:\nx, dt, B, C, z", "plain", size=SMALL)
    picture.arrow((192, 110), (258, 110))
    picture.text(225, 100, "load", SMALL, at="middle")
    picture.box(260, 70, 340, 150, "", "mamba")
    picture.text(276, 94, "one program, in fast memory", SMALL, bold=True)
    picture.box(276, 110, 140, 44, "scan the chunk", "mamba", size=SMALL)
    picture.arrow((418, 132), (448, 132))
    picture.box(450, 110, 134, 44, "× SiLU(z)", "noise", size=SMALL)
    picture.box(276, 168, 140, 40, "state H", "noise", size=SMALL)
    picture.text(426, 194, "stays for the next", SMALL, quiet=True)
    picture.arrow((602, 132), (664, 132))
    picture.text(632, 122, "store", SMALL, at="middle")
    picture.box(666, 70, 110, 150, "slow\nmemory:\ny", "plain", size=SMALL)
    picture.text(40, 262, "In reverse: the same program, with negative strides.", SMALL, quiet=True)
    return picture


def tiles() -> Picture:
    picture = Picture(
        "tiles",
        "A grid of programs, and the tiles that each one walks",
        "Four programs read one text of 40 tokens: two heads, each ahead and backwards. Each walks three chunks of 16 "
        "tokens in its own order. Of the third chunk only eight tokens exist; the other eight are masked.",
        370,
    )
    for column in range(4):
        x, backwards = 120 + 135 * column, column % 2 == 1
        color = "hybrid" if backwards else "mamba"
        picture.text(x + 55, 66, f"head {column // 2}", SMALL, at="middle", bold=True)
        picture.text(x + 55, 86, "backwards" if backwards else "ahead", SMALL, at="middle", quiet=True)
        parts = [(130, 64, "1"), (194, 64, "2"), (258, 32, "3"), (290, 32, "")]
        for top, height, number in parts:
            y = 420 - top - height if backwards else top
            picture.box(x, y, 110, height, number, color if number else "plain", dashed=not number, size=SMALL)
        begin, end = (288, 132) if backwards else (132, 288)
        picture.arrow((x + 122, begin), (x + 122, end), color=color)
    picture.text(104, 142, "token 0", SMALL, at="end")
    picture.text(104, 290, "token 39", SMALL, at="end")
    picture.text(666, 160, "one column:\none program,\nits state H\nstays on chip", SMALL)
    picture.text(120, 350, "Dashed: beyond the text. A mask keeps the program from reading there.", SMALL, quiet=True)
    return picture


DIAGRAMS = (blocks, roofline, kernel, tiles)
