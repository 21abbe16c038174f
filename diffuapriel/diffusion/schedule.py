"""Noise schedules: how likely a token is still unmasked at time t (MDLM, arXiv:2406.07524, section 3.1).

Time runs from 0 (clean) to 1 (noise). A schedule is alpha(t), the probability that a token has *not* been masked; it
falls from about 1 to about 0. Everything else follows from it:

    sigma(t)  = -log alpha(t)                    the noise level, an input of the denoiser
    weight(t) = -alpha'(t) / (1 - alpha(t))      the weight of the cross-entropy in the NELBO

    log-linear   alpha = 1 - (1 - EPS) t                          weight is exactly 1/t
    cosine       alpha = 1 - (1 - EPS) (1 - cos(pi t / 2))        MDLM's
    maskgit      alpha = 1 - (1 - EPS) sin(pi t / 2)              MaskGIT's cosine: the mirror image
    polynomial   alpha = 1 - (1 - EPS) t^2                        weight is 2/t
    quadratic    alpha = EPS + (1 - EPS) (1 - t)^2

The NELBO is an integral over the masked share 1 - alpha, from 0 to 1, so it is the same number under every schedule
that falls from 1 to 0. These stop at alpha(1) = EPS, and no t below T_MIN is drawn, so each leaves out a little of both
ends (objective.py): in expectation a uniform model over V tokens gets 0.999 log V under `log-linear`, 1.000 log V
under `cosine` and `polynomial`, and 0.998 log V under `maskgit` and `quadratic`. What differs by more is the variance.
Training draws t at random, so a schedule that concentrates t where the gradient's variance is highest is more
sample-efficient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffuapriel.config import RENAMED_SCHEDULES, SCHEDULES

EPS = 1e-3  # probability that a token survives to t = 1: keeps sigma finite


class Schedule(Protocol):
    """What the objective and the sampler need of a schedule. t is a tensor in [0, 1], any shape; so are the results."""

    @property
    def name(self) -> str: ...
    def alpha(self, t: Tensor) -> Tensor: ...
    def alpha_prime(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def weight(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _FromAlpha:
    """sigma and weight, derived from alpha and its derivative."""

    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is still unmasked at time t."""
        raise NotImplementedError

    def alpha_prime(self, t: Tensor) -> Tensor:
        """d alpha / d t, negative."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level -log alpha(t), from 0 at t = 0 to -log EPS at t = 1."""
        return -torch.log(self.alpha(t))

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the masked tokens' cross-entropy in the NELBO; infinite at t = 0."""
        return -self.alpha_prime(t) / (1 - self.alpha(t))


@dataclass(frozen=True)
class LogLinear(_FromAlpha):
    """The default: masked fraction (1 - EPS) t, so weight(t) = 1/t."""

    name: str = "log-linear"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - EPS) * t

    def alpha_prime(self, t: Tensor) -> Tensor:
        return torch.full_like(t, EPS - 1)

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t  # exact, where 1 - alpha would be rounded near t = 0


@dataclass(frozen=True)
class Cosine(_FromAlpha):
    """alpha = 1 - (1 - EPS) (1 - cos(pi t / 2)): MDLM's `CosineNoise`. At half of the times 29 % or less is masked."""

    name: str = "cosine"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - EPS) * 2 * torch.sin(math.pi * t / 4).square()  # 1 - cos(2a) = 2 sin^2(a)

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -(1 - EPS) * (math.pi / 2) * torch.sin(math.pi * t / 2)

    def weight(self, t: Tensor) -> Tensor:
        return (math.pi / 2) / torch.tan(math.pi * t / 4)  # the half-angle form, exact near t = 0


@dataclass(frozen=True)
class MaskGit(_FromAlpha):
    """The masked share is (1 - EPS) cos(pi r / 2) at r = 1 - t, the share of steps done: the cosine of MaskGIT
    (arXiv:2202.04200, section 3.3).

    The mirror image of `Cosine`: at half of the times 71 % or more is masked, so sampling reveals few tokens in the
    early steps and many in the late ones.
    """

    name: str = "maskgit"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - EPS) * torch.sin(math.pi * t / 2)

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -(1 - EPS) * (math.pi / 2) * torch.cos(math.pi * t / 2)

    def weight(self, t: Tensor) -> Tensor:
        return (math.pi / 2) / torch.tan(math.pi * t / 2)


@dataclass(frozen=True)
class Polynomial(_FromAlpha):
    """Masked fraction (1 - EPS) t^power, so weight(t) = power / t."""

    power: float = 2.0
    name: str = "polynomial"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - EPS) * t**self.power

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -(1 - EPS) * self.power * t ** (self.power - 1)

    def weight(self, t: Tensor) -> Tensor:
        return self.power / t


@dataclass(frozen=True)
class Quadratic(_FromAlpha):
    """alpha = EPS + (1 - EPS) (1 - t)^2: at half of the times three quarters or more of the tokens are masked.

    A text is then still undetermined and its gradient large. For `tiny` on tales the squared gradient norm of a row
    (under 1/t) is below 1 with up to 60 % masked and above 30 from 92 % on; this schedule lowers its mean from 4.6 to
    2.8. `small` after 45 million tokens of tales is 0.145 nats/token above the entropy, and 0.156 with log-linear (one
    run each).
    """

    name: str = "quadratic"

    def alpha(self, t: Tensor) -> Tensor:
        return EPS + (1 - EPS) * (1 - t).square()

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -2 * (1 - EPS) * (1 - t)

    def weight(self, t: Tensor) -> Tensor:
        return 2 * (1 - t) / (t * (2 - t))  # exact near t = 0


_BY_NAME = dict(zip(SCHEDULES, (LogLinear(), Cosine(), MaskGit(), Polynomial(), Quadratic()), strict=True))


def get_schedule(name: str = "log-linear") -> Schedule:
    """The schedule of that name; old names are accepted. Raises ValueError, which lists the names."""
    name = RENAMED_SCHEDULES.get(name, name)
    if name not in _BY_NAME:
        raise ValueError(f"schedule is {name!r}; permitted: {', '.join(SCHEDULES)}")
    return _BY_NAME[name]
