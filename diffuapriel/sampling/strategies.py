"""Which holes to fill now: eight answers behind one function signature.

A strategy sees one `Moment` and answers with a `Choice`. It never draws tokens: those are drawn afterwards,
at the chosen positions only. Symbols:

    B, L, n    rows, positions, masked positions of all rows together; logits are (n, mask_id + 1)
    t, s       time of this step and of the next, from 1 (all masked) to 0
    a_t        alpha(t): the probability that a token is still visible at time t
    u          a uniform number of each position, fresh in every step

Two strategies (`ancestral`, `remask`) follow the schedule on a uniform grid of times. The others fill by
count, and their time is the share of the free positions that is still masked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffuapriel.sampling import tokens as draw
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.state import State

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Moment:
    """What a strategy sees: the state, its holes (B, L), the logits (n, mask_id + 1) there, and u (B, L)."""

    state: State
    masked: Bools
    logits: Tensor
    u: Floats
    config: SamplerConfig
    steps_left: int  # this one included
    alphas: tuple[float, float]  # a_t and a_s of this step on the uniform grid; a_s is 1 at the last step

    def scores(self, score: Callable[[Tensor, int], Tensor]) -> Floats:
        """A score of draw.py for every masked position, laid out as (B, L) with -inf elsewhere."""
        spread = np.full(self.masked.shape, -np.inf)
        spread[self.masked] = score(self.logits, self.state.mask_id).cpu().numpy()
        return spread

    @property
    def blocks(self) -> NDArray[np.int64]:
        """(B, L) which block a masked position is in, 0 without `block_length`; L, later than all, elsewhere."""
        length = self.masked.shape[1]
        block = np.arange(length) // (self.config.block_length or length)
        return np.where(self.masked, block, length)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a strategy answers, and what it compared.

    Attributes:
        reveal: (B, L), a part of the masked positions. scores: (B, L), what was compared there.
        remask: (B, L), or None. t: (B,) the time after the step, or None where time is the masked share.
        bar: what a score had to reach (`threshold`) or to stay below (a chance), where there is such a bar.
        open: (B, L), the masked positions that it could have chosen, or None: all of them.
    """

    reveal: Bools
    scores: Floats
    remask: Bools | None = None
    t: Floats | None = None
    bar: float | None = None
    open: Bools | None = None


def ancestral(now: Moment) -> Choice:
    """The reverse process of MDLM (Sahoo et al., arXiv:2406.07524), on a grid of `steps` times.

    Each masked position is revealed with probability (a_s - a_t) / (1 - a_t), each for itself; what is
    revealed stays.
    """
    a_t, a_s = now.alphas
    chance = (a_s - a_t) / (1 - a_t)
    return Choice(now.masked & (now.u < chance), now.u, t=_grid(now), bar=chance)


def remask(now: Moment) -> Choice:
    """ReMDM with a capped rate (Wang et al., arXiv:2503.00307): a revealed token may be taken back.

    sigma = min(remask_cap, (1 - a_s) / a_t). A revealed token returns to [MASK] with probability sigma, a masked
    one is revealed with probability (a_s - (1 - sigma) a_t) / (1 - a_t): the marginals stay those of the forward
    process. At the last step a_s = 1, so sigma is 0 and everything is revealed.
    """
    a_t, a_s = now.alphas
    sigma = min(now.config.remask_cap, (1 - a_s) / max(a_t, 1e-12))
    chance = (a_s - (1 - sigma) * a_t) / (1 - a_t)
    again = ~now.masked & ~now.state.fixed & (now.u < sigma)
    return Choice(now.masked & (now.u < chance), now.u, again, _grid(now), chance)


def first_hitting(now: Moment) -> Choice:
    """First-hitting sampler (Zheng et al., arXiv:2409.02908): one token a call, exact if p(x0 | x_t) ignores t.

    With m masks left the next reveal happens at t * u^(1/m), at a uniformly random masked position. The largest
    of m uniforms is distributed as u^(1/m), and which position holds it is uniform: each mask draws its own
    hitting time below t, and the first to be hit is revealed. Denoiser calls = number of masks.
    """
    u = np.where(now.masked, now.u, -1.0)
    latest = u.max(1)
    return Choice(_best(u, now.masked.sum(1) > 0), u, t=np.where(latest < 0, 0.0, now.state.t * latest))


def confidence(now: Moment) -> Choice:
    """LLaDA's low-confidence remasking (Nie et al., arXiv:2502.09992; MaskGIT, arXiv:2202.04200).

    Reveals the positions whose most probable token is the most probable, masks/steps per step, the remainder in
    the early steps.
    """
    return _by_score(now, now.scores(draw.top_probability))


def entropy(now: Moment) -> Choice:
    """As `confidence`, but the positions of least entropy (Dream, Ye et al., arXiv:2508.15487)."""
    return _by_score(now, now.scores(lambda logits, mask_id: -draw.entropy(logits, mask_id)))


def margin(now: Moment) -> Choice:
    """As `confidence`, but the largest p(best) - p(second) (Kim et al., arXiv:2502.06768)."""
    return _by_score(now, now.scores(draw.margin))


def random(now: Moment) -> Choice:
    """As `confidence`, but random positions: LLaDA's random remasking (arXiv:2502.09992).

    With as many steps as masks this is any-order autoregression in a random order, exact for an exact denoiser.
    """
    return _by_score(now, np.where(now.masked, now.u, -np.inf))


def threshold(now: Moment) -> Choice:
    """Fast-dLLM (Wu et al., arXiv:2505.22618): all positions at least `threshold` confident, always the best one.

    Takes as many calls as it needs, at most one a mask; `steps` plays no part. Of blocks, the first that has masks.
    """
    scores, bar = now.scores(draw.top_probability), now.config.threshold
    blocks = now.blocks
    first = now.masked & (blocks == blocks.min(1, keepdims=True))
    best = _best(scores, now.masked.sum(1) > 0, blocks)
    return Choice(first & (scores >= bar) | best, scores, bar=bar, open=first)


CHOOSERS: dict[str, Callable[[Moment], Choice]] = {
    "ancestral": ancestral,
    "confidence": confidence,
    "entropy": entropy,
    "margin": margin,
    "random": random,
    "threshold": threshold,
    "remask": remask,
    "first_hitting": first_hitting,
}
ON_THE_GRID = ("ancestral", "remask")  # time is the schedule's, not the masked share


def quota(masks: NDArray[np.integer[Any]], steps_left: int) -> NDArray[np.integer[Any]]:
    """(B,) how many of `masks` (B,) to reveal now: masks / steps left, rounded up.

    Rounding up in every step is LLaDA's "remainder in the early steps", and it needs no memory: it stays right
    when a person clears a token half way.
    """
    return -(-masks // steps_left)


def _by_score(now: Moment, scores: Floats) -> Choice:
    """The quota of the step, block by block, best scores first."""
    blocks = now.blocks
    reveal = _best(scores, quota(now.masked.sum(1), now.steps_left), blocks)
    last = np.where(reveal, blocks, -1).max(1, keepdims=True)
    return Choice(reveal, scores, open=now.masked & (blocks <= last))


def _grid(now: Moment) -> Floats:
    return np.full_like(now.state.t, (now.steps_left - 1) / now.config.steps)


def _best(scores: Floats, quota: NDArray[Any], blocks: NDArray[np.int64] | None = None) -> Bools:
    """(B, L): in each row the `quota` positions of the first blocks and highest score; among equals the leftmost."""
    order = np.argsort(-scores, axis=1, kind="stable")
    if blocks is not None:
        again = np.argsort(np.take_along_axis(blocks, order, 1), axis=1, kind="stable")
        order = np.take_along_axis(order, again, 1)
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(scores.shape[1]) < quota[:, None], axis=1)
    return chosen
