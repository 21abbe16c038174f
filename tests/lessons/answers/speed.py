"""Answers to the exercises of lesson 06: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch

# exponent


def by_tensors(lengths, ms):
    x, y = (torch.tensor(values).double().log() for values in (lengths, ms))
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x * x).sum()


def by_polyfit(lengths, ms):
    return float(np.polyfit(np.log2(lengths), np.log2(ms), 1)[0])


def by_statistics(lengths, ms):
    return statistics.linear_regression([math.log(n) for n in lengths], [math.log(t) for t in ms]).slope


def no_logarithms(lengths, ms):
    return float(np.polyfit(lengths, ms, 1)[0])


def only_the_ends(lengths, ms):
    return math.log(ms[-1] / ms[0]) / math.log(lengths[-1] / lengths[0])


def turned_round(lengths, ms):
    return float(np.polyfit(np.log(ms), np.log(lengths), 1)[0])


def through_the_origin(lengths, ms):
    x, y = np.log(lengths), np.log(ms)
    return float((x * y).sum() / (x * x).sum())


def different_bases(lengths, ms):
    return float(np.polyfit(np.log2(lengths), np.log(ms), 1)[0])


def mean_of_neighbors(lengths, ms):
    pairs = zip(lengths, lengths[1:], ms, ms[1:])
    return statistics.mean(math.log(t / s) / math.log(n / m) for m, n, s, t in pairs)


# crossing


def _bracket(lengths, a, b):
    return next(i for i in range(len(lengths) - 1) if (a[i] - b[i]) * (a[i + 1] - b[i + 1]) < 0)


def by_share(lengths, a, b):
    i = _bracket(lengths, a, b)
    g, h = math.log(a[i] / b[i]), math.log(a[i + 1] / b[i + 1])
    return math.exp(math.log(lengths[i]) + g / (g - h) * math.log(lengths[i + 1] / lengths[i]))


def by_interp(lengths, a, b):
    g = np.log(a) - np.log(b)
    if g[0] > 0:
        g = -g
    i = _bracket(lengths, a, b)
    return float(2 ** np.interp(0, g[i : i + 2], np.log2(lengths[i : i + 2])))


def on_plain_axes(lengths, a, b):
    i = _bracket(lengths, a, b)
    g, h = a[i] - b[i], a[i + 1] - b[i + 1]
    return lengths[i] + g / (g - h) * (lengths[i + 1] - lengths[i])


def plain_length(lengths, a, b):
    i = _bracket(lengths, a, b)
    g, h = math.log(a[i] / b[i]), math.log(a[i + 1] / b[i + 1])
    return lengths[i] + g / (g - h) * (lengths[i + 1] - lengths[i])


def from_the_longer(lengths, a, b):
    i = _bracket(lengths, a, b)
    g, h = math.log(a[i] / b[i]), math.log(a[i + 1] / b[i + 1])
    return math.exp(math.log(lengths[i + 1]) + g / (g - h) * math.log(lengths[i] / lengths[i + 1]))


def the_middle(lengths, a, b):
    i = _bracket(lengths, a, b)
    return math.sqrt(lengths[i] * lengths[i + 1])


def a_measured_one(lengths, a, b):
    return lengths[_bracket(lengths, a, b) + 1]


def log_of_it(lengths, a, b):
    return math.log(by_share(lengths, a, b))


RIGHT = {
    "exponent": [by_tensors, by_polyfit, by_statistics],
    "crossing": [by_share, by_interp],
    "attention_multiply_adds": [
        lambda d, L: 12 * d**2 + 2 * L * d,
        lambda d, L: 4 * d * d + d * 4 * d + 4 * d * d + L * (d + d),
    ],
}
WRONG = {
    "exponent": [
        no_logarithms,
        only_the_ends,
        turned_round,
        through_the_origin,
        different_bases,
        mean_of_neighbors,
    ],
    "crossing": [on_plain_axes, plain_length, from_the_longer, the_middle, a_measured_one, log_of_it],
    "attention_multiply_adds": [
        lambda d, L: 12 * d**2 + L * d,  # queries and keys, not the values
        lambda d, L: L * (12 * d**2 + 2 * L * d),  # of all tokens
        lambda d, L: 12 * d**2 + 2 * L**2 * d,
        lambda d, L: 8 * d**2 + 2 * L * d,  # the narrow MLP
        lambda d, L: 12 * d**2 + 4 * L * d,  # flops
        lambda d, L: 24 * d**2 + 2 * L * d,
    ],
}
