"""Lesson 03: both directions, AdaLN, the hybrid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor
from diffuapriel.model.layers import rms_norm

__all__ = ["block", "both_ways", "half_block", "look_ahead", "mamba_block_parameters"]


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _ahead(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution of the reverse direction: tap j of K looks K - 1 - j positions ahead."""
    taps, length = weight.shape[0], x.shape[1]
    padded = F.pad(x, (0, 0, 0, taps - 1))
    return bias + sum(weight[j] * padded[:, taps - 1 - j : taps - 1 - j + length] for j in range(taps))


@checker
def look_ahead(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str | None:
    """`answer(x, weight, bias)`: depthwise convolution that looks ahead, zeros beyond the end."""
    for length, taps, channels in ((9, 4, 3), (1, 4, 2), (6, 2, 5), (7, 7, 1), (3, 5, 4)):
        x = _random(2, length, channels, seed=1)
        weight, bias = _random(taps, channels, seed=2), _random(channels, seed=3)
        out = tensor(run(answer, x, weight, bias), (2, length, channels))
        back = _ahead(x.flip(1), weight, bias).flip(1)  # what look_back makes of the row
        if taps > 1 and length > 1:
            require(not close(out, back, abs=1e-5), "This is the convolution that looks back.")
            require(
                not close(out, _ahead(x, weight, bias).flip(1), abs=1e-5),
                "The row was flipped, but the result was not flipped back.",
            )
            pushed = x.clone()
            pushed[:, -1] += 1
            moved = run(answer, pushed, weight, bias) - out
            require(
                moved[:, -2].abs().max() > 1e-6,
                "When the last token changes, the output at the position before it does not. Does it look ahead?",
            )
            pushed = x.clone()
            pushed[:, 0] += 1
            moved = run(answer, pushed, weight, bias) - out
            require(
                moved[:, 1:].abs().max() < 1e-5,
                "When the first token changes, outputs after it change too. No output may look back.",
            )
        alone = run(answer, x[:, -1:], weight, bias)  # a row of one token: the last tap and the bias
        require(not close(alone, x[:, -1:] * weight[-1], abs=1e-5), "The bias of each channel is missing.")
        require(
            close(alone, x[:, -1:] * weight[-1] + bias, abs=1e-5),
            f"In a row of one token, only the tap that looks 0 positions ahead counts: j = K - 1, here {taps - 1}. "
            "And the bias is added once.",
        )
        require(
            close(out, _ahead(x, weight, bias), abs=1e-5),
            f"With K = {taps}, tap j must multiply the token K - 1 - j positions ahead, zero beyond the end. "
            "Compare with look_back of the flipped row, flipped back.",
        )
    with _Flips() as flips:
        run(answer, _random(2, 9, 3, seed=1), _random(4, 3, seed=2), _random(3, seed=3))
    return "It flips the row, which copies it; shifts alone do the same." if flips.seen else None


class _Flips(TorchFunctionMode):
    """Notes whether a tensor is flipped."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= getattr(func, "__name__", "").startswith("flip")
        return func(*args, **(kwargs or {}))


@checker
def both_ways(answer: Callable[..., Tensor]) -> None:
    """`answer(u, ahead, back)`: both layers' outputs added, the second one's on the reversed row, reversed back."""
    batch, length, d_model = 4, 4, 3  # batch = length: a flip of the wrong axis raises no error
    u = _random(batch, length, d_model, seed=8)

    def ahead(v: Tensor) -> Tensor:
        return v.cumsum(1)

    def back(v: Tensor) -> Tensor:
        return (v * torch.arange(1.0, length + 1)[:, None]).cumsum(1).tanh()

    out = tensor(run(answer, u, ahead, back), (batch, length, d_model))
    right = back(u.flip(1)).flip(1)
    require(
        not close(out, ahead(u) + back(u.flip(1))),
        "The second output is still reversed. Flip it back, so that position i is position i again.",
    )
    require(not close(out, ahead(u) + back(u)), "Both layers read from left to right. Reverse the row for `back`.")
    require(
        not close(out, ahead(u) + back(u.flip(0)).flip(0)) and not close(out, ahead(u) + back(u.flip(2)).flip(2)),
        "You flip the wrong axis. The length is axis 1; axis 0 counts the texts.",
    )
    require(not close(out, (ahead(u) + right) / 2), "The two outputs are added, not averaged.")
    require(close(out, ahead(u) + right), "It must be ahead of the row, plus back of the reversed row, reversed back.")


def _half_block(x: Tensor, branch: Callable[[Tensor], Tensor], shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    return x + gate[:, None] * branch(rms_norm(x) * (1 + scale[:, None]) + shift[:, None])


@checker
def half_block(answer: Callable[..., Tensor]) -> None:
    """`answer(x, branch, shift, scale, gate)`: x + gate * branch(norm(x) (1 + scale) + shift)."""
    batch, length, d_model = 3, 3, 8  # batch = length: a vector on the wrong axis raises no error

    def branch(v: Tensor) -> Tensor:
        return torch.tanh(v.roll(1, 1) + 0.5 * v)

    x = 2 * _random(batch, length, d_model, seed=4)
    shift, scale, gate = (_random(batch, d_model, seed=seed) for seed in (5, 6, 7))
    none, one = torch.zeros(batch, d_model), torch.ones(batch, d_model)

    def out(*vectors: Tensor) -> Tensor:
        return tensor(run(answer, x, branch, *vectors), (batch, length, d_model))

    closed = out(shift, scale, none)
    require(not close(closed, 0 * x, abs=1e-6), "The gate is for the branch alone: with a gate of zero x is left.")
    require(
        not close(closed, _half_block(x, branch, shift, scale, one), abs=1e-5),
        "With a gate of zero your branch still counts fully. The branch is multiplied by gate, not by 1 + gate.",
    )
    require(
        close(closed, x, abs=1e-6),
        "With a gate of zero the half block must be the identity: it must return x unchanged.",
    )
    require(
        close(out(none, none, one), x + branch(rms_norm(x)), abs=1e-5),
        "With shift and scale zero and a gate of one it must be x + branch(rms_norm(x)). "
        "A scale of zero leaves the norm unchanged. And add x itself, not its norm.",
    )
    require(
        close(out(shift, none, one), _half_block(x, branch, shift, none, one), abs=1e-5),
        "The shift is in the wrong place. It is added before the branch, and text i of the batch has shift[i], "
        "the same for all its tokens.",
    )
    require(
        close(out(none, scale, one), _half_block(x, branch, none, scale, one), abs=1e-5),
        "The scale is in the wrong place: it must be the norm times (1 + scale), with scale[i] for text i.",
    )
    require(
        close(out(shift, scale, one), _half_block(x, branch, shift, scale, one), abs=1e-5),
        "Shift and scale are each right alone, but not together: first times (1 + scale), then plus shift.",
    )
    require(
        close(out(shift, scale, gate), _half_block(x, branch, shift, scale, gate), abs=1e-5),
        "The gate multiplies the output of the branch and nothing else; text i has gate[i].",
    )


@checker
def block(answer: Callable[..., Tensor]) -> None:
    """`answer(x, mixer, mlp, six)`: a half block with the mixer, then one with the MLP."""
    batch, length, d_model = 3, 3, 8

    def mixer(v: Tensor) -> Tensor:
        return torch.tanh(v.roll(1, 1) + 0.5 * v)

    def mlp(v: Tensor) -> Tensor:
        return torch.relu(v) - 0.3

    x = 2 * _random(batch, length, d_model, seed=9)
    six = [_random(batch, d_model, seed=10 + i) for i in range(6)]
    none = torch.zeros(batch, d_model)
    out = tensor(run(answer, x, mixer, mlp, [none] * 6), (batch, length, d_model))
    require(close(out, x, abs=1e-6), "With all six vectors zero, a block must return x unchanged.")
    first = _half_block(x, mixer, *six[:3])
    out = tensor(run(answer, x, mixer, mlp, list(six)), (batch, length, d_model))
    second = _half_block(first, mlp, *six[3:])
    require(not close(out, first, abs=1e-5), "The second half, with the MLP and the last three vectors, is missing.")
    require(
        not close(out, _half_block(_half_block(x, mlp, *six[:3]), mixer, *six[3:]), abs=1e-5),
        "The mixer comes first, then the MLP.",
    )
    require(
        not close(out, first + _half_block(x, mlp, *six[3:]) - x, abs=1e-5),
        "The MLP gets x from before the mixer. It must get what the first half returns.",
    )
    require(
        not close(out, _half_block(first, mlp, *six[:3]), abs=1e-5),
        "Both halves use the first three vectors. The MLP has its own: the last three.",
    )
    require(
        close(out, second, abs=1e-5),
        "A block is two half blocks: the mixer with the first three vectors (shift, scale, gate), the MLP with the "
        "last three.",
    )


@checker
def mamba_block_parameters(answer: Callable[[int, int, int], int]) -> None:
    """`answer(d, N, H)`: entries of in_proj, out_proj and the MLP of a bidirectional Mamba block."""

    def got(d: int, N: int, H: int) -> float:
        return number(run(answer, d, N, H))

    for d, N, H in ((100, 10, 5), (7, 3, 2), (64, 16, 4), (2048, 128, 64)):
        heads = got(d, N, H + 1) - got(d, N, H)
        require(
            heads == 2 * d,
            f"One more head adds one dt in each of two directions, computed from d = {d} numbers: {2 * d} entries. "
            f"Yours adds {heads:g}.",
        )
        state = got(d, N + 1, H) - got(d, N, H)
        require(
            state == 4 * d,
            f"Increasing the state size by one makes B and C longer by one in each of two directions: {4 * d} "
            f"entries at d = {d}. Yours grows by {state:g}.",
        )
        square = (got(d, N, H) - 4 * d * N - 2 * d * H) / d**2
        require(
            square == 16,
            f"B, C and dt are right. The rest, for z, x, out_proj and the MLP, comes to {square:g} d², which is not "
            "right. Which of them does each direction have for itself, and how wide is it?",
        )
