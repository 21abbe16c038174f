"""LM head and confidence scores in one Triton pass, without storing the logits.

Imports Triton, so `scores.head_scores` imports this module only on a GPU. Plain twin: `scores.plain_scores`.

A program takes a tile of rows and iterates over its share of the vocabulary, tile by tile: a matrix product gives the
logits of a tile, which are reduced to five numbers per row. A second kernel joins the shares, all of a row at once.

    peak      the largest logit                          exp(peak) / sum = probability of the best token
    total     sum of exp(logit - peak)                   log-sum-exp = peak + log(total)
    weighted  sum of exp(logit - peak) (logit - peak)    entropy = log(total) - weighted / total
    second    the second largest logit, equal to `peak` if two tokens tie
    best      id of the best token, the lowest id in a tie

Logits are accumulated in float32 and then rounded to the head's dtype, as on the plain path, so that logits that tie
there also tie here. Columns from mask_id on, [MASK] and padding, are not read.

For a draw the first kernel also keeps, of every tile of a row, the peak and the sum of exp((logit - peak) /
temperature): sampling/graphs/kernels.py chooses a tile by them, and computes the logits of that tile alone again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.launch import multiprocessors, precision

# Triton's kernel language is not typed like Python.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false


LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # below every logit but finite, so that differences are not NaN
MIN_SHARES = 8  # programs that read the same rows at the same time, from the cache
WAVES = 4  # programs per multiprocessor; with fewer, the last wave leaves most of them idle
JOIN_ROWS = 8  # rows per program of the second kernel: a sector of 32 bytes of each share


@triton.jit
def join(peak, total, weighted, second, best, peak2, total2, weighted2, second2, best2):
    """Combine the five numbers of two parts of the vocabulary, the left part first."""
    top = tl.maximum(peak, peak2)
    a, b = tl.exp2((peak - top) * LOG2E), tl.exp2((peak2 - top) * LOG2E)
    weighted = a * (weighted + (peak - top) * total) + b * (weighted2 + (peak2 - top) * total2)
    second = tl.maximum(tl.minimum(peak, peak2), tl.maximum(second, second2))
    best = tl.where(peak2 > peak, best2, best)
    return top, a * total + b * total2, weighted, second, best


@triton.jit
def shares_kernel(
    rows,  # (n, d_model)
    weight,  # (vocabulary, d_model)
    count,  # (1,) int64: rows to score; the rest is padding
    listed,  # (n,) int32: which rows those are, or None: the first ones
    numbers,  # (4, shares, n) float32: peak, total, weighted, second
    ids,  # (shares, n) int32: best
    drawing,  # (2, tiles of the vocabulary, n) float32: peak and sum of weights of each tile, or None
    n,
    mask_id,  # vocabulary size without [MASK]
    d_model,
    shares,
    tiles,  # of the vocabulary, per share
    inverse_temperature,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,  # whether DEPTH divides d_model
    COOL: tl.constexpr,  # whether the temperature of a draw is not 1
    PRECISION: tl.constexpr,
):
    """One tile of rows against one share of the vocabulary. Neighboring programs share their rows."""
    row_tile, share = tl.program_id(0) // shares, tl.program_id(0) % shares
    if row_tile * ROWS >= tl.load(count):
        return
    row = row_tile * ROWS + tl.arange(0, ROWS)
    inside = row < n
    source = tl.minimum(row, n - 1)
    if listed is not None:
        source = tl.load(listed + row, mask=row < tl.load(count), other=0)
    row_start = rows + source.to(tl.int64)[:, None] * d_model
    peak, second = tl.full((ROWS,), LOWEST, tl.float32), tl.full((ROWS,), LOWEST, tl.float32)
    total, weighted = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    best = tl.zeros((ROWS,), tl.int32)

    for tile in range(share * tiles, tl.minimum((share + 1) * tiles, tl.cdiv(mask_id, COLUMNS))):
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        column_start = weight + tl.minimum(column, mask_id - 1).to(tl.int64)[None, :] * d_model
        logits = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, d_model, DEPTH):
            inner = k + tl.arange(0, DEPTH)
            if EVEN:
                a, b = tl.load(row_start + inner[None, :]), tl.load(column_start + inner[:, None])
            else:
                a = tl.load(row_start + inner[None, :], mask=(inner < d_model)[None, :], other=0.0)
                b = tl.load(column_start + inner[:, None], mask=(inner < d_model)[:, None], other=0.0)
            logits = tl.dot(a, b, logits, input_precision=PRECISION)
        x = logits.to(rows.dtype.element_ty).to(tl.float32)
        x = tl.where((column < mask_id)[None, :], x, float("-inf"))

        top = tl.max(x, 1)
        w = tl.exp2((x - top[:, None]) * LOG2E)
        first = tl.min(tl.where(x == top[:, None], column[None, :], mask_id), 1)
        runner_up = tl.max(tl.where(column[None, :] == first[:, None], LOWEST, x), 1)
        # A token of weight 0 contributes 0; the bound keeps 0 * -inf from becoming NaN.
        share_of_entropy = tl.sum(w * tl.maximum(x - top[:, None], -1000.0), 1)
        peak, total, weighted, second, best = join(
            peak, total, weighted, second, best, top, tl.sum(w, 1), share_of_entropy, runner_up, first
        )
        if drawing is not None:
            cooled = tl.sum(w, 1)
            if COOL:
                cooled = tl.sum(tl.exp2((x - top[:, None]) * (inverse_temperature * LOG2E)), 1)
            tl.store(drawing + tile * n + row, top, mask=inside)
            tl.store(drawing + (tl.cdiv(mask_id, COLUMNS) + tile) * n + row, cooled, mask=inside)

    at = share * n + row
    tl.store(numbers + at, peak, mask=inside)
    tl.store(numbers + shares * n + at, total, mask=inside)
    tl.store(numbers + 2 * shares * n + at, weighted, mask=inside)
    tl.store(numbers + 3 * shares * n + at, second, mask=inside)
    tl.store(ids + at, best, mask=inside)


@triton.jit
def scores_kernel(
    numbers, ids, count, probability, entropy, margin, best_id, n, shares, ROWS: tl.constexpr, SHARES: tl.constexpr
):  # fmt: skip
    """Join the shares of a few rows and compute their scores."""
    row, share = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, SHARES)
    inside = row < tl.minimum(tl.load(count), n)
    both = (share < shares)[:, None] & inside[None, :]
    at = share[:, None] * n + row[None, :]
    peaks = tl.load(numbers + at, mask=both, other=LOWEST)  # (shares, rows)
    found = tl.load(ids + at, mask=both, other=2**30)
    peak = tl.max(peaks, 0)
    best = tl.min(tl.where(peaks == peak[None, :], found, 2**30), 0)
    seconds = tl.load(numbers + 3 * shares * n + at, mask=both, other=LOWEST)
    second = tl.max(tl.where(found == best[None, :], seconds, peaks), 0)
    scale = tl.exp2((peaks - peak[None, :]) * LOG2E)
    totals = tl.load(numbers + shares * n + at, mask=both, other=0.0)
    weighted = tl.load(numbers + 2 * shares * n + at, mask=both, other=0.0) + (peaks - peak[None, :]) * totals
    total, weighted = tl.sum(scale * totals, 0), tl.sum(scale * weighted, 0)
    tl.store(probability + row, 1 / total, mask=inside)
    tl.store(entropy + row, tl.log(total) - weighted / total, mask=inside)
    tl.store(margin + row, (1 - tl.exp2((second - peak) * LOG2E)) / total, mask=inside)
    tl.store(best_id + row, best.to(tl.int64), mask=inside)


class Tile(NamedTuple):
    """Rows and columns of a tile of logits, the step along d_model, and the launch's warps and pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


HOPPER = Tile(rows=128, columns=256, depth=64, warps=8, stages=4)  # 192 KB per block: data center cards only
AMPERE = Tile(rows=128, columns=128, depth=64, warps=8, stages=3)  # the wider tile spills registers
FEW = Tile(rows=64, columns=128, depth=64, warps=4, stages=4)  # bound by reading the weight
EXACT = Tile(rows=32, columns=64, depth=32, warps=4, stages=2)  # float32, without tensor cores


def kernel_scores(
    rows: Tensor,
    weight: Tensor,
    mask_id: int,
    count: Tensor,
    tile: Tile | None = None,
    *,
    listed: Tensor | None = None,
    temperature: float | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor | None]:
    """The fields of `scores.Scores` for each row; and, for a draw, the peak and the sum of the weights of every tile,
    (2, tiles, n) float32.

    Args:
        rows, weight: (n, d_model) and (mask_id or more, d_model), contiguous, both float32, bfloat16 or float16.
        count: (1,) int64 on the same device, the number of rows to score. The results of the others are arbitrary, and
            tiles without a row to score are skipped.
        listed: (n,) int32, which rows to score, in the order of the results; by default the first ones.
        temperature: above 0, of a draw; None if no token will be drawn.
    """
    n, d_model = rows.shape
    tile = tile or best_tile(rows)
    row_tiles, column_tiles = triton.cdiv(n, tile.rows), triton.cdiv(mask_id, tile.columns)
    shares = min(column_tiles, max(MIN_SHARES, triton.cdiv(WAVES * multiprocessors(rows.device), row_tiles)))
    tiles = triton.cdiv(column_tiles, shares)
    shares = triton.cdiv(column_tiles, tiles)  # every share has at least one tile
    numbers = rows.new_empty((4, shares, n), dtype=torch.float32)
    ids = rows.new_empty((shares, n), dtype=torch.int32)
    drawing = None if temperature is None else rows.new_empty((2, column_tiles, n), dtype=torch.float32)
    options = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    options |= {"EVEN": d_model % tile.depth == 0, "PRECISION": precision(rows.dtype)}
    options |= {"COOL": temperature not in (None, 1.0), "num_warps": tile.warps, "num_stages": tile.stages}
    sizes = n, mask_id, d_model, shares, tiles, 1 / (temperature or 1.0)
    results = numbers, ids, drawing
    shares_kernel[(row_tiles * shares,)](rows, weight, count, listed, *results, *sizes, **options)
    probability, entropy, margin = rows.new_empty((3, n), dtype=torch.float32)
    found = probability, entropy, margin, rows.new_empty((n,), dtype=torch.int64)
    joined = {"ROWS": JOIN_ROWS, "SHARES": triton.next_power_of_2(shares)}
    scores_kernel[(triton.cdiv(n, JOIN_ROWS),)](numbers, ids, count, *found, n, shares, **joined)
    return found, drawing


def best_tile(rows: Tensor) -> Tile:
    """The tile for these rows on their device."""
    if rows.dtype == torch.float32:
        return EXACT
    if len(rows) <= FEW.rows:
        return FEW
    major, _ = torch.cuda.get_device_capability(rows.device)
    return HOPPER if major in (9, 10) else AMPERE
