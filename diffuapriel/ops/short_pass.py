"""Convolution and scans of a short pass over blocks: one masked product per direction.

A row of such a pass is [committed | draft | a corrupted copy of the draft | blocks]; without a draft it is a plain
pass over finished blocks and the next one. Its tokens lie on many short paths that begin at one state: a committed
token or one of the draft follows those before it, a copy follows the tokens of the draft before its own, the first
block follows the committed tokens, and each further one a token of the draft more. With

    P        P_ij is 1 where j lies on the path that ends at i, i itself included, else 0
    l = P a  the logarithm of the decay along the path, a_j = A dt_j

the forward direction of all paths is, as in one chunk of the SSD (arXiv:2405.21060, section 6),

    y_i = sum over j of P_ij exp(l_i - l_j) (C_i . B_j) dt_j x_j  +  exp(l_i) h_0 C_i  +  D x_i

and the reverse one is the same without h_0, with the paths that run backwards within a block; a token of the draft is a
block of its own. A few dozen tokens are a product of a few dozen rows, for which a CPU needs less time than for the
steps of a chunked scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from diffuapriel.ops.recurrent import ScanInputs


class ShortPass(NamedTuple):
    """How many tokens of each kind a row has; the copy has as many as the draft.

    drafted: the tokens of each block at the end.
    block_length: of the committed tokens, of which the last block may be shorter, and 1 where there is a draft.
    """

    committed: int
    verified: int
    drafted: tuple[int, ...]
    block_length: int = 1

    @property
    def kept(self) -> slice:
        """The tokens that the state afterwards holds."""
        return slice(self.committed)

    def on_path(self, device: torch.device) -> Tensor:
        """`paths`, from a cache: every layer of a pass has the same."""
        return _paths(self, device)

    def neighbors(self, taps: int, device: torch.device) -> Tensor:
        """What the convolutions read, (2, taps, tokens): see `_neighbors`."""
        return _neighbors(self, taps, device)

    def history(self, taps: int) -> slice:
        """What the convolution reads before the next pass, of the history of this one and its tokens."""
        return slice(self.committed, self.committed + taps - 1)


@dataclass(frozen=True)
class GivenPaths:
    """What a `ShortPass` says, in tensors, so that one traced graph serves every pass (page/export.py)."""

    matrix: Tensor  # P of both directions, (2, tokens, tokens) bool
    table: Tensor  # of neighbors, (2, taps, tokens) int64
    kept: Tensor  # (committed,) int64
    before: Tensor  # (taps - 1,) int64, the history

    def on_path(self, device: torch.device) -> Tensor:
        return self.matrix

    def neighbors(self, taps: int, device: torch.device) -> Tensor:
        return self.table

    def history(self, taps: int) -> Tensor:
        return self.before


def paths(row: ShortPass, device: torch.device) -> Tensor:
    """P of both directions, (2, tokens, tokens) bool."""
    clean, end = row.committed + row.verified, row.committed + 2 * row.verified
    here = torch.arange(end + sum(row.drafted))
    sizes = torch.tensor([end, *row.drafted])
    number = torch.repeat_interleave(torch.arange(-1, len(row.drafted)), sizes)  # of a block
    is_clean, in_block, alone = here < clean, here >= end, torch.eye(len(here), dtype=torch.bool)
    last = torch.where(here < end, here - row.verified - 1, row.committed + number - 1).where(here >= clean, here)
    both = in_block[:, None] & (number[:, None] == number)
    forward = is_clean & (here <= last[:, None]) | alone | both & (here <= here[:, None])
    block = here // row.block_length
    both = both | (here < row.committed) & (block[:, None] == block)
    return torch.stack([forward, alone | both & (here >= here[:, None])]).to(device)


_paths = lru_cache(maxsize=64)(paths)


@lru_cache(maxsize=64)
def _neighbors(row: ShortPass, taps: int, device: torch.device) -> Tensor:
    """The token at each distance 0 .. taps - 1 back along a token's path, and ahead in its block, (2, taps, tokens).

    Numbers of the tokens, of the `taps` - 1 before the row, which come first, and of a zero, which comes last.
    """
    forward, reverse = _paths(row, torch.device("cpu"))
    found = []
    for rows, behind in ((forward, range(taps - 2, -1, -1)), (reverse.flip(0, 1), [])):
        for path in rows:
            on = (path.nonzero()[:, 0] + taps - 1).flip(0).tolist()
            found.append([*on, *behind][:taps])
    tokens, zero = len(forward), len(forward) + taps - 1
    ahead = [[tokens + 2 * (taps - 1) - 1 - n for n in path] for path in reversed(found[tokens:])]
    table = [path + [zero] * (taps - len(path)) for path in (*found[:tokens], *ahead)]
    return torch.tensor(table).view(2, tokens, taps).transpose(1, 2).contiguous().to(device)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, history: Tensor, row: ShortPass | GivenPaths
) -> tuple[Tensor, Tensor]:
    """The convolutions of both directions, and the history after the committed tokens.

    x (batch, tokens, 2, channels); weight (2, taps, channels), the last tap reads the token itself; bias (2, channels);
    history (batch, taps - 1, channels), what the forward direction reads before the row.
    """
    taps = weight.shape[1]
    bias, weight = bias.to(x.dtype), weight.to(x.dtype)
    back, ahead = x.unbind(2)
    back = torch.cat([history.to(x.dtype), back], dim=1)
    neighbors = row.neighbors(taps, x.device)
    results = []
    for direction, read in enumerate((back, torch.cat([torch.zeros_like(history, dtype=x.dtype), ahead], dim=1))):
        padded = torch.cat([read, read.new_zeros(len(read), 1, read.shape[2])], dim=1)
        taken = padded[:, neighbors[direction].flatten()].unflatten(1, (taps, -1))  # (batch, taps, tokens, channels)
        results.append((taken * weight[direction].flip(0)[:, None]).sum(1) + bias[direction])
    return torch.stack(results, dim=2), back[:, row.history(taps)]


def scan(inputs: ScanInputs, row: ShortPass | GivenPaths) -> tuple[Tensor, Tensor]:
    """Both directions over all paths, from `inputs.initial_state` (batch, heads, headdim, state) of the forward one.

    Returns y, shaped as x, and the forward state after the committed tokens.
    """
    x, dt, A, B, C, D, state = inputs
    on_path, groups = row.on_path(x.device), B.shape[3]
    exact = state.dtype
    heads = x.shape[3] // groups
    decay = dt * A  # (batch, tokens, 2, heads)
    along = torch.einsum("kij,bjkh->bkhi", on_path.to(exact), decay)  # l of the formula
    between = (along[..., :, None] - along[..., None, :]).masked_fill(~on_path[None, :, None], -torch.inf).exp()
    written = dt[..., None] * x.to(exact)  # (batch, tokens, 2, heads, headdim)
    keys, queries = (v.to(exact).permute(0, 2, 3, 1, 4) for v in (B, C))  # (batch, 2, groups, tokens, state)
    products = (queries @ keys.transpose(-1, -2)).repeat_interleave(heads, dim=2)  # (batch, 2, heads, tokens, tokens)
    y = (products * between) @ written.permute(0, 2, 3, 1, 4)  # (batch, 2, heads, tokens, headdim)
    query = queries[:, 0].repeat_interleave(heads, dim=1)
    y[:, 0] += along[:, 0, :, :, None].exp() * (query @ state.transpose(-1, -2))
    y = y.permute(0, 3, 1, 2, 4).to(x.dtype) + D[..., None].to(x.dtype) * x
    if isinstance(row, GivenPaths) or row.committed:
        if isinstance(row, GivenPaths):  # there may be no committed token
            end = decay[:, row.kept, 0].sum(1)[..., None]  # (batch, heads, 1)
        else:  # a sum would depend on the other rows of a batch, by rounding
            end = along[:, 0, :, row.committed - 1, None]
        left = (end - along[:, 0][..., row.kept]).exp()[..., None] * written[:, row.kept, 0].transpose(1, 2)
        key = keys[:, 0][:, :, row.kept].repeat_interleave(heads, dim=1)
        state = end[..., None].exp() * state + left.transpose(-1, -2) @ key
    return y, state
