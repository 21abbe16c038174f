"""Corruption, the SUBS parameterisation and the NELBO (MDLM, arXiv:2406.07524, section 3).

    x_t   each token of x independently becomes [MASK] with probability 1 - alpha(t)
    SUBS  the denoiser never predicts [MASK], and what is not masked is carried over at no cost
    NELBO = E_t  weight(t)  sum over masked positions of  -log p(x_i | x_t)

divided by the number of *all* tokens, which makes it an upper bound on nats/token. Dividing by the masked
count, clipping t or shifting the labels would not be a bound. t is stratified over the batch.
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

T_MIN = 1e-3  # smallest time drawn; below it almost nothing is masked


class DenoiserLike(Protocol):
    """Anything that gives logits: (ids (batch, length), sigma (batch,), positions) to (chosen, vocabulary), where
    [MASK] is the last token."""

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Nelbo:
    """loss: scalar, nats/token over all tokens; nats: (batch,) summed over each row; masked: masked tokens."""

    loss: Tensor
    nats: Tensor
    masked: Tensor


def stratified_t(
    n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """n times in [T_MIN, 1], one in each n-th of the interval: the "antithetic" draw of MDLM. (n,) float32."""
    if n < 1:
        raise ValueError(f"n is {n}; at least one time must be drawn")
    u = torch.rand(n, generator=generator, device=device)
    u = (u / n + torch.arange(n, device=device) / n) % 1
    return (1 - T_MIN) * u + T_MIN


@lru_cache(maxsize=8)
def spread(n: int, device: torch.device | str = "cpu") -> Tensor:
    """0 to n - 1 in an order of which every stretch covers the whole range evenly (van der Corput's). (n,) int64.

    Of stratified times taken in this order every part of a batch, and every rank's, has early and late ones.
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

    noise (batch, length), uniform in [0, 1), decides; it is drawn from the generator when left out.
    """
    if t.shape != ids.shape[:1]:
        raise ValueError(f"t has shape {tuple(t.shape)}; it must be ({ids.shape[0]},), one time per row")
    if noise is None:
        noise = torch.rand(ids.shape, generator=generator, device=ids.device)
    if noise.shape != ids.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be shaped as ids {tuple(ids.shape)}")
    return ids.masked_fill(noise < 1 - schedule.alpha(t)[:, None], mask_id)


def subs_log_probs(logits: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities over clean tokens: [MASK] gets none. logits (..., vocabulary), any floating dtype.

    Computed in float32 or wider. Positions that are not masked are the caller's to carry over.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    column = torch.arange(logits.shape[-1], device=logits.device) == mask_id
    return torch.log_softmax(logits.masked_fill(column, float("-inf")), dim=-1)


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
    """One Monte-Carlo draw of the negative evidence lower bound of `ids` (batch, length).

    document_ids (batch, length), made from the clean text by `ops.document_ids.make_document_ids`, are passed to the
    denoiser, which then treats packed documents separately. It gets the boundaries for free, so the result is a bound
    on the text given its boundaries: lower by the information in the documents' lengths (it may fall below the entropy
    of the whole text), and not comparable with a bound that pays for every <|endoftext|>.

    t (batch,) is drawn stratified when left out, then the noise (batch, length) of `corrupt`. The head runs on
    masked positions only: half as much work, for which counting them, a wait for the device, is a small price. With
    `max_masked` nothing is counted and every shape is known: the head runs on so many positions, the masked ones
    first, named by int64 numbers, and the loss is NaN if there are more of these.
    With `compiled`, which is for a `Denoiser`, the cross-entropy is one compiled kernel each way: it reads logits in
    their own dtype, padding included, and keeps nothing of their size in float32, most of a GPU's time where the
    vocabulary is large.
    """
    see = cast(Callable[..., Tensor], denoiser)
    if document_ids is not None:
        see = partial(see, document_ids=document_ids)
    if compiled:
        see = partial(see, padded=True)
    if t is None:
        t = stratified_t(ids.shape[0], generator, ids.device)
    noisy = corrupt(ids, t, schedule, mask_id, generator, noise=noise)
    masked = noisy == mask_id  # (batch, length)
    cross_entropy = _compiled_cross_entropy(dynamic=max_masked is None) if compiled else _cross_entropy
    if max_masked is None:
        chosen = cross_entropy(see(noisy, schedule.sigma(t), masked), ids[masked], mask_id)
        nll = torch.zeros(ids.shape, device=ids.device, dtype=chosen.dtype).masked_scatter(masked, chosen)
    else:
        first = torch.argsort(masked.flatten(), descending=True, stable=True)[:max_masked]
        chosen = cross_entropy(see(noisy, schedule.sigma(t), first), ids.flatten()[first], mask_id)
        chosen = chosen * masked.flatten()[first] + torch.where(masked.sum() > max_masked, torch.nan, 0.0)
        nll = torch.zeros(ids.numel(), device=ids.device, dtype=chosen.dtype).index_copy(0, first, chosen)
        nll = nll.view(ids.shape)
    nats = schedule.weight(t) * nll.sum(1)
    return Nelbo(loss=nats.sum() / ids.numel(), nats=nats.detach(), masked=masked.sum())


def _cross_entropy(logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
    """-log p(target) under SUBS, without keeping log-probabilities of the whole vocabulary. (rows,)

    What stands behind [MASK] is padding, and gets no probability either.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    column = torch.arange(logits.shape[-1], device=logits.device) >= mask_id
    return F.cross_entropy(logits.masked_fill(column, float("-inf")), targets, reduction="none")


@lru_cache(maxsize=2)
def _compiled_cross_entropy(dynamic: bool) -> Callable[[Tensor, Tensor, int], Tensor]:
    """`_cross_entropy` for any number of rows, or for one: a third faster, and compiled anew for another."""
    return torch.compile(_cross_entropy, dynamic=dynamic)
