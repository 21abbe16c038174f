"""What a recorded step does around the model's pass, in five launches. Plain twin: plain.py.

    begin_kernel     ids of the active blocks, who commits, and a list of all masks of the batch
    head/kernel.py   scores of the listed masks, two launches; without masks they end at once
    select_kernel    which masks are filled now, those of the best scores; their tokens at temperature 0; the new status
    draw_kernel      above temperature 0, a token for each of them, by the inverse of the cumulative sum

A draw reads the sums of the weights of every tile of the vocabulary, which the first kernel of the head keeps. It finds
the tile where their running sum passes u times the whole, in float64, and computes the logits of that tile again: about
a two-hundredth of the head. Filters of the vocabulary (top_k, top_p) need all logits of a row; then `plain.draw` does.

Imports Triton, so blocks.py imports it on a GPU only.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.sampling.graphs import plain
from diffuapriel.sampling.graphs.plain import Active, Listed, Rule, Texts
from diffuapriel.sampling.head.kernel import Tile, best_tile, kernel_scores

RANK_COLUMNS = 32  # scores that each score is compared with at a time
DRAW_DEPTH, DRAW_WARPS, DRAW_STAGES = 64, 8, 3


@triton.jit
def begin_kernel(
    canvas, status, enabled,
    ids,  # (B, S) int64
    commit,  # (B,) bool, or None
    listed,  # (B S,) int32
    offset,  # (B,) int64: where the masks of a row begin in the list
    total,  # (1,) int64
    length, batch, blocks, mask_id, S,
    PLACES: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Program (row)."""
    row, place, other = tl.program_id(0), tl.arange(0, PLACES), tl.arange(0, BATCH)
    block = tl.load(status + row)
    inside = place < S
    found = tl.load(canvas + row.to(tl.int64) * length + block * S + place, mask=inside, other=-1)
    tl.store(ids + row * S + place, found, mask=inside)
    masks = tl.load(status + batch + other, mask=other < batch, other=0)
    begin = tl.sum(tl.where(other < row, masks, 0), 0)
    masked = found == mask_id
    tl.store(listed + begin + tl.cumsum(masked.to(tl.int32), 0) - 1, row * S + place, mask=masked)
    tl.store(offset + row, begin)
    if row == 0:
        tl.store(total, tl.sum(masks, 0))
    if commit is not None:
        full = tl.load(status + batch + row) == 0
        tl.store(commit + row, full & (block < blocks - 1) & (tl.load(enabled) != 0))


@triton.jit
def select_kernel(
    score,  # (n,) float32, in the order of the list
    best,  # (n,) int64
    listed, offset, commit, count,
    canvas, status, bad_rows,
    chosen,  # (B, most) int32: the masks to fill, as indices of the list, best first, then -1; or None
    length, batch, mask_id, S, most,
    least,  # score that `threshold` reveals
    SIGN: tl.constexpr, COUNTED: tl.constexpr,
    PLACES: tl.constexpr, COLUMNS: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Program (row)."""
    row, j = tl.program_id(0), tl.arange(0, PLACES)
    block, left, begin = tl.load(status + row), tl.load(status + batch + row), tl.load(offset + row)
    canvas += row.to(tl.int64) * length
    have = j < left
    mine = SIGN * tl.load(score + begin + j, mask=have, other=0.0)
    fine = tl.abs(mine) < float("inf")  # not of NaN
    tl.atomic_add(bad_rows, tl.sum((have & (fine == 0)).to(tl.int64), 0))
    mine = tl.where(have & fine, mine, float("-inf"))
    if COUNTED:
        take = tl.load(count + row)
    else:
        take = tl.maximum(tl.sum((mine >= least).to(tl.int64), 0), 1)
    take = tl.minimum(take, left)
    rank = tl.zeros((PLACES,), tl.int32)
    for start in range(0, PLACES, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        theirs = SIGN * tl.load(score + begin + k, mask=k < left, other=0.0)
        theirs = tl.where((k < left) & (tl.abs(theirs) < float("inf")), theirs, float("-inf"))
        first = (theirs[None, :] == mine[:, None]) & (k[None, :] < j[:, None])
        rank += tl.sum(((theirs[None, :] > mine[:, None]) | first).to(tl.int32), 1)
    now = have & (rank < take)
    if chosen is None:
        place = tl.load(listed + begin + j, mask=now, other=0) - row * S
        tl.store(canvas + block * S + place, tl.load(best + begin + j, mask=now, other=0), mask=now)
    else:
        slot = tl.arange(0, MOST)
        tl.store(chosen + row * most + rank, (begin + j).to(tl.int32), mask=now)
        tl.store(chosen + row * most + slot, tl.full((MOST,), -1, tl.int32), mask=(slot >= take) & (slot < most))
    left -= take
    if commit is not None:
        committed = tl.load(commit + row).to(tl.int64)
        block += committed
        coming = tl.load(canvas + block * S + j, mask=j < S * committed, other=-1)
        left += tl.sum((coming == mask_id).to(tl.int64), 0)  # a row that is committed had none
        tl.store(status + row, block)
    tl.store(status + batch + row, left)


@triton.jit
def draw_kernel(
    rows, weight, drawing, listed, chosen, uniform, canvas, status,
    length, n, mask_id, d_model, S, most, inverse_temperature,
    TILES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (slot of `chosen`)."""
    mask = tl.load(chosen + tl.program_id(0))
    if mask < 0:
        return
    at = tl.load(listed + mask)
    u = tl.load(uniform + at)
    tile, tiles = tl.arange(0, TILES), tl.cdiv(mask_id, COLUMNS)
    peaks = tl.load(drawing + tile * n + mask, mask=tile < tiles, other=float("-inf"))
    sums = tl.load(drawing + (tiles + tile) * n + mask, mask=tile < tiles, other=0.0).to(tl.float64)
    sums *= tl.exp((peaks - tl.max(peaks, 0)).to(tl.float64) * inverse_temperature)
    until, whole = tl.cumsum(sums, 0), tl.sum(sums, 0)
    number = tl.sum((until <= u * whole).to(tl.int32), 0)  # tiles before the one that passes it
    number = tl.minimum(number, tl.max(tl.where(sums > 0, tile, 0), 0))  # the last that has weight, despite rounding
    before = tl.sum(tl.where(tile < number, sums, 0.0), 0)
    share = (u * whole - before) / tl.sum(tl.where(tile == number, sums, 0.0), 0)  # of this tile's sum

    column, logits = number * COLUMNS + tl.arange(0, COLUMNS), tl.zeros((COLUMNS,), tl.float32)
    column_start = weight + tl.minimum(column, mask_id - 1).to(tl.int64)[:, None] * d_model
    rows += at.to(tl.int64) * d_model
    for k in tl.range(0, d_model, DEPTH, num_stages=STAGES):
        inner = k + tl.arange(0, DEPTH)
        a = tl.load(rows + inner, mask=inner < d_model, other=0.0).to(tl.float32)
        b = tl.load(column_start + inner[None, :], mask=(inner < d_model)[None, :], other=0.0)
        logits += tl.sum(b.to(tl.float32) * a[None, :], 1)
    x = logits.to(rows.dtype.element_ty).to(tl.float32)
    x = tl.where(column < mask_id, x, float("-inf"))
    w = tl.exp((x - tl.max(x, 0)).to(tl.float64) * inverse_temperature)
    found = tl.sum((tl.cumsum(w, 0) <= share * tl.sum(w, 0)).to(tl.int32), 0)
    token = tl.minimum(number * COLUMNS + found, tl.max(tl.where(w > 0, column, 0), 0))
    row = at // S
    tl.store(canvas + row.to(tl.int64) * length + tl.load(status + row) * S + at % S, token.to(tl.int64))


def begin(texts: Texts, rule: Rule, commits: bool) -> Active:
    """As `plain.begin`."""
    (batch, length), S = texts.canvas.shape, texts.block_length
    new = texts.canvas.new_empty
    commit = new(batch, dtype=torch.bool) if commits else None
    listed = Listed(new(batch * S, dtype=torch.int32), new(batch), new(1))
    active = Active(new(batch, S), commit, listed)
    sizes = length, batch, texts.blocks, rule.mask_id, S
    powers = {"PLACES": triton.next_power_of_2(S), "BATCH": triton.next_power_of_2(batch)}
    begin_kernel[(batch,)](texts.canvas, texts.status, texts.enabled, *active[:2], *listed, *sizes, **powers)
    return active


def reveal(texts: Texts, rule: Rule, active: Active, x: Tensor, weight: Tensor, tile: Tile | None = None) -> None:
    """As `plain.reveal`."""
    config, (batch, length), S = rule.config, texts.canvas.shape, texts.block_length
    listed = active.listed
    assert listed is not None
    filters = config.top_k is not None or (config.top_p is not None and config.top_p < 1)
    draws = config.temperature > 0
    tile, x = tile or best_tile(x), x.contiguous()
    temperature = config.temperature if draws and not filters else None
    about = rule.mask_id, listed.total, tile
    scores, drawing = kernel_scores(x, weight, *about, listed=listed.masks, temperature=temperature)
    probability, entropy, margin, best = scores
    score = {"entropy": entropy, "margin": margin}.get(config.strategy, probability)
    chosen = listed.masks.new_empty(batch, rule.most) if draws else None
    read = listed.masks, listed.offset, active.commit, texts.count
    sizes = length, batch, rule.mask_id, S, rule.most, _at_least(config.threshold)
    places = triton.next_power_of_2(S)
    options = {"SIGN": -1 if config.strategy == "entropy" else 1, "COUNTED": rule.counted}
    options |= {"PLACES": places, "COLUMNS": min(RANK_COLUMNS, places), "MOST": triton.next_power_of_2(rule.most)}
    options |= {"num_warps": 4 if places <= 256 else 8}
    changed = texts.canvas, texts.status, texts.bad_rows
    select_kernel[(batch,)](score, best, *read, *changed, chosen, *sizes, **options)
    if chosen is not None and drawing is not None:
        _draw(texts, rule, listed.masks, x, weight, chosen, drawing, tile)
    elif chosen is not None:
        _draw_plainly(texts, rule, listed.masks, x, weight, chosen)


def _at_least(threshold: float) -> float:
    """The smallest float32 that is no less than the threshold: the kernel compares in float32."""
    least = np.float32(threshold)
    return float(least if float(least) >= threshold else np.nextafter(least, np.float32(np.inf)))


def _draw(
    texts: Texts, rule: Rule, masks: Tensor, x: Tensor, weight: Tensor, chosen: Tensor, drawing: Tensor, tile: Tile
) -> None:
    inputs = x, weight, drawing, masks, chosen, texts.uniform, texts.canvas, texts.status
    sizes = texts.canvas.shape[1], len(x), rule.mask_id, x.shape[1], texts.block_length, rule.most
    tiles = triton.cdiv(rule.mask_id, tile.columns)
    options = {"TILES": triton.next_power_of_2(tiles), "COLUMNS": tile.columns, "DEPTH": DRAW_DEPTH}
    options |= {"STAGES": DRAW_STAGES, "num_warps": DRAW_WARPS}
    draw_kernel[(chosen.numel(),)](*inputs, *sizes, 1 / rule.config.temperature, **options)


def _draw_plainly(texts: Texts, rule: Rule, masks: Tensor, x: Tensor, weight: Tensor, chosen: Tensor) -> None:
    """By `plain.draw`, from all logits of the chosen masks."""
    slots, S = chosen.flatten(), texts.block_length
    at = masks.index_select(0, slots.clamp(min=0).long()).long().clamp(0, len(x) - 1)  # the list may be empty
    tokens = plain.draw(x.index_select(0, at), weight, texts.uniform.flatten().index_select(0, at), rule)
    row, place = at // S, at % S
    flat = row * texts.canvas.shape[1] + texts.status[0, row] * S + place
    flat = torch.where(slots < 0, texts.canvas.numel(), flat)
    kept = torch.cat([texts.canvas.flatten(), slots.new_zeros(1, dtype=torch.int64)])  # unused slots write to its end
    texts.canvas.copy_(kept.scatter(0, flat, tokens)[:-1].view_as(texts.canvas))
