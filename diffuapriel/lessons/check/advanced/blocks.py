"""Lesson 09: the state as a cache, a reverse scan in blocks, the bound of a block model, the bytes of a KV cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor

__all__ = ["block_bound", "kv_bytes", "read_block", "reverse_in_blocks"]

P, N, S = 3, 4, 5
A = torch.tensor(-0.3, dtype=torch.float64)


def _read_block(H: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(len(x)):
        H = torch.exp(dt[t] * A) * H + dt[t] * torch.outer(x[t], B[t])
        outputs.append(H @ C[t])
    return torch.stack(outputs), H


def _reverse(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    start = x.new_zeros(x.shape[1], B.shape[1])
    return _read_block(start, x.flip(0), dt.flip(0), A, B.flip(0), C.flip(0))[0].flip(0)


def _reverse_in_blocks(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, S: int) -> Tensor:
    blocks = [slice(i, i + S) for i in range(0, len(x), S)]
    return torch.cat([_reverse(x[b], dt[b], A, B[b], C[b]) for b in blocks])


def _block_bound(nll: Tensor, masked: Tensor) -> Tensor:
    return (nll.shape[2] / masked.sum(2) * nll.sum(2)).sum(1)


def _kv_bytes(tokens: int, layers: int, d_model: int, bytes_each: int) -> int:
    return 2 * layers * tokens * d_model * bytes_each


OURS = {
    "read_block": _read_block,
    "reverse_in_blocks": _reverse_in_blocks,
    "block_bound": _block_bound,
    "kv_bytes": _kv_bytes,
}


def _head(length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, dt, B and C of one head."""
    draw = torch.Generator().manual_seed(seed)
    x, B, C = (torch.randn(length, n, generator=draw, dtype=torch.float64) for n in (P, N, N))
    return x, torch.rand(length, generator=draw, dtype=torch.float64) + 0.1, B, C


@checker
def read_block(answer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """`answer(H, x, dt, A, B, C)`: outputs (S, P) and the state (P, N) after the block."""
    x, dt, B, C = _head(S, seed=1)
    zero, H = torch.zeros(P, N, dtype=torch.float64), torch.randn(P, N, dtype=torch.float64)
    for start, what in ((zero, "from a state of zero"), (H, "from a state that is not zero")):
        got = run(answer, start, x, dt, A, B, C)
        require(isinstance(got, tuple) and len(got) == 2, "Return two things: the outputs, and the state after them.")
        y, after = tensor(got[0], (S, P), "The outputs"), tensor(got[1], (P, N), "The state")
        wanted_y, wanted = _read_block(start, x, dt, A, B, C)
        faded = start * torch.exp(dt.sum() * A)
        require(
            not (start.any() and close(after, wanted - faded)),
            "The state that is given has no effect. The scan begins at H, not at zeros.",
        )
        require(
            not close(after, wanted / dt[-1]) and close(after, wanted),
            f"The state after the block is not right {what}. Each step fades it by exp(dt A) and then adds dt times "
            "the outer product of x and B.",
        )
        before = torch.stack([start, *(_read_block(start, x[:t], dt, A, B, C)[1] for t in range(1, S))])
        early = torch.einsum("spn,sn->sp", before, C)
        require(not close(y, early), "Your outputs read the state *before* their token is written. Write first.")
        require(close(y, wanted_y), f"The state is right, the outputs are not {what}: y is the state times C.")


@checker
def reverse_in_blocks(answer: Callable[..., Tensor]) -> None:
    """`answer(x, dt, A, B, C, S)`: the reverse scan inside each block of S tokens, (length, P)."""
    x, dt, B, C = _head(12, seed=2)
    for block in (4, 12, 1):
        y = tensor(run(answer, x, dt, A, B, C, block), (12, P))
        wanted = _reverse_in_blocks(x, dt, A, B, C, block)
        if block == 4:
            require(
                not close(y, _reverse(x, dt, A, B, C)),
                "This scan runs over the whole text: a later block still changes an earlier one. Start from zero at "
                "the end of every block.",
            )
            parts = [slice(i, i + 4) for i in range(0, 12, 4)]
            zero = x.new_zeros(P, N)
            ahead = torch.cat([_read_block(zero, x[b], dt[b], A, B[b], C[b])[0] for b in parts])
            require(not close(y, ahead), "This scan runs forward inside the blocks. It must begin at their last token.")
            mirrored = torch.cat([wanted[b].flip(0) for b in parts])
            require(
                not close(y, mirrored), "The outputs of a block are in the order of the scan. Turn them round again."
            )
            swapped = torch.cat([wanted[b] for b in reversed(parts)])
            require(not close(y, swapped), "The blocks are joined in the wrong order: the first one comes first.")
        require(close(y, wanted), f"With blocks of {block} tokens the outputs are not right.")


@checker
def block_bound(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(nll, masked)`: sum over the blocks of S/l times the masked nats, (rows,)."""
    masked = torch.tensor([[[1, 1, 1, 1], [1, 0, 0, 0]], [[0, 1, 1, 0], [1, 0, 1, 1]]], dtype=torch.bool)
    nll = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(3)) * masked
    got = tensor(run(answer, nll, masked), (2,))
    wanted = _block_bound(nll, masked)
    per_row = nll.sum((1, 2)) * 8 / masked.sum((1, 2))
    require(
        not close(got, per_row),
        "You weigh whole rows. Each block draws its own number of masks, so each block has its own weight.",
    )
    require(not close(got, nll.sum((1, 2))), "No weight: a block with few masks must count as much as a full one.")
    require(not close(got, wanted / 4), "This is the mean nats per token of each block. The bound is for all S tokens.")
    require(not close(got, wanted / 2), "Blocks follow each other, so their costs are added, not averaged.")
    require(
        close(got, wanted), "In each block, S over its number of masks times the sum of its nats; then add the blocks."
    )


@checker
def kv_bytes(answer: Callable[[int, int, int, int], float]) -> None:
    """`answer(tokens, layers, d_model, bytes_each)`: bytes of all keys and values."""
    for case in ((100, 3, 64, 4), (7, 5, 32, 2)):
        got, wanted = number(run(answer, *case)), _kv_bytes(*case)
        require(got != wanted / 2, "A factor of two is missing: each token has a key and a value.")
        require(got != wanted / case[1], "Every layer keeps its own keys and values.")
        require(got != wanted / case[3], "This is how many numbers there are. How many bytes has each?")
        require(got != wanted * case[0], "Keys and values grow with the text, not with its square.")
        require(got == wanted, "Count: two vectors of d_model numbers, per token and per layer.")
