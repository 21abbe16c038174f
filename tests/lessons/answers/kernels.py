"""Answers to the exercises of lesson 12: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch

from diffuapriel.lessons.tiles import language as tl

# load_rows


def with_addresses(start, rows, columns, row_stride, length):
    at = start + rows[:, None] * row_stride + columns[None, :]
    return tl.load(at, mask=(rows < length)[:, None], other=0.0)


def row_by_row(start, rows, columns, row_stride, length):
    first = start + rows * row_stride
    inside = rows[:, None] < length
    return tl.where(inside, tl.load(columns[None, :] + first[:, None], mask=inside), 0.0)


def without_a_mask(start, rows, columns, row_stride, length):
    return tl.load(start + rows[:, None] * row_stride + columns[None, :])


def rows_side_by_side(start, rows, columns, row_stride, length):
    return tl.load(start + rows[:, None] * 4 + columns[None, :], mask=(rows < length)[:, None], other=0.0)


def on_its_side(start, rows, columns, row_stride, length):
    return tl.load(start + rows[None, :] * row_stride + columns[:, None], mask=(rows < length)[None, :], other=0.0)


def one_row_too_many(start, rows, columns, row_stride, length):
    at = start + rows[:, None] * row_stride + columns[None, :]
    return tl.load(at, mask=(rows <= length)[:, None], other=0.0)


def mask_of_columns(start, rows, columns, row_stride, length):
    at = start + rows[:, None] * row_stride + columns[None, :]
    return tl.load(at, mask=(columns < length)[None, :], other=0.0)


def in_torch(start, rows, columns, row_stride, length):
    return torch.zeros(8, 4)


# scan_tile


def decays(s, rows):
    return tl.exp(tl.where(rows[:, None] >= rows[None, :], s[:, None] - s[None, :], float("-inf")))


def as_in_the_lesson(H, x, dt, B, C, rate, rows):
    s, s_end = tl.cumsum(dt * rate, 0), tl.sum(dt * rate, 0)
    written = dt[:, None] * x
    y = tl.dot(decays(s, rows) * tl.dot(C, tl.trans(B)), written) + tl.exp(s)[:, None] * tl.dot(C, H)
    return y, tl.exp(s_end) * H + tl.dot(tl.trans(B), tl.exp(s_end - s)[:, None] * written)


def step_in_the_matrix(H, x, dt, B, C, rate, rows):
    a = dt * rate
    s = a.cumsum(0)
    scores = tl.dot(C, B.trans()) * decays(s, rows) * dt[None, :]
    keys = B * (tl.exp(a.sum(0) - s) * dt)[:, None]
    return tl.dot(scores, x, tl.dot(C * tl.exp(s)[:, None], H)), tl.dot(keys.trans(), x, H * tl.exp(a.sum(0)))


def changed(**change):
    """The right answer with one mistake."""

    def answer(H, x, dt, B, C, rate, rows):
        s, s_end = tl.cumsum(dt * rate, 0), tl.sum(dt * rate, 0)
        written = x if "step" in change else dt[:, None] * x
        L = tl.exp(s[:, None] - s[None, :]) if "future" in change else decays(s, rows)
        L = decays(0 * s, rows) if "flat" in change else L
        L = tl.where(rows[:, None] > rows[None, :], L, 0.0) if "strict" in change else L
        before = tl.dot(C, H) if "unfaded" in change else tl.exp(s)[:, None] * tl.dot(C, H)
        y = tl.dot(L * tl.dot(C, tl.trans(B)), written)
        left = written if "left" in change else tl.exp(s_end - s)[:, None] * written
        old = H if "old" in change else tl.exp(s_end) * H
        return (y if "alone" in change else y + before), old + tl.dot(tl.trans(B), left)

    return answer


def last_by_its_number(H, x, dt, B, C, rate, rows):
    s = tl.cumsum(dt * rate, 0)
    return as_in_the_lesson(H, x, dt, B, C, rate, rows)[0], tl.exp(s[-1]) * H


def outputs_alone(H, x, dt, B, C, rate, rows):
    return as_in_the_lesson(H, x, dt, B, C, rate, rows)[0]


def before_the_mask(H, x, dt, B, C, rate, rows):
    if rows[0] > 0:
        return H, x
    return x, H


RIGHT = {
    "load_rows": [with_addresses, row_by_row],
    "scan_tile": [as_in_the_lesson, step_in_the_matrix],
    "walk": [
        lambda start, row_stride, length, reverse: (
            start + reverse * (length - 1) * row_stride,
            (1 - 2 * reverse) * row_stride,
        ),
        lambda start, row_stride, length, reverse: (
            start + row_stride * (length * reverse - reverse),
            row_stride - 2 * row_stride * reverse,
        ),
    ],
    "gated": [lambda y, z: y * z / (1 + tl.exp(-z)), lambda y, z: y * (z * tl.sigmoid(z))],
    "traffic": [
        lambda length, heads, P, N, bytes_each: bytes_each * heads * length * (3 * P + 2 * N + 1),
        lambda length, heads, P, N, bytes_each: (
            sum(heads * length * columns for columns in (P, P, N, N, 1, P)) * bytes_each
        ),
    ],
}
WRONG = {
    "load_rows": [
        without_a_mask,
        rows_side_by_side,
        on_its_side,
        one_row_too_many,
        mask_of_columns,
        in_torch,
        lambda start, rows, columns, row_stride, length: start + rows * row_stride,
    ],
    "scan_tile": [
        *(changed(**{name: True}) for name in ("step", "future", "flat", "strict", "unfaded", "left", "old", "alone")),
        last_by_its_number,
        outputs_alone,
        before_the_mask,
    ],
    "walk": [
        lambda start, row_stride, length, reverse: (start + reverse * length * row_stride, row_stride),
        lambda start, row_stride, length, reverse: (start + reverse * (length - 1), (1 - 2 * reverse) * row_stride),
        lambda start, row_stride, length, reverse: (start + reverse * (length - 1) * row_stride, row_stride),
        lambda start, row_stride, length, reverse: (start + (length - 1) * row_stride, -row_stride),
        lambda start, row_stride, length, reverse: (reverse * (length - 1) * row_stride, -row_stride),
        lambda start, row_stride, length, reverse: start,
    ],
    "gated": [
        lambda y, z: y * tl.sigmoid(z),
        lambda y, z: z * y * tl.sigmoid(y),
        lambda y, z: y * z / (1 + tl.exp(z)),
        lambda y, z: y * z,
        lambda y, z: y.value * torch.nn.functional.silu(z.value),
    ],
    "traffic": [
        lambda length, heads, P, N, bytes_each: heads * length * (3 * P + 2 * N + 1),
        lambda length, heads, P, N, bytes_each: bytes_each * heads * length * (2 * P + 2 * N + 1),
        lambda length, heads, P, N, bytes_each: bytes_each * heads * length * (3 * P + 2 * N),
        lambda length, heads, P, N, bytes_each: bytes_each * length * (heads * (3 * P + 1) + 2 * N),
        lambda length, heads, P, N, bytes_each: bytes_each * heads * length * (3 * P + 2 * N + 1 + P * N),
    ],
}
