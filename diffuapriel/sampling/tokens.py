"""From logits to tokens: the noise of a step, confidence statistics, and exact sampling.

Noise. A step uses two float64 uniforms per position: one selects positions and times, the other the token at a
selected position. They are a pure function of (seed, row, step): a counter-based generator (Philox, Salmon et al. 2011)
returns exactly that block. A sample therefore does not depend on the other rows of its batch, and a run that is
resumed or branched at any step continues with the same numbers. Float64 matters: Gumbel noise or uniforms in float32
cannot reach the tail of a distribution, which lowers the effective temperature and flatters generative perplexity
(Zheng et al., arXiv:2409.02908).

Statistics and samples. All functions take one row per masked position. Shapes: n rows, V = mask_id tokens; [MASK], the
last column of the logits, is dropped, since under SUBS (arXiv:2406.07524) it is never predicted. Statistics are
computed at *every* masked position, so they make as few passes over the logits as possible and one temporary. Tokens
are drawn at the *selected* positions only, where cost does not matter.
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
            raise ValueError(f"noise: shape {u.shape}, dtype {u.dtype}; it must be (batch, 2, length) and float64")
        if not ((u >= 0) & (u < 1)).all():  # NaN fails too
            raise ValueError(f"noise: values from {u.min()} to {u.max()}; permitted: 0 up to, not including, 1")

    @property
    def for_positions(self) -> NDArray[np.float64]:
        """(batch, length): selects positions and times."""
        return self.uniforms[:, 0]

    @property
    def for_tokens(self) -> NDArray[np.float64]:
        """(batch, length): samples the token at a selected position."""
        return self.uniforms[:, 1]

    @classmethod
    def draw(cls, seed: int, first_row: int, rows: int, step: int, length: int) -> Noise:
        """The numbers of `step` for rows first_row ... first_row + rows - 1 of a run with this seed."""
        uniforms = np.empty((rows, 2, length))
        # The key names the stream; the step is the counter's highest word, so blocks never overlap.
        counter = np.array([0, 0, 0, step], dtype=np.uint64)
        philox = np.random.Philox(key=np.array([seed, first_row], dtype=np.uint64), counter=counter)
        generator, start = np.random.Generator(philox), philox.state
        for i in range(rows):
            start["state"]["key"][1] = first_row + i
            philox.state = start  # a seventh of the time of another Philox
            generator.random(out=uniforms[i])
        return cls(uniforms)


def block_uniforms(seed: int, length: int, row: int, step: int, start: int, count: int) -> NDArray[np.float64]:
    """`Noise.draw(seed, row, 1, step, length).for_tokens[0, start : start + count]`, without drawing the rest."""
    skipped, rest = divmod(length + start, 4)  # a counter gives four numbers
    counter = np.array([skipped, 0, 0, step], dtype=np.uint64)
    philox = np.random.Philox(key=np.array([seed, row], dtype=np.uint64), counter=counter)
    return np.random.Generator(philox).random(rest + count)[rest:]


LOG2E = math.log2(math.e)
CDF_BLOCK = 256  # tokens per block of the two-level cumulative sum
TOP_TOKENS = 5  # alternatives kept per revealed position


def relative(logits: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities up to a constant per row: exactly 0 at the most probable token, without [MASK].

    Args: logits (n, mask_id + 1). Returns (n, mask_id), float32, or float64 if the logits are.
    Raises ValueError when a row is not a distribution: NaN, +inf, or -inf at every token but [MASK].
    """
    x, top = centered(logits, mask_id)
    if not top.isfinite().all():
        bad = (~top.isfinite()).flatten().nonzero().flatten()
        raise ValueError(invalid_logits(len(bad), len(top), f" (first: row {int(bad[0])})"))
    return x


def centered(logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """`relative` without the check, which would synchronize with the device; and the largest logits (n, 1), which are
    finite where a row is a distribution."""
    kept = logits[:, :mask_id]
    if kept.dtype in (torch.float16, torch.bfloat16):
        kept = kept.float()
    top = kept.amax(-1, keepdim=True)  # NaN if the row has one
    return kept - top, top


def invalid_logits(bad: int, rows: int, where: str = "") -> str:
    """The error message for logits that are not a distribution."""
    return (
        f"sampler: the denoiser's logits hold NaN or infinity, or no permitted token at all, in {bad} of "
        f"{rows} rows{where}; they must be finite or -inf, with one finite token per row"
    )


def weights_(x: Tensor) -> Tensor:
    """exp(x) of relative logits, *in place*: unnormalized probabilities, exactly 1 at the best token.

    On a CPU exp2 takes half the time of exp, and a new tensor would cost as much again in page faults. On a GPU the
    number of passes over memory matters.
    """
    return x.exp_() if x.is_cuda else x.mul_(LOG2E).exp2_()


def top_probability(logits: Tensor, mask_id: int) -> Tensor:
    """(n,) probability of the most probable token."""
    return 1 / weights_(relative(logits, mask_id)).sum(-1)


def margin(logits: Tensor, mask_id: int) -> Tensor:
    """(n,) probability of the most probable token minus that of the runner-up."""
    w = weights_(relative(logits, mask_id))
    total = w.sum(-1)
    # The best tokens, of weight 1, become 0; a comparison and a fill would take ten times longer.
    others = w.frac_()
    runner_up = others.amax(-1)
    tied = total - others.sum(-1) > 1.5  # two or more best tokens
    return torch.where(tied, 0.0, (1 - runner_up) / total)


def entropy(logits: Tensor, mask_id: int) -> Tensor:
    """(n,) entropy in nats."""
    x = relative(logits, mask_id)
    w = weights_(x.clone())
    return _entropy_(x, w, w.sum(-1))


def _entropy_(x: Tensor, w: Tensor, total: Tensor) -> Tensor:
    """log(total) - sum(w x) / total. Overwrites x."""
    # A token of weight 0 contributes 0; the clamp keeps 0 * -inf from becoming NaN.
    return total.log() - x.clamp_(min=-1000).mul_(w).sum(-1) / total


def draw_tokens(
    logits: Tensor, mask_id: int, uniform: Tensor, config: SamplerConfig, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens (n,) and their probability (n,); arguments as in `sample_tokens`."""
    x = relative(logits, mask_id)
    w = weights_(x.clone())
    drawn = pick(x, w, uniform, config, seen)
    return drawn, probability_of(drawn, w)


def probability_of(drawn: Tensor, w: Tensor) -> Tensor:
    """(n,) the share of each row's token in the weights (n, V)."""
    return w.gather(-1, drawn[:, None]).squeeze(-1) / w.sum(-1)


def sample_tokens(
    logits: Tensor,
    mask_id: int,
    uniform: Tensor,
    config: SamplerConfig,
    seen: Tensor | None = None,
    drawn: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """One token per row, with its statistics.

    Applies repetition penalty, temperature, top-k and top-p, in this order, then samples exactly; temperature 0 takes
    the most probable token.

    Args:
        logits: (n, mask_id + 1).
        uniform: (n,) float64 in [0, 1).
        seen: (n, mask_id) bool, the tokens that the repetition penalty applies to, or None for none.
        drawn: (n,) the tokens, if they have been drawn before.

    Returns tokens (n,) int64 and statistics of the denoiser's distribution before temperature and filters: the
    tokens' probability (n,), the entropy (n,), ids (n, 5) and probabilities (n, 5) of the most probable tokens, best
    first (fewer columns in a smaller vocabulary).
    """
    x = relative(logits, mask_id)
    w = weights_(x.clone())
    total = w.sum(-1)
    tokens = pick(x, w, uniform, config, seen) if drawn is None else drawn
    top, ids = w.topk(min(TOP_TOKENS, mask_id), dim=-1)
    return tokens, (probability_of(tokens, w), _entropy_(x, w, total), ids, top / total[:, None])


def likely_tokens(
    logits: Tensor, mask_id: int, config: SamplerConfig, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens (n, count) that `draw_tokens` draws most often, the commonest first, and their shares (n, count).

    At temperature 0, which always draws the same one, those of temperature 1.
    """
    w = filtered(weights_(relative(logits, mask_id).double() / (config.temperature or 1)), config)
    share, ids = (w / w.sum(-1, keepdim=True)).topk(min(count, mask_id), dim=-1)
    return ids.cpu().numpy(), share.cpu().numpy()


def token_rank(logits: Tensor, mask_id: int, tokens: Tensor) -> Tensor:
    """(n,) rank of each row's token in the denoiser's distribution, from 1 for the most probable; ties share a rank."""
    kept = logits[:, :mask_id]
    return (kept > kept.gather(-1, tokens[:, None])).sum(-1) + 1


def pick(x: Tensor, w: Tensor, uniform: Tensor, config: SamplerConfig, seen: Tensor | None) -> Tensor:
    """(n,) tokens, from relative logits x (n, V) and their weights w; other arguments as in `sample_tokens`."""
    if seen is not None:
        x = penalize(x, w, seen, config.repetition_penalty)
    if config.temperature == 0:
        return x.argmax(-1)
    if seen is not None or config.temperature != 1:
        x = x.double()
        w = weights_((x - x.amax(-1, keepdim=True)) / config.temperature)
    return inverse_cdf(filtered(w, config), uniform)


def filtered(w: Tensor, config: SamplerConfig) -> Tensor:
    """The weights (n, V) after top-k and top-p."""
    if config.top_k is not None:
        w = keep_top_k(w, config.top_k)
    if config.top_p is not None and config.top_p < 1:
        w = keep_top_p(w, config.top_p)
    return w


def inverse_cdf(w: Tensor, uniform: Tensor) -> Tensor:
    """(n,) samples from weights (n, V) by the inverse of their cumulative sum, in float64.

    The sample is the first token whose cumulative weight exceeds uniform * total. A token of weight 0 does not raise
    the sum, so it is never drawn. The cumulative sum has two levels, over blocks and over the tokens of the block where
    it passes the target, so that the sequential float64 sum is 256 times shorter. In float32 a block's sum would lose
    tokens seven digits rarer than its best.
    """
    tokens = w.shape[1]
    whole = tokens - tokens % CDF_BLOCK
    sums = [w[:, :whole].unflatten(1, (-1, CDF_BLOCK)).sum(-1, dtype=torch.float64)] if whole else []
    sums += [w[:, whole:].sum(-1, dtype=torch.float64, keepdim=True)] if whole < tokens else []
    until = torch.cat(sums, 1).cumsum(-1)  # (n, blocks)
    target = torch.minimum(uniform[:, None] * until[:, -1:], _just_below(until[:, -1:]))
    block = torch.searchsorted(until, target, right=True)  # (n, 1)
    before = until.gather(1, (block - 1).clamp(min=0)) * (block > 0)

    ids = block * CDF_BLOCK + torch.arange(CDF_BLOCK, device=w.device)  # (n, CDF_BLOCK)
    inside = w.gather(1, ids.clamp(max=tokens - 1)) * (ids < tokens)
    cumulative = inside.cumsum(-1, dtype=torch.float64)
    # These weights were summed in another order above: rounding must not push the remaining target past their sum.
    left = torch.minimum(target - before, _just_below(cumulative[:, -1:]))
    drawn = block * CDF_BLOCK + torch.searchsorted(cumulative, left, right=True)
    return drawn.squeeze(1).clamp(max=tokens - 1)  # only a row of NaN reaches the bound


def _just_below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.zeros_like(x))


def keep_top_k(w: Tensor, k: int) -> Tensor:
    """The k largest weights of each row, zero elsewhere (exactly k, also with ties)."""
    values, ids = w.topk(min(k, w.shape[-1]), dim=-1)
    return torch.zeros_like(w).scatter(-1, ids, values)


def keep_top_p(w: Tensor, p: float) -> Tensor:
    """Nucleus (Holtzman et al., arXiv:1904.09751): the smallest set of best tokens with a share p of the sum."""
    ordered, ids = w.sort(dim=-1, descending=True, stable=True)
    running = ordered.cumsum(-1, dtype=torch.float64)
    better = running - ordered  # weight of all better tokens: 0 for the best, which is therefore always kept
    ordered = ordered.masked_fill(better >= p * running[:, -1:], 0)
    return torch.zeros_like(w).scatter(-1, ids, ordered)


def penalize(x: Tensor, w: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Log-probabilities with every seen token's probability raised to the power `penalty`.

    The repetition penalty of CTRL (Keskar et al., arXiv:1909.05858) divides positive logits and multiplies negative
    ones. Log-probabilities are never positive, so this is a single rule that does not depend on the logits' offset.
    """
    log_p = x - w.sum(-1, keepdim=True).log()
    return torch.where(seen, log_p * penalty, log_p)
