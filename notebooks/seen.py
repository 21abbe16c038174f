"""What a teacher should see: numbers that the lessons print, with the range in which a full run of them lies.

`build.py` writes them as a table into TEACHING.md; tests/notebooks/test_claims.py holds them to the last full run. The
ranges lie around one full run (01, 05 and 13: several) and are wide enough for another processor. No number is a time.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Number(NamedTuple):
    """A number of a lesson: where it is printed, and between which ends it should be."""

    lesson: str
    what: str
    pattern: str  # its first group is the number; the first match in what the lesson prints
    low: float
    high: float


SEEN = (
    Number("01", "nats per story above the entropy, after training", r"excess +([\d.]+) nats per story", 0.3, 1.1),
    Number("02", "largest difference of the four views", r"largest difference (\S+)", 0, 1e-10),
    Number("03", "probability of a girl's name, one direction", r"one direction +girls ([\d.]+)", 0.4, 0.6),
    Number("03", "the same, both directions", r"both directions +girls ([\d.]+)", 0.97, 1),
    Number("03", "nats for the name, one direction (2.08 at best)", r"one direction +reached +([\d.]+)", 2.06, 2.2),
    Number("03", "the same, both directions (1.74 at best)", r"both directions +reached +([\d.]+)", 1.73, 1.85),
    Number("03", "cost of the worst lie about t, nats per mask", r"The worst lie costs ([\d.]+)", 0, 0.05),
    Number("04", "% by which the largest model exceeds the smallest", r"The largest is ([\d.]+)% larger", 0.5, 1),
    Number(
        "04", "nats per story after the race, DiffuApriel (entropy: 12.81)", r"\ndiffuapriel +seed 0: +([\d.]+)", 22, 33
    ),
    Number("04", "the same, DiffuTran", r"\ndiffutran +seed 0: +([\d.]+)", 32, 45),
    Number("04", "nats/token on real text, frequencies only", r"\nfrequencies +([\d.]+) nats/token", 4.8, 5.3),
    Number("04", "the same, DiffuApriel", r"\ndiffuapriel +([\d.]+) nats/token", 4.4, 4.9),
    Number("04", "% grammatical, DiffuTran without edges", r"\nno edges .*; +(\d+)% of its stories", 0, 20),
    Number("04", "the same, with edges", r"\nedges .*; +(\d+)% of its stories", 45, 90),
    Number("05", "% that two words agree, drawn in one call", r"\none call: .* probability (\d+)%", 38, 62),
    Number("05", "the same, in two calls", r"\ntwo calls: .* probability (\d+)%", 95, 100),
    Number("05", "% consistent at six calls, from masks only", r"\nno blocks +6.0 calls +(\d+) %", 10, 40),
    Number("05", "the same, with the end given", r"\nend given +6.0 calls +(\d+) %", 55, 85),
    Number("05", "% consistent, top-p 0.9, one token per call", r"\ntop_p +0.9 +(\d+) % consistent", 80, 100),
    Number("05", "entropy of the tokens, top-p 0.4 (true: 4.26)", r"\ntop_p +0.4 .* entropy ([\d.]+)", 2.5, 3.7),
    Number("05", "% mended of the planted mistakes", r"mistake planted +0 % before, +(\d+) % after", 85, 100),
    Number("05", "% of rare tokens, float32, 1,000 steps (50 is right)", r"float32: ([\d.]+)% rare", 1.7, 2.5),
    Number("05", "% consistent, ten calls", r"(\d+) % .* low_confidence, steps 10\n", 60, 90),
    Number("05", "the same, top-p 0.9", r"(\d+) % .* low_confidence, steps 10, top_p 0.9\n", 68, 97),
    Number(
        "06", "tokens at which both count the same multiply-adds", r"by counting: .* about ([\d,]+) tokens", 223, 223
    ),
    Number("06", "MB of one layer's attention tables at 8,192 tokens, if stored", r"would be ([\d,]+) MB", 1879, 1879),
    Number("06", "memory per token, DiffuApriel, in DiffuTran's", r"takes ([\d.]+) times DiffuTran's memory", 1.3, 2.8),
    Number("07", "% of intervals of 4 draws that contain the bound", r"\n +4 +(\d+)% ", 50, 70),
    Number("07", "sum of exp(-NELBO) over the toy texts", r"exp\(-NELBO\) sums to +([\d.]+)", 0.56, 0.58),
    Number("07", "nats/token, tales-diffuapriel", r"tales-diffuapriel\nNELBO +([\d.]+)", 0.33, 0.52),
    Number("07", "bits per byte, tales-diffuapriel", r"\ndiffuapriel +([\d.]+) bits per byte", 0.15, 0.24),
    Number("07", "the same, xz, 1,398 kB", r"\nxz, 1,398 kB +([\d.]+)", 1.05, 1.12),
    Number("07", "right endings of 50", r"\n(\d+) of 50 right", 41, 50),
    Number("07", "distinct-2, temperature 0", r"\nT = 0 +[\d.]+ +\d+% +([\d.]+)", 0.01, 0.08),
    Number("07", "nats of the dull writer's stories (entropy: 34.6)", r"\ndull .* exact cost ([\d.]+)", 28, 33),
    Number("08", "bits per byte, xz on all fables together", r"\nall +together ([\d.]+)", 2.55, 2.65),
    Number(
        "08", "bits per byte after training, training text", r"\ntraining +untrained .*, trained ([\d.]+), xz", 1.8, 2.1
    ),
    Number("08", "the same, twin", r"\ntwin +untrained .*, trained ([\d.]+), xz", 1.8, 2.15),
    Number("08", "the same, strangers", r"\nstrangers +untrained .*, trained ([\d.]+), xz", 2.05, 2.3),
    Number("08", "xz on the strangers, after the training text", r"\nstrangers .* training text ([\d.]+)", 2.3, 2.45),
    Number("08", "tokens of the longest copied run, samples, median", r"\nsamples +median (\d+)", 3, 7),
    Number("08", "the same, strangers", r"\nstrangers +median (\d+)", 4, 7),
    Number("09", "nats above the stories' own, S = 1", r"S =  1: +([\d.]+) nats above", 0.1, 0.35),
    Number("09", "the same, S = 12", r"S = 12: +([\d.]+) nats above", 0.6, 1.4),
    Number("09", "% consistent, S = 1", r"\n +1 +[\d.]+ +[\d.]+ +(\d+) %", 78, 97),
    Number("09", "% consistent, trained for S = 4, written with 12", r"written with S = 12: +(\d+) %", 0, 5),
    Number("09", "tokens at which cache and state weigh the same", r"equal at (\d+) tokens", 175, 175),
    Number("10", "nats above the stories' own, diffusion", r"diffusion +\+([\d.]+) nats per story", 0.7, 1.6),
    Number("10", "the same, left to right", r"left to right, Mamba +\+([\d.]+) nats per story", 0.15, 0.45),
    Number("10", "% of holes that fit, diffusion, one call", r"diffusion, one call +(\d+) %", 74, 94),
    Number("10", "the same, left to right, one call", r"left to right, one call +(\d+) %", 38, 60),
    Number("10", "the same, left to right, 40 calls", r"left to right, 40 calls +(\d+) %", 95, 100),
    Number("11", "% recalled by hand, N = 16, 64 pairs", r"N = 16, 64 pairs: (\d+) % recalled", 50, 66),
    Number("11", "% recalled, trained, Mamba with N = 4", r"Mamba, N = 4 +([\d.]+) % recalled", 12, 26),
    Number("11", "% recalled, trained, Mamba with N = 64", r"Mamba, N = 64 +([\d.]+) % recalled", 95, 100),
    Number("11", "% recalled, trained, hybrid with N = 4", r"hybrid, N = 4 +([\d.]+) % recalled", 98, 100),
    Number("12", "largest difference of the kernel from float64", r"largest difference (\S+) of", 0, 1e-5),
    Number("12", "bytes with flips, against strides", r"with flips: [\d,]+, ([\d.]+) times", 3, 3),
    Number("12", "bytes of PyTorch, against the kernel", r"PyTorch [\d.]+ MB: ([\d.]+) times", 8, 10),
    Number("13", "% consistent, half-trained", r"\nimitation +(\d+)% consistent", 25, 42),
    Number("13", "% consistent, rewarded", r"\nrewarded +(\d+)% consistent", 85, 100),
    Number(
        "13", "nats of true stories above their exact cost, half-trained", r"\nimitation +true .*? \+([\d.]+)", 1, 1.8
    ),
    Number("13", "the same, rewarded", r"\nrewarded +true .*? \+([\d.]+)", 18, 33),
    Number("13", "nats of the first word (true: 3.66), rewarded", r"\nrewarded .*first word ([\d.]+)", 1.8, 3.3),
    Number("13", "% consistent, leash 0.3", r"\nleash 0.3 +(\d+)% consistent", 53, 72),
    Number("13", "nats of true stories, leash 0.3", r"\nleash 0.3 +true .*? \+([\d.]+)", 3.8, 7),
    Number("13", "% consistent, leash 1.0", r"\nleash 1.0 +(\d+)% consistent", 40, 60),
    Number("13", "nats of true stories, leash 1.0", r"\nleash 1.0 +true .*? \+([\d.]+)", 1.7, 3),
    Number("13", "% consistent, right only", r"\nright only +(\d+)% consistent", 92, 100),
    Number("13", "nats of true stories, right only", r"\nright only +true .*? \+([\d.]+)", 7.5, 12),
)


def value(number: Number, printed: str) -> float:
    """The number in what a lesson printed. Raises ValueError where it is not printed."""
    if not (found := re.search(number.pattern, printed)):
        raise ValueError(f"lesson {number.lesson} prints nothing that matches {number.pattern}")
    return float(found[1].replace(",", ""))


def table() -> str:
    """The numbers as Markdown."""
    lines = ["| lesson | number | range |", "|---|---|---|"]
    for lesson, what, _, low, high in SEEN:
        ends = f"{low:g}" if low == high else f"below {high:g}" if low == 0 else f"{low:g} to {high:g}"
        lines.append(f"| {lesson} | {what} | {ends} |")
    return "\n".join(lines)
