"""The random numbers of a step: two float64 uniforms for every position.

One decides *where and when* something happens, the other *which token* is drawn there. They are a pure
function of (seed, row, step): a counter-based generator (Philox, Salmon et al. 2011) is asked for exactly
that block. So a sample does not depend on the other rows of its batch, and a run that is stopped at any
step, or branched from it, goes on with the numbers it would have had.

Float64 matters: Gumbel noise or uniforms in float32 cannot reach the rare end of a distribution, which
lowers the effective temperature and flatters generative perplexity (Zheng et al., arXiv:2409.02908).

From logits to tokens: what a distribution says about itself, and exact draws from it.

All functions take rows, one row a masked position. Shapes: n rows, V = mask_id tokens ([MASK], the last column
of the logits, is gone: under SUBS, arXiv:2406.07524, it is never predicted).

The work splits by cost. Scores are wanted at *every* masked position, so they are as few passes over the logits
as possible and one temporary. Tokens are wanted at the *chosen* positions only, where nothing needs to be saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffuapriel.sampling.config import SamplerConfig


@dataclass(frozen=True, eq=False)
class Noise:
    """`uniforms` (batch, 2, length) float64 in [0, 1). Raises ValueError for another shape, dtype or value."""

    uniforms: NDArray[np.float64]

    def __post_init__(self) -> None:
        u = self.uniforms
        if u.ndim != 3 or u.shape[1] != 2 or u.dtype != np.float64:
            raise ValueError(
                f"noise: shape {u.shape}, dtype {u.dtype}; it must be (batch, 2, length) and float64"
            )
        if not ((u >= 0) & (u < 1)).all():  # NaN fails too
            raise ValueError(
                f"noise: values from {u.min()} to {u.max()}; permitted: 0 up to, not including, 1"
            )

    @property
    def where(self) -> NDArray[np.float64]:
        """(batch, length): for the choice of positions and times."""
        return self.uniforms[:, 0]

    @property
    def token(self) -> NDArray[np.float64]:
        """(batch, length): for the token at a chosen position."""
        return self.uniforms[:, 1]

    @classmethod
    def draw(cls, seed: int, first_row: int, rows: int, step: int, length: int) -> Noise:
        """The numbers of `step` for rows first_row ... first_row + rows - 1 of the run with this seed."""
        uniforms = np.empty((rows, 2, length))
        # The key names the stream; the step sits in the counter's highest word, so blocks never overlap.
        counter = np.array([0, 0, 0, step], dtype=np.uint64)
        for i in range(rows):
            philox = np.random.Philox(key=np.array([seed, first_row + i], dtype=np.uint64), counter=counter)
            np.random.Generator(philox).random(out=uniforms[i])
        return cls(uniforms)


LOG2E = math.log2(math.e)
BLOCK = 256  # tokens of an inverse CDF that are added up before they are looked into
SHOWN = 5  # alternatives kept for "why this token": the top five


def relative(logits: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities up to a constant a row: exactly 0 at the most probable token, [MASK] left out.

    Args: logits (n, mask_id + 1). Returns (n, mask_id), float32, or float64 if the logits are.
    Raises ValueError when a row is no distribution: NaN, +inf, or -inf at every token but [MASK].
    """
    x, top = centered(logits, mask_id)
    if not top.isfinite().all():
        bad = (~top.isfinite()).flatten().nonzero().flatten()
        raise ValueError(no_distribution(len(bad), len(top), f" (first: row {int(bad[0])})"))
    return x


def centered(logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """`relative`, unchecked, since to look would be to wait for the device; and the largest logits (n, 1), which are
    finite where a row is a distribution."""
    kept = logits[:, :mask_id]
    if kept.dtype in (torch.float16, torch.bfloat16):
        kept = kept.float()
    top = kept.amax(-1, keepdim=True)  # NaN if the row holds one
    return kept - top, top


def no_distribution(bad: int, rows: int, where: str = "") -> str:
    """The message for logits from which nothing can be drawn."""
    return (
        f"sampler: the denoiser's logits hold NaN or infinity, or no permitted token at all, in {bad} of "
        f"{rows} rows{where}; they must be finite or -inf, with one finite token a row"
    )


def weights_(x: Tensor) -> Tensor:
    """exp(x) of relative logits, *in place*: probabilities times the row's sum, exactly 1 at the best token.

    exp2 takes half the time of exp on a CPU, and a fresh tensor would cost as much again in page faults. On a GPU it
    is the passes that cost.
    """
    return x.exp_() if x.is_cuda else x.mul_(LOG2E).exp2_()


def top_probability(logits: Tensor, mask_id: int) -> Tensor:
    """(n,) probability of the most probable token."""
    return 1 / weights_(relative(logits, mask_id)).sum(-1)


def margin(logits: Tensor, mask_id: int) -> Tensor:
    """(n,) probability of the most probable token minus that of the runner-up."""
    w = weights_(relative(logits, mask_id))
    total = w.sum(-1)
    others = (
        w.frac_()
    )  # the best tokens, of weight 1, become 0; a comparison and a fill would take ten times longer
    runner_up = others.amax(-1)
    shared = total - others.sum(-1) > 1.5  # two tokens or more are best
    return torch.where(shared, 0.0, (1 - runner_up) / total)


def entropy(logits: Tensor, mask_id: int) -> Tensor:
    """(n,) entropy in nats."""
    x = relative(logits, mask_id)
    w = weights_(x.clone())
    return _entropy_(x, w, w.sum(-1))


def _entropy_(x: Tensor, w: Tensor, total: Tensor) -> Tensor:
    """log(total) - sum(w x) / total; overwrites x."""
    # A token of weight 0 adds nothing; the clamp keeps 0 * -inf from becoming NaN.
    return total.log() - x.clamp_(min=-1000).mul_(w).sum(-1) / total


def draw_tokens(
    logits: Tensor, mask_id: int, uniform: Tensor, config: SamplerConfig, seen: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """One token a row, and why.

    Repetition penalty, then temperature, top-k, top-p, then an exact draw; temperature 0 takes the best token.
    Args: logits (n, mask_id + 1); uniform (n,) float64 in [0, 1); seen (n, mask_id) bool, the tokens that the
    repetition penalty concerns (None: none).
    Returns tokens (n,) int64, and of the denoiser's own distribution, before temperature and filters: the
    tokens' probability (n,), the entropy (n,), ids (n, 5) and probabilities (n, 5) of the most probable tokens,
    best first (fewer columns in a smaller vocabulary).
    """
    x = relative(logits, mask_id)
    w = weights_(x.clone())
    total = w.sum(-1)
    tokens = pick(x, w, uniform, config, seen)
    top, ids = w.topk(min(SHOWN, mask_id), dim=-1)
    probability = w.gather(-1, tokens[:, None]).squeeze(-1) / total
    return tokens, (probability, _entropy_(x, w, total), ids, top / total[:, None])


def rank(logits: Tensor, mask_id: int, tokens: Tensor) -> Tensor:
    """(n,) place of each row's token in the denoiser's distribution: 1 is the most probable, equals share a place."""
    kept = logits[:, :mask_id]
    return (kept > kept.gather(-1, tokens[:, None])).sum(-1) + 1


def pick(x: Tensor, w: Tensor, uniform: Tensor, config: SamplerConfig, seen: Tensor | None) -> Tensor:
    """(n,) tokens, from relative logits x (n, V) and their weights w; the rest as in `draw_tokens`."""
    if seen is not None:
        x = penalize(x, w, seen, config.repetition_penalty)
    if config.temperature == 0:
        return x.argmax(-1)
    if seen is not None or config.temperature != 1:
        x = x.double()
        w = weights_((x - x.amax(-1, keepdim=True)) / config.temperature)
    if config.top_k is not None:
        w = keep_top_k(w, config.top_k)
    if config.top_p is not None and config.top_p < 1:
        w = keep_top_p(w, config.top_p)
    return inverse_cdf(w, uniform)


def inverse_cdf(w: Tensor, uniform: Tensor) -> Tensor:
    """(n,) draws from weights (n, V) by the inverse of their cumulative sum, in float64.

    The draw is the first token whose cumulative weight exceeds uniform * total. A token of weight 0 does not
    raise the sum, so it can never be that first one. The sum is taken block by block, and token by token only in the
    block where it passes the target: what is summed up one after the other, in float64, is 256 times shorter. In
    float32 a block's sum would lose the tokens that are rarer than its best by seven digits.
    """
    tokens = w.shape[1]
    whole = tokens - tokens % BLOCK
    sums = [w[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1, dtype=torch.float64)] if whole else []
    sums += [w[:, whole:].sum(-1, dtype=torch.float64, keepdim=True)] if whole < tokens else []
    until = torch.cat(sums, 1).cumsum(-1)  # (n, blocks)
    target = torch.minimum(uniform[:, None] * until[:, -1:], _just_below(until[:, -1:]))
    block = torch.searchsorted(until, target, right=True)  # (n, 1)
    before = until.gather(1, (block - 1).clamp(min=0)) * (block > 0)

    ids = block * BLOCK + torch.arange(BLOCK, device=w.device)  # (n, BLOCK)
    inside = w.gather(1, ids.clamp(max=tokens - 1)) * (ids < tokens)
    cumulative = inside.cumsum(-1, dtype=torch.float64)
    # The same weights added up in another order: what is left of the target must not pass their sum by a rounding.
    left = torch.minimum(target - before, _just_below(cumulative[:, -1:]))
    drawn = block * BLOCK + torch.searchsorted(cumulative, left, right=True)
    return drawn.squeeze(1).clamp(max=tokens - 1)  # which only a row of NaN reaches


def _just_below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.zeros_like(x))


def keep_top_k(w: Tensor, k: int) -> Tensor:
    """Weights of the k largest of each row, zero elsewhere (exactly k, also when some are equal)."""
    values, ids = w.topk(min(k, w.shape[-1]), dim=-1)
    return torch.zeros_like(w).scatter(-1, ids, values)


def keep_top_p(w: Tensor, p: float) -> Tensor:
    """Nucleus (Holtzman et al., arXiv:1904.09751): the fewest tokens, best first, with a share p of the sum."""
    ordered, ids = w.sort(dim=-1, descending=True, stable=True)
    running = ordered.cumsum(-1, dtype=torch.float64)
    better = running - ordered  # weight of everything before: 0 for the best, which therefore always stays
    ordered = ordered.masked_fill(better >= p * running[:, -1:], 0)
    return torch.zeros_like(w).scatter(-1, ids, ordered)


def penalize(x: Tensor, w: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Log-probabilities in which every seen token's probability is raised to the power `penalty`.

    The repetition penalty of CTRL (Keskar et al., arXiv:1909.05858) divides positive logits and multiplies
    negative ones; on log-probabilities, which are never positive, that is one rule and does not depend on
    where the logits' zero happens to lie.
    """
    log_p = x - w.sum(-1, keepdim=True).log()
    return torch.where(seen, log_p * penalty, log_p)
