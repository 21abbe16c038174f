"""What a recorded step does around the model's pass, in plain PyTorch: read the active blocks, then reveal tokens.

    begin     ids of the active block of each row, and whether it is committed: it is full, and not the last one
    reveal    fill masks of the canvas, by the scores of the rule; count the masks that are left; after a commit,
              those of the next block, which is then the active one

Twin: kernels.py, in five launches of its own kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import HEAD_ROWS
from diffuapriel.sampling.head import scores as head_scores
from diffuapriel.sampling.tokens import centered, pick, weights_


class Texts(NamedTuple):
    """What a step reads and changes, tensors at fixed addresses."""

    canvas: Tensor  # (B, L) int64
    status: Tensor  # (2, B) int64: the active block, and its masks
    count: Tensor  # (B,) int64: tokens to reveal, unless the rule decides
    uniform: Tensor  # (B, S) float64, for the draws
    bad_rows: Tensor  # () int64: masks whose logits were no distribution
    enabled: Tensor  # () bool: whether full blocks are committed

    @property
    def block_length(self) -> int:
        """S."""
        return self.uniform.shape[1]

    @property
    def blocks(self) -> int:
        """Of a text."""
        return self.canvas.shape[1] // self.block_length


class Rule(NamedTuple):
    """How tokens are chosen."""

    config: SamplerConfig
    mask_id: int
    most: int  # tokens that a step reveals in a row
    counted: bool  # whether `Texts.count` says how many; else `threshold` does


class Listed(NamedTuple):
    """All masks of the active blocks, row by row."""

    masks: Tensor  # (B S,) int32: where they are in the flat ids; what follows the last one is arbitrary
    offset: Tensor  # (B,) int64: where those of a row begin in the list
    total: Tensor  # (1,) int64


class Active(NamedTuple):
    """The active blocks."""

    ids: Tensor  # (B, S) int64
    commit: Tensor | None  # (B,) bool, or None: no block is committed
    listed: Listed | None = None  # for kernels.py


def begin(texts: Texts, rule: Rule, commits: bool) -> Active:
    """The blocks that a step is about. commits: whether some may be committed."""
    block, left = texts.status
    ids = texts.canvas.gather(1, _places(texts, block))
    commit = (left == 0) & (block < texts.blocks - 1) & texts.enabled if commits else None
    return Active(ids, commit)


def reveal(texts: Texts, rule: Rule, active: Active, x: Tensor, weight: Tensor) -> None:
    """Fill canvas, status and bad_rows from the head's inputs x (B S, d_model) and its weight."""
    block, _ = texts.status
    masked = active.ids == rule.mask_id
    tokens, chosen = _choose(texts, rule, masked, x, weight)
    texts.canvas.scatter_(1, _places(texts, block), torch.where(chosen, tokens, active.ids))
    if active.commit is not None:
        block = block + active.commit
    now = texts.canvas.gather(1, _places(texts, block))
    texts.status.copy_(torch.stack([block, (now == rule.mask_id).sum(1)]))


def _places(texts: Texts, block: Tensor) -> Tensor:
    S = texts.block_length
    return (block * S)[:, None] + torch.arange(S, device=block.device)


def _choose(texts: Texts, rule: Rule, masked: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and whether they are revealed now, (B, S) each."""
    config = rule.config
    found = head_scores.head_scores(x, weight, rule.mask_id, masked.new_full((1,), len(x), dtype=torch.int64))
    by = {"entropy": -found.entropy, "margin": found.margin}.get(config.strategy, found.probability)
    score = by.double().view_as(masked).masked_fill(~masked, -torch.inf)
    texts.bad_rows.add_((~by.isfinite().view_as(masked) & masked).sum())
    count = texts.count if rule.counted else (score >= config.threshold).sum(1).clamp(min=1)
    order = score.sort(dim=1, descending=True, stable=True).indices[:, : rule.most]
    ranks = torch.arange(order.shape[1], device=order.device)
    wanted = (ranks < count[:, None]) & masked.gather(1, order)
    if config.temperature == 0:
        tokens = found.best.view_as(masked).gather(1, order)
    else:
        rows = x.unflatten(0, masked.shape).gather(1, order[..., None].expand(-1, -1, x.shape[1])).flatten(0, 1)
        tokens = draw(rows, weight, texts.uniform.gather(1, order).flatten(), rule).view_as(order)
    empty = torch.zeros_like(masked, dtype=torch.int64)
    return empty.scatter(1, order, tokens), torch.zeros_like(masked).scatter(1, order, wanted)


def draw(rows: Tensor, weight: Tensor, uniform: Tensor, rule: Rule) -> Tensor:
    """(n,) tokens drawn from the head's inputs rows (n, d_model), with uniform (n,) float64."""
    tokens = []
    for row, u in zip(rows.split(HEAD_ROWS), uniform.split(HEAD_ROWS), strict=True):
        x, _ = centered(F.linear(row, weight), rule.mask_id)
        w = weights_(x.clone() if rule.config.temperature != 1 else x)
        tokens.append(pick(x, w, u, rule.config, None))
    return torch.cat(tokens)
