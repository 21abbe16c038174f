"""Which masked positions to reveal now: the strategies, with one signature.

A strategy receives a `StrategyInput` and returns a `Selection`. It never draws tokens: those are drawn afterwards, at
the selected positions only. Symbols:

    B, L, n    rows, positions, masked positions of all rows together; logits are (n, mask_id + 1)
    t, s       time of this step and of the next, from 1 (all masked) to 0
    a_t        alpha(t): the probability that a token is not masked at time t
    u          a uniform random number per position, drawn again at every step

`ancestral` and the four of ReMDM follow the noise schedule on a grid of times. The other strategies fill by count, and
their time is the masked share of the free positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffuapriel.sampling import tokens
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frames import DECIMALS
from diffuapriel.sampling.state import Bools, Floats, Ints, State

SCORE_ROWS = 8192  # rows of logits scored at a time


@dataclass(frozen=True, eq=False)
class StrategyInput:
    """What a strategy sees: the state, its masked positions (B, L), the logits there (n, mask_id + 1), and u (B, L).

    drawn: (n,) the probabilities of the tokens drawn there, with `confidence` "drawn"; else None.
    """

    state: State
    masked: Bools
    logits: Tensor
    u: Floats
    config: SamplerConfig
    s: Floats  # (B,) on the grid of times
    alphas: tuple[Floats, Floats]  # (B, 1) a_t and a_s of this step on the grid; a_s is 1 at the last step
    drawn: Tensor | None = None
    active: Bools | None = None  # (B, L) the block of this step on the grid; None: the whole canvas

    @property
    def on_grid(self) -> tuple[Bools, Bools]:
        """(B, L) each: the masked positions and the revealed ones that a strategy on the schedule may change."""
        active = np.True_ if self.active is None else self.active
        return self.masked & active, ~self.masked & ~self.state.fixed & active

    def scores(self, score: Callable[[Tensor, int], Tensor]) -> Floats:
        """(B, L) a score from tokens.py at every masked position, -inf elsewhere.

        It takes SCORE_ROWS rows at a time: a float32 copy of all rows of a long canvas would not fit on a GPU.
        """
        parts = self.logits.split(SCORE_ROWS)
        return self._scattered(torch.cat([score(rows, self.state.mask_id) for rows in parts]))

    def _scattered(self, values: Tensor) -> Floats:
        scattered = np.full(self.masked.shape, -np.inf)
        scattered[self.masked] = values.cpu().numpy()
        return scattered

    @property
    def confidence(self) -> Floats:
        """(B, L) the probability of the best token, or of the one drawn, at every masked position, -inf elsewhere."""
        return self.scores(tokens.top_probability) if self.drawn is None else self._scattered(self.drawn)

    @property
    def candidates(self) -> Bools:
        """(B, L) the masked positions of the first block that has any; without `block_length`, all of them."""
        blocks = np.where(self.masked, block_numbers(self.config, self.state.fixed), self.masked.shape[1])
        return self.masked & (blocks == blocks.min(1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Selection:
    """The positions that a strategy selects, and what it compared.

    Attributes:
        reveal: (B, L), a subset of the masked positions. scores: (B, L), what was compared there.
        remask: (B, L), revealed positions to return to [MASK], or None.
        t: (B,) the time after the step, or None where time is the masked share.
        threshold: what a score had to reach (`threshold`) or stay below (a probability), if anything.
        candidates: (B, L), the masked positions that could have been selected, or None for all of them.
    """

    reveal: Bools
    scores: Floats
    remask: Bools | None = None
    t: Floats | None = None
    threshold: float | None = None
    candidates: Bools | None = None


def ancestral(step: StrategyInput) -> Selection:
    """The reverse process of MDLM (Sahoo et al., arXiv:2406.07524), on a grid of `steps` times.

    Reveals each masked position independently with probability (a_s - a_t) / (1 - a_t); revealed tokens never change.
    """
    a_t, a_s = step.alphas
    probability = (a_s - a_t) / (1 - a_t)
    masked, _ = step.on_grid
    return Selection(masked & (step.u < probability), step.u, t=_after(step), threshold=float(probability[0, 0]))


def remdm(step: StrategyInput) -> Selection:
    """ReMDM-cap (Wang et al., arXiv:2503.00307, section 4.1): a revealed token may return to [MASK].

    sigma = min(remask_cap, sigma_max). A revealed token returns to [MASK] with probability sigma, a masked one is
    revealed with probability (a_s - (1 - sigma) a_t) / (1 - a_t): the marginals remain those of the forward process
    for every sigma up to sigma_max = (1 - a_s) / a_t. At the last step a_s = 1, so sigma is 0 and every mask is
    revealed. The four variants are `_ddpm_caching_update` of the reference code, where `remask_cap` and
    `remask_rescale` are eta.
    """
    return _remask(step, np.minimum(step.config.remask_cap, _sigma_max(step)))


def remdm_rescale(step: StrategyInput) -> Selection:
    """ReMDM-rescale: as `remdm`, but sigma = remask_rescale sigma_max."""
    return _remask(step, step.config.remask_rescale * _sigma_max(step))


def remdm_conf(step: StrategyInput) -> Selection:
    """ReMDM-conf: the less probable a token was when it was drawn, the likelier it returns to [MASK].

    sigma = sigma_max softmax(-confidence) over the row's revealed tokens, so at most one of them returns per step on
    average. A token with unknown confidence counts as 0. Masked positions have sigma 0, as in the reference code: they
    are revealed as in `ancestral`, and the masked share exceeds the schedule's by what returns. The confidence is the
    denoiser's probability; the reference code's is the probability after top-p.
    """
    # Rounded as in a frame: a run that is restored from its trace continues exactly.
    confidence = np.nan_to_num(step.state.confidence.round(DECIMALS))
    weights = np.where(step.on_grid[1], np.exp(-confidence), 0.0)
    sigma = _sigma_max(step) * weights / np.maximum(1e-12, weights.sum(1, keepdims=True))
    return replace(ancestral(step), remask=step.u < sigma)


def remdm_loop(step: StrategyInput) -> Selection:
    """ReMDM-loop (section 4.2): `ancestral` until a share alpha_on is revealed, corrections, then `ancestral` again.

    From t_on to t_off (shares of the steps left) time stands still, and sigma = min(remask_cap, sigma_max): as many
    tokens return to [MASK] as are revealed. Before and after, sigma is 0. (The reference code caps at 0.02 here.)
    """
    a_t, a_s = step.alphas
    return _remask(step, np.where(a_s == a_t, np.minimum(step.config.remask_cap, _sigma_max(step)), 0.0))


def _remask(step: StrategyInput, sigma: Floats) -> Selection:
    a_t, a_s = step.alphas
    probability = (a_s - (1 - sigma) * a_t) / (1 - a_t)
    masked, revealed = step.on_grid
    threshold = float(probability[0, 0])
    return Selection(masked & (step.u < probability), step.u, revealed & (step.u < sigma), _after(step), threshold)


def _sigma_max(step: StrategyInput) -> Floats:
    a_t, a_s = step.alphas
    return np.minimum(1.0, (1 - a_s) / np.maximum(a_t, 1e-12))


def first_hitting(step: StrategyInput) -> Selection:
    """First-hitting sampler (Zheng et al., arXiv:2409.02908): one token per call, exact if p(x0 | x_t) ignores t.

    With m masks left the next reveal happens at t * u^(1/m), at a uniformly random masked position. The largest of m
    uniforms is distributed as u^(1/m), and the position that holds it is uniform: each mask draws its own hitting
    time below t, and the first one hit is revealed. The denoiser is called with the noise level of this new time, as
    in BD3-LM (arXiv:2503.09573). Denoiser calls = number of masks. With blocks, the position is one of the first block
    that has masks, and time is the masked share.
    """
    candidates = step.candidates
    u = np.where(candidates, step.u, -1.0)
    t = None if step.config.block_length else hitting_time(step.state.t, step.masked, step.u)
    return Selection(_best(u, candidates.any(1)), u, t=t, candidates=candidates)


def hitting_time(t: Floats, masked: Bools, u: Floats) -> Floats:
    """(B,) when the next mask is hit after time t (B,), by u (B, L) at the masked positions; 0 without masks."""
    return t * np.where(masked, u, 0.0).max(1)


def low_confidence(step: StrategyInput) -> Selection:
    """LLaDA's low-confidence remasking (Nie et al., arXiv:2502.09992; MaskGIT, arXiv:2202.04200).

    Reveals the positions of highest confidence: masks / steps of them per step, the remainder in the early steps. The
    others, of low confidence, stay masked. `SamplerConfig.confidence` says whose probability the confidence is.
    """
    return _by_score(step, step.confidence)


def entropy(step: StrategyInput) -> Selection:
    """As `low_confidence`, but the positions of lowest entropy (Dream, Ye et al., arXiv:2508.15487)."""
    return _by_score(step, step.scores(lambda logits, mask_id: -tokens.entropy(logits, mask_id)))


def margin(step: StrategyInput) -> Selection:
    """As `low_confidence`, but the largest p(best) - p(second) (Kim et al., arXiv:2502.06768)."""
    return _by_score(step, step.scores(tokens.margin))


def random(step: StrategyInput) -> Selection:
    """As `low_confidence`, but random positions: LLaDA's random remasking (arXiv:2502.09992).

    With as many steps as masks this is any-order autoregression in a random order, exact for an exact denoiser.
    `alg_temp` changes nothing: it keeps the order of random numbers.
    """
    return _by_score(step, np.where(step.masked, step.u, -np.inf))


def threshold(step: StrategyInput) -> Selection:
    """Fast-dLLM (Wu et al., arXiv:2505.22618): every position at least `threshold` confident, and always the best one.

    Ignores `steps`: makes as many calls as it needs, at most one per mask. With blocks, fills the first one that has
    masks.
    """
    scores, least, candidates = step.confidence, step.config.threshold, step.candidates
    best = _best(np.where(candidates, scores, -np.inf), candidates.any(1))
    return Selection(candidates & (scores >= least) | best, scores, threshold=least, candidates=candidates)


def factor(step: StrategyInput) -> Selection:
    """Fast-dLLM's factor-based parallel decoding: as `threshold`, but the threshold rises with the number revealed.

    Reveals the n most confident positions, for the largest n with (n + 1) (1 - c_n) < factor, where c_n is the n-th
    highest confidence; at least one. (The reference code also reveals the last mask of a block if only this one fails.)
    """
    candidates = step.candidates
    scores = np.where(candidates, step.confidence, -np.inf)
    ranked = -np.sort(-scores, axis=1)  # (n + 1) (1 - c_n) grows with n
    fits = np.arange(2, ranked.shape[1] + 2) * (1 - ranked) < step.config.factor
    count = np.maximum(fits.sum(1), candidates.any(1))
    return Selection(_best(scores, count), scores, candidates=candidates)


def entropy_bound(step: StrategyInput) -> Selection:
    """EB-Sampler (Ben-Hamu et al., arXiv:2505.24857): the positions of lowest entropy whose joint error is bounded.

    Reveals the n positions of lowest entropy, for the largest n with H_1 + ... + H_n - max H <= entropy_bound; at least
    one. The left side, in nats, bounds what the n tokens tell about one another, which is lost when they are drawn
    independently. The paper's error proxy is the entropy here; it is the denoiser's, before temperature and filters.
    """
    candidates = step.candidates
    scores = np.where(candidates, step.scores(lambda logits, mask_id: -tokens.entropy(logits, mask_id)), -np.inf)
    ranked = np.sort(-scores, axis=1)  # ascending entropies: the largest is the last; infinity elsewhere
    known = np.isfinite(ranked)
    smaller = np.cumsum(np.where(known, ranked, 0.0), axis=1) - np.where(known, ranked, 0.0)
    count = (known & (smaller <= step.config.entropy_bound)).sum(1)
    return Selection(_best(scores, count), scores, candidates=candidates)


SELECTORS: dict[str, Callable[[StrategyInput], Selection]] = {
    select.__name__: select
    for select in (
        *(ancestral, remdm, remdm_rescale, remdm_conf, remdm_loop, first_hitting),
        *(low_confidence, entropy, margin, random, threshold, factor, entropy_bound),
    )
}


def gumbel(u: Floats) -> Floats:
    """Standard Gumbel numbers from uniform ones in [0, 1), all finite.

    The k largest of score / T + gumbel are k draws without replacement from softmax(score / T) (Kool et al.,
    arXiv:1903.06059).
    """
    return -np.log(-np.log(np.maximum(u, 2.0**-53)))


def block_numbers(config: SamplerConfig, fixed: Bools) -> Ints:
    """(B, L) the block of each position of canvases fixed at `fixed` (B, L), from 0; all 0 without `block_length`."""
    rows, length = fixed.shape
    if config.block_length is None:
        return np.zeros((rows, length), dtype=np.int64)
    return np.maximum(0, np.arange(length) - first_block(config, fixed)[:, None]) // config.block_length


def first_block(config: SamplerConfig, fixed: Bools) -> Ints:
    """(B,) where the first block begins: behind the leading fixed positions, or at 0."""
    if config.block_start == "zero":
        return np.zeros(len(fixed), dtype=np.int64)
    return np.logical_and.accumulate(fixed, axis=1).sum(1)


def count_by_block(where: Bools, numbers: Ints) -> Ints:
    """(B, blocks) how many positions of `where` (B, L) each block has."""
    rows, blocks = len(where), int(numbers.max(initial=0)) + 1
    flat = numbers + blocks * np.arange(rows)[:, None]
    return np.bincount(flat[where], minlength=rows * blocks).reshape(rows, blocks)


def num_transfer_tokens(masked: Ints, free: Ints, step: int, steps: int) -> Ints:
    """(B,) how many positions to reveal at `step` (from 0) of `steps`, all in the first block with masks.

    masked, free: (B, blocks) masked and not fixed positions of each block. The steps are divided among the blocks by
    their free positions, at least one for each. A block reveals masks / steps left, rounded up: LLaDA's "remainder
    in the early steps". This needs no memory, so it stays right when a person clears a token half way; a block whose
    steps are over gets its share of those that are left.
    """
    rows, current = np.arange(len(masked)), (masked > 0).argmax(1)
    here, total = masked[rows, current], masked.sum(1)
    left = _block_ends(free, steps)[rows, current] - step
    share = (steps - step) * here // np.maximum(1, total)
    return -(-here // np.maximum(1, np.where(left > 0, left, share)))


def block_on_grid(masked: Ints, free: Ints, step: int, steps: int) -> tuple[Ints, Ints, Ints]:
    """The block of a strategy on the schedule at `step` of `steps`, and its steps: those left, and all. (B,) each.

    masked, free, and how the steps are divided: as for `num_transfer_tokens`. The block is the one whose steps these
    are, or an earlier one that has masks again.
    """
    ends, blocks = _block_ends(free, steps), masked.shape[1]
    scheduled = np.minimum((ends <= step).sum(1), blocks - 1)
    current = np.where((masked > 0).any(1), np.minimum((masked > 0).argmax(1), scheduled), scheduled)
    rows = np.arange(len(masked))
    before = np.where(current > 0, ends[rows, np.maximum(0, current - 1)], 0)
    left = ends[rows, current] - step
    share = (steps - step) * masked[rows, current] // np.maximum(1, masked.sum(1))
    left = np.maximum(1, np.where(left > 0, left, share))
    return current, left, np.maximum(left, ends[rows, current] - before)


def ended(config: SamplerConfig, ids: Ints, fixed: Bools, mask_id: int) -> Bools:
    """(B, L): what follows the first <|endoftext|>, the token before [MASK], that was written in a full block.

    Nothing in rows where text is given behind it.
    """
    numbers, eos = block_numbers(config, fixed), ids == mask_id - 1
    current = np.where(ids == mask_id, numbers, ids.shape[1]).min(1, keepdims=True)  # the first block that has masks
    written = eos & ~fixed & (numbers < current)
    behind = written.cumsum(1) - written > 0
    return behind & ~eos & ~(fixed & behind).any(1, keepdims=True)


def uncertain(config: SamplerConfig, before: State, ids: Ints, confidence: Floats, revealed: Bools) -> Bools:
    """(B, L): what returns to [MASK] after a step that filled a block: see `SamplerConfig.remask_below`.

    before: the state before the step; ids, confidence, revealed (B, L): after it. Tokens of this very step wait for
    the next one.
    """
    if not config.mends:
        return np.zeros_like(revealed)
    numbers = block_numbers(config, before.fixed)
    open_block = np.where(before.masked, numbers, ids.shape[1]).min(1, keepdims=True)
    full = (numbers == open_block) & ~((ids == before.mask_id) & (numbers == open_block)).any(1, keepdims=True)
    # Rounded as in a frame: a run that is restored from its trace continues exactly.
    weak = confidence.round(DECIMALS) < config.remask_below  # False where it is unknown
    return full & weak & ~revealed & ~before.fixed & ~before.mended


def _block_ends(free: Ints, steps: int) -> Ints:
    """(B, blocks) the step before which each block is full: increasing over the blocks with free positions."""
    used = free > 0
    number = used.cumsum(1)  # of this block among those, from 1
    last = np.maximum(steps - (number[:, -1:] - number), number)  # a step for each block behind it
    ends = np.rint(steps * free.cumsum(1) / np.maximum(1, free.sum(1, keepdims=True))).astype(np.int64)
    # At least one step more than the block before: ends - number must not fall.
    ends = np.maximum.accumulate(np.where(used, ends - number, 0), axis=1).clip(min=0) + number
    return np.minimum(ends, last)


def _by_score(step: StrategyInput, scores: Floats) -> Selection:
    """The step's number of positions of the first block that has masks, best scores first, or drawn by `alg_temp`."""
    numbers = block_numbers(step.config, step.state.fixed)
    counts = num_transfer_tokens(
        count_by_block(step.masked, numbers),
        count_by_block(~step.state.fixed, numbers),
        step.state.step,
        step.config.steps,
    )
    candidates = step.candidates
    alg_temp = step.config.alg_temp
    ranking = scores + alg_temp * gumbel(step.u) if alg_temp else scores
    return Selection(_best(np.where(candidates, ranking, -np.inf), counts), scores, candidates=candidates)


def _after(step: StrategyInput) -> Floats | None:
    return None if step.config.block_length else step.s


def _best(scores: Floats, count: Any) -> Bools:
    """(B, L): in each row, `count` positions: highest score first, then leftmost."""
    order = np.argsort(-scores, axis=1, kind="stable")
    selected = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(selected, order, np.arange(scores.shape[1]) < count[:, None], axis=1)
    return selected
