"""Lesson 01: hiding tokens, and revealing them again."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor

__all__ = ["corruption", "loss", "mask_exactly", "reveal_chance", "turn"]

MASK = 1_017  # [MASK] of tales-words, the tokenizer of the lesson
ROWS, LENGTH = 4_000, 16
IDS_WANTED = "Yours says which tokens are hidden. Return the ids, with MASK in place of the hidden ones."


def _ids(rows: int = ROWS, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 1_000, (rows, length), generator=torch.Generator().manual_seed(5))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(6)


@checker
def corruption(answer: Callable[[Tensor, Tensor, torch.Generator], Tensor]) -> str | None:
    """`answer(ids, t, generator)` hides each token of row i with probability t[i], independently."""
    ids = _ids()
    for t in (0.0, 0.1, 0.5, 0.9):
        out = tensor(run(answer, ids, torch.full((ROWS,), t), _generator()), (ROWS, LENGTH))
        require(out.dtype != torch.bool, IDS_WANTED)
        hidden = out == MASK
        require(torch.equal(out[~hidden], ids[~hidden]), "Tokens that are not hidden must not change.")
        share = hidden.float().mean().item()
        require(
            abs(share - t) < 0.01,
            f"At t = {t} the hidden share should be {t}; it is {share:.3f}. With what probability is one token hidden?",
        )
        counts = hidden.sum(1).float()
        spread, wanted = counts.var().item(), LENGTH * t * (1 - t)
        require(
            abs(spread - wanted) <= 0.15 * wanted + 1e-6,
            "The share is right, but the tokens of a row are not hidden independently. "
            "Does every token have its own random number?",
        )
    times = torch.tensor([0.0, 1.0]).repeat(ROWS // 2)
    hidden = run(answer, ids, times, _generator()) == MASK
    require(
        not hidden[0::2].any() and hidden[1::2].float().mean() > 0.99,
        "Each row has its own time: row i must use t[i].",
    )
    repeated = torch.equal(*(run(answer, ids, times / 2, _generator()) for _ in range(2)))
    return None if repeated else "But it does not use generator: pass it to torch.rand, so that a run can be repeated."


@checker
def mask_exactly(answer: Callable[[Tensor, int, torch.Generator], Tensor]) -> None:
    """`answer(ids, count, generator)` hides exactly `count` tokens per row, every choice equally likely."""
    ids = _ids()
    for count in (0, 1, 7, LENGTH):
        out = tensor(run(answer, ids, count, _generator()), (ROWS, LENGTH))
        require(out.dtype != torch.bool, IDS_WANTED)
        hidden = out == MASK
        wrong = (hidden.sum(1) != count).nonzero().flatten().tolist()
        require(
            not wrong,
            f"With {count} masks per row requested, row {wrong[0] if wrong else 0} has "
            f"{int(hidden[wrong[0] if wrong else 0].sum())}.",
        )
        require(torch.equal(out[~hidden], ids[~hidden]), "Tokens that are not hidden must not change.")
        if 0 < count < LENGTH:
            kinds = len(torch.unique(hidden, dim=0))
            require(kinds >= min(LENGTH, 100), "Each row must draw its own positions: yours share theirs.")
        share = hidden.float().mean(0)  # at each position
        require(
            (share - count / LENGTH).abs().max() < 0.04,
            "Some positions are hidden more often than others. Every choice of positions must be equally likely.",
        )
        if 0 < count < LENGTH:
            pairs = (hidden[:, 0] & hidden[:, 1]).float().mean().item()
            wanted = count * (count - 1) / (LENGTH * (LENGTH - 1))
            require(
                abs(pairs - wanted) < 0.04,
                "Each position is hidden often enough, but neighbors are hidden together. "
                "Draw the positions one by one.",
            )


@checker
def reveal_chance(answer: Callable[[float, float], float]) -> None:
    """`answer(t, s)`: probability that a token hidden at time t is revealed by the earlier time s."""
    asked = [(0.5, 0.0), (0.5, 0.5), (1.0, 0.7), (0.7, 0.2), (0.8, 0.4)]
    got = {(t, s): number(run(answer, t, s)) for t, s in asked}
    for wrong, hint in (
        (
            lambda t, s: t - s,
            "t - s is the share of all tokens that appears. What share is it of those hidden at t?",
        ),
        (lambda t, s: s / t, "s / t is the probability that a hidden token stays hidden."),
        (lambda t, s: 1 - s, "1 - s is the share that is visible at s; most of it may have been visible at t already."),
        (
            lambda t, s: (t - s) / (1 - s),
            "You divide by the share visible at s. Only tokens hidden at t can appear.",
        ),
    ):
        require(any(abs(got[t, s] - wrong(t, s)) > 1e-6 for t, s in asked), hint)
    require(abs(got[0.5, 0.0] - 1) < 1e-6, "At time 0 no token may be hidden.")
    require(abs(got[0.5, 0.5]) < 1e-6, "If s equals t, nothing is revealed.")
    for t, s in asked[2:]:
        left = t * (1 - got[t, s])  # of all tokens, at time s
        require(
            abs(left - s) < 1e-6,
            f"At t = {t} a share of {t} is hidden. With your probability, a share of {left:.3f} is still hidden at "
            f"s = {s}; it should be {s}.",
        )


@checker
def loss(answer: Callable[..., Tensor]) -> None:
    """`answer(model, ids, t, generator)`: the NELBO in nats/token, weighted by 1/t, over all tokens."""
    asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def model(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        asked.append((ids, sigma, positions))
        wave = torch.sin(torch.arange(MASK + 1) * (1 + positions.nonzero()[:, 1])[:, None].float())
        wave[:, MASK] = 50.0  # [MASK] is no answer
        return wave.requires_grad_()

    ids, t = _ids(6, 5), torch.tensor([1.0, 0.9, 0.75, 0.6, 0.5, 0.8])
    got = tensor(run(answer, model, ids, t, _generator()), (), "The loss")
    require(asked, "Your function never calls the model. It must ask it for the hidden tokens.")
    noisy, sigma, positions = asked[-1]
    hidden = noisy == MASK
    require(
        hidden.any() and torch.equal(noisy[~hidden], ids[~hidden]),
        "The model must get the corrupted ids, in which some tokens are [MASK] and the others are unchanged.",
    )
    require(
        positions.dtype == torch.bool and torch.equal(positions, hidden),
        "The third argument of the model says where it must answer: True at the hidden tokens, and only there.",
    )
    require(
        sigma.shape == t.shape and close(sigma, -torch.log(1 - 0.999 * t)),
        "The second argument of the model is sigma = -log alpha(t), one number per row.",
    )
    logits = model(noisy, sigma, hidden)
    cost = F.cross_entropy(logits[:, :MASK], ids[hidden], reduction="none")
    with_mask = F.cross_entropy(logits, ids[hidden], reduction="none")
    weight = (1 / t)[:, None].expand(ids.shape)[hidden]
    wanted = (weight * cost).sum() / ids.numel()
    require(
        not close(got, (weight * with_mask).sum() / ids.numel(), rel=1e-3),
        "[MASK] is still among the possible answers. Cut off the last column of the logits.",
    )
    require(not close(got, cost.sum() / ids.numel(), rel=1e-3), "The weight 1/t of each row is missing.")
    require(
        not close(got, cost.mean(), rel=1e-3),
        "That is the plain mean over the hidden tokens. Weight each by 1/t of its row, and divide by the number of "
        "all tokens.",
    )
    require(
        not close(got, (weight * cost).mean(), rel=1e-3),
        "You divide by the number of hidden tokens. Divide by the number of all tokens, ids.numel().",
    )
    require(not close(got, (weight * cost).sum(), rel=1e-3), "That is a sum. Divide by the number of all tokens.")
    require(
        close(got, wanted, rel=1e-3),
        f"For one small batch the loss should be {wanted:.3f}; yours is {got:.3f}. Each hidden token costs "
        "-log p of the right token, times 1/t of its own row.",
    )
    require(
        got.requires_grad, "The number is right, but training needs its gradient: return a tensor, without .item()."
    )


@checker
def turn(answer: Callable[..., Tensor]) -> None:
    """`answer(ids, p, count, greedy)`: fill the `count` surest masks of each row, with drawn or best tokens."""
    rows, length, V, count = 3_000, 4, 5, 2
    ids = torch.tensor([7, MASK, MASK, MASK]).repeat(rows, 1)
    p = torch.zeros(rows, length, V)
    p[:, 1] = torch.tensor([0.0, 0.7, 0.3, 0.0, 0.0])
    p[:, 2] = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1])
    p[:, 3] = torch.tensor([0.1, 0.0, 0.0, 0.1, 0.8])
    p[::2] = p[::2][:, [0, 3, 2, 1]]  # not all rows alike: every second one has the two sure positions swapped
    p[4::8] = p[4::8][:, [0, 2, 1, 3]]  # and in some the unsure one comes first
    sure = p.amax(-1).topk(count).indices
    best = tensor(run(answer, ids, p, count, True), (rows, length))
    filled = (best != MASK) & (ids == MASK)
    require(torch.equal(best[:, 0], ids[:, 0]), "A token that was visible has changed.")
    require(
        (filled.sum(1) == count).all(),
        f"With count = {count}, {int(filled.sum(1).max())} masks were filled in one row and "
        f"{int(filled.sum(1).min())} in another.",
    )
    wanted = torch.zeros_like(filled).scatter(1, sure, True)
    require(
        torch.equal(filled, wanted),
        "Those are not the surest positions of each row: where the best token has the largest probability.",
    )
    require(
        torch.equal(best[filled], p.argmax(-1)[filled]),
        "With greedy=True each filled position must get its most probable token.",
    )
    torch.manual_seed(0)
    drawn = tensor(run(answer, ids, p, count, False), (rows, length))
    require(torch.equal((drawn != MASK) & (ids == MASK), wanted), "The drawn tokens are at the wrong positions.")
    first = (p[..., 1] == 0.7) & wanted
    share = (drawn[first] == 1).float().mean().item()
    require(
        share < 0.99,
        "With greedy=False the tokens must be drawn at random, by their probabilities; yours are always the best ones.",
    )
    require(
        0.63 < share < 0.77,
        f"A token with probability 0.7 should be drawn in 70 of 100 cases; yours is drawn in {100 * share:.0f}.",
    )
