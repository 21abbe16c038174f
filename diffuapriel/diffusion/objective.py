"""Corruption, the SUBS parameterization and the NELBO (MDLM, arXiv:2406.07524, section 3).

    x_t     each token of x independently becomes [MASK] with probability 1 - alpha(t)
    SUBS    the denoiser never predicts [MASK], and unmasked tokens are copied at no cost
    NELBO = E_t [ weight(t)  sum over masked positions i of  -log p(x_i | x_t) ]

divided by the number of *all* tokens; over all t in [0, 1], and if alpha falls from 1 to 0, it is an upper bound in
nats/token. Dividing by the number of masked tokens or shifting the labels would not give a bound.

What `nelbo` draws, and training minimizes, is this bound truncated at both ends, as in MDLM: t is in [T_MIN, 1], which
keeps the weight finite, and alpha(1) = EPS, which keeps sigma finite. With c(m) the mean cost of a masked token, in
nats, when every other token is masked with probability m:

    bound     =  integral of c(m) over m from 0 to 1
    truncated =  1 / (1 - T_MIN) x integral of c(m) over m from 1 - alpha(T_MIN) to 1 - EPS

That serves to train, but as a score it is too low, by 0.1 % of log V for a uniform model under `log-linear`.
`evaluation.nelbo.evaluate_nelbo` measures the bound itself. t is stratified over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.diffusion.schedule import Schedule

T_MIN = 1e-3  # smallest t drawn: keeps weight(t) finite


class DenoiserLike(Protocol):
    """Any denoiser: (ids (batch, length), sigma (batch,), positions) to logits (chosen, vocabulary).

    [MASK] is the last token of the vocabulary.
    """

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Nelbo:
    """A Monte-Carlo estimate of the truncated bound."""

    loss: Tensor  # scalar, nats/token over all tokens; differentiable
    nats: Tensor  # (batch,), nats of each row
    masked: Tensor  # scalar, number of masked tokens


def stratified_t(n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """n times in [T_MIN, 1], one in each n-th of the interval (MDLM's "antithetic" sampling). (n,) float32."""
    if n < 1:
        raise ValueError(f"n is {n}; at least one time must be drawn")
    u = torch.rand(n, generator=generator, device=device)
    u = (u / n + torch.arange(n, device=device) / n) % 1
    return (1 - T_MIN) * u + T_MIN


@lru_cache(maxsize=8)
def van_der_corput_order(n: int, device: torch.device | str = "cpu") -> Tensor:
    """0 to n - 1 in van der Corput order: every contiguous part covers the range evenly. (n,) int64.

    Stratified times in this order give every micro-batch, and every rank, early and late times.
    """
    bits = max(1, (n - 1).bit_length())
    return torch.tensor(sorted(range(n), key=lambda i: f"{i:0{bits}b}"[::-1]), device=device)


def corrupt(
    ids: Tensor,
    t: Tensor,
    schedule: Schedule,
    mask_id: int,
    generator: torch.Generator | None = None,
    *,
    noise: Tensor | None = None,
) -> Tensor:
    """Mask each token of row r with probability 1 - alpha(t_r). ids (batch, length), t (batch,).

    noise (batch, length), uniform in [0, 1), decides which; by default it is drawn from `generator`.
    """
    if t.shape != ids.shape[:1]:
        raise ValueError(f"t has shape {tuple(t.shape)}; it must be ({ids.shape[0]},), one time per row")
    if noise is None:
        noise = torch.rand(ids.shape, generator=generator, device=ids.device)
    if noise.shape != ids.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be shaped as ids {tuple(ids.shape)}")
    return ids.masked_fill(noise < 1 - schedule.alpha(t)[:, None], mask_id)


def subs_logits(logits: Tensor, mask_id: int) -> Tensor:
    """Logits (..., vocabulary) with -inf for [MASK] and for the padding behind it; float32, or float64 as given."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    column = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill(column >= mask_id, float("-inf"))


def subs_log_probs(logits: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities over clean tokens, (..., vocabulary); copying unmasked positions is left to the caller."""
    return torch.log_softmax(subs_logits(logits, mask_id), dim=-1)


def nelbo(
    denoiser: DenoiserLike,
    ids: Tensor,
    schedule: Schedule,
    mask_id: int,
    *,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    document_ids: Tensor | None = None,
    max_masked: int | None = None,
    compiled: bool = False,
) -> Nelbo:
    """One Monte-Carlo draw of the NELBO of `ids` (batch, length), truncated as the module's docstring says.

        nats_r = weight(t_r)  sum over masked positions i of row r of  -log p(x_i | x_t)
        loss   = sum_r nats_r / (batch x length)

    Args:
        denoiser: called at the masked positions only, about half of them. Its LM head then costs half as much, which
            saves more than the device synchronization that counting the positions needs.
        t: (batch,) times; by default stratified, drawn from `generator`.
        noise: (batch, length), as for `corrupt`; by default drawn from `generator` after t.
        document_ids: (batch, length), made from the clean text by `ops.document_ids.make_document_ids` and passed to
            the denoiser, which then treats packed documents separately. It gets the boundaries for free, so the result
            is a bound on the text given its boundaries. That is lower by the information in the documents' lengths (it
            may fall below the entropy of the whole text) and not comparable with a bound that pays for <|endoftext|>.
        max_masked: makes every shape known in advance, without synchronization. The head runs at this many positions,
            the masked ones first, passed as int64; the loss is NaN if more are masked.
        compiled: for a `Denoiser`. The cross-entropy is one compiled kernel per pass, which reads the logits in their
            own dtype, padding included, and stores no float32 copy of them. With a large vocabulary such copies take
            most of a GPU's time.
    """
    logits_at = cast(Callable[..., Tensor], denoiser)
    if document_ids is not None:
        logits_at = partial(logits_at, document_ids=document_ids)
    if t is None:
        t = stratified_t(ids.shape[0], generator, ids.device)
    noisy, sigma = corrupt(ids, t, schedule, mask_id, generator, noise=noise), schedule.sigma(t)
    masked = noisy == mask_id  # (batch, length)
    nll = masked_nll(logits_at, noisy, sigma, ids, masked, mask_id, max_masked=max_masked, compiled=compiled)
    nats = schedule.weight(t) * nll.sum(1)
    return Nelbo(loss=nats.sum() / ids.numel(), nats=nats.detach(), masked=masked.sum())


def masked_nll(
    logits_at: Callable[..., Tensor],
    noisy: Tensor,
    sigma: Tensor,
    ids: Tensor,
    masked: Tensor,
    mask_id: int,
    *,
    max_masked: int | None = None,
    compiled: bool = False,
) -> Tensor:
    """-log p(x_i | noisy) at the masked positions, 0 elsewhere: (batch, length). Arguments as for `nelbo`."""
    if compiled:
        logits_at = partial(logits_at, padded=True)
    cross_entropy = _compiled_cross_entropy(dynamic=max_masked is None) if compiled else _cross_entropy
    if max_masked is None:
        nll = cross_entropy(logits_at(noisy, sigma, masked), ids[masked], mask_id)  # (masked tokens,)
        return torch.zeros(ids.shape, device=ids.device, dtype=nll.dtype).masked_scatter(masked, nll)
    flat = masked.flatten()
    first = torch.argsort(flat, descending=True, stable=True)[:max_masked]  # masked positions first
    nll = cross_entropy(logits_at(noisy, sigma, first), ids.flatten()[first], mask_id)  # (max_masked,)
    nll = nll * flat[first] + torch.where(flat.sum() > max_masked, torch.nan, 0.0)
    return torch.zeros(ids.numel(), device=ids.device, dtype=nll.dtype).index_copy(0, first, nll).view(ids.shape)


def _cross_entropy(logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
    """-log p(target) under SUBS, (rows,), without keeping log-probabilities of the whole vocabulary."""
    return F.cross_entropy(subs_logits(logits, mask_id), targets, reduction="none")


@lru_cache(maxsize=2)
def _compiled_cross_entropy(dynamic: bool) -> Callable[[Tensor, Tensor, int], Tensor]:
    """`_cross_entropy` for any number of rows, or for one fixed number: a third faster, but recompiled for another."""
    return torch.compile(_cross_entropy, dynamic=dynamic)
