"""What is known of a generation before its first denoiser call, so that nobody has to ask the device on the way.

Which token goes in depends on the denoiser. How many go in at each step does not, for any strategy but `threshold`,
and so every noise level is known. For the strategies that draw their positions at random it is known *where*, too:

    blind    ancestral, random, remask, first_hitting    places and uniform numbers of every step
    scored   confidence, entropy, margin                 the number of places of every step

The plan is the plain sampler's own run as far as masks go: same functions, same noise, same rounding.
Symbols: S denoiser calls, B texts of L positions; a *place* is b L + p, position p of text b, and B L is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffuapriel.sampling.noise import Noise
from diffuapriel.sampling.state import State, masked_share
from diffuapriel.sampling.strategies import CHOOSERS, Choice, quota

if TYPE_CHECKING:
    from diffuapriel.sampling.sampler import Sampler

BLIND = ("ancestral", "random", "remask", "first_hitting")
SCORED = ("confidence", "entropy", "margin")

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the host tells the device of a generation.

    Attributes:
        steps: the sampler's step of each call, S of them, which names its noise.
        tables: what each call needs, by name, S rows each:
            sigma (S, B) float32, the noise level to tell;
            quota (S, B) int64, how many places to reveal in each text [scored];
            places (S, k) int64, which to reveal, and uniform (S, k) float64, to draw their tokens with [blind];
            cleared (S, r) int64, which go back to [MASK] before the call [blind; r is 0 but for `remask`].
        holes: the most [MASK]s at any call, all texts together. most: the most places one text reveals in a call.
    k, holes and most are rounded up a little, so that generations of about one size are of one size.
    """

    steps: list[int]
    tables: dict[str, Array]
    holes: int
    most: int


def plan(sampler: Sampler, state: State) -> Plan:
    """The plan of a run from `state` to its end; no calls when nothing is masked."""
    make = _blind if sampler.config.strategy in BLIND else _scored
    return make(sampler, state)


def _scored(sampler: Sampler, state: State) -> Plan:
    """Counting is enough: which of the masks go plays no part in how many."""
    texts, positions = state.ids.shape
    masks, free = state.masked.sum(1), np.maximum(1, (~state.fixed).sum(1))
    holes, steps, levels, quotas = int(masks.sum()), [], [], []
    while masks.any():
        steps.append(state.step + len(steps))
        levels.append(masks / free)
        quotas.append(quota(masks, max(1, sampler.config.steps - steps[-1])))
        masks = masks - quotas[-1]
    sigma = sampler.sigma(np.reshape(levels, (-1, texts)), state.fixed)
    table = np.array(quotas, dtype=np.int64)
    most = int(table.max(initial=0))
    tables = {"sigma": sigma, "quota": table}
    return Plan(steps, tables, min(rounded(holes), texts * positions), min(rounded(most), positions))


def _blind(sampler: Sampler, state: State) -> Plan:
    """A call that would reveal nothing is not made: nobody would read its answer."""
    steps, levels, places, uniform, cleared = [], [], [], [], []
    waiting: list[Array] = []  # places that went back to [MASK] since the last call
    for now, choice, noise in _follow(sampler, state):
        if choice.reveal.any():
            steps.append(now.step)
            levels.append(sampler.level(now))
            places.append(np.flatnonzero(choice.reveal))
            uniform.append(noise.token[choice.reveal])
            cleared.append(np.concatenate(waiting) if waiting else np.empty(0, dtype=np.int64))
            waiting = []
        if choice.remask is not None and choice.remask.any():
            waiting.append(np.flatnonzero(choice.remask))
    none = state.ids.size
    tables = {
        "sigma": sampler.sigma(np.reshape(levels, (-1, len(state.ids))), state.fixed),
        "places": _table(places, none),
        "uniform": _table(uniform, 0.0),
        "cleared": _table(cleared, none),
    }
    return Plan(steps, tables, 0, 0)


def _follow(sampler: Sampler, state: State) -> Iterator[tuple[State, Choice, Noise]]:
    """The run as far as masks go: state, choice and noise of every step. Token 0 stands for whatever goes in."""
    choose = CHOOSERS[sampler.config.strategy]
    unseen = torch.empty(0, state.mask_id + 1)
    while not sampler.done(state):
        noise = sampler.noise(state)
        choice = choose(sampler.moment(state, unseen, noise.where))
        yield state, choice, noise
        ids = state.ids.copy()
        ids[choice.reveal] = 0
        if choice.remask is not None:
            ids[choice.remask] = state.mask_id
        t = masked_share(ids, state.fixed, state.mask_id) if choice.t is None else choice.t
        state = state.but(ids=ids, step=state.step + 1, t=t)


def _table(rows: list[Array], padding: float) -> Array:
    """(S, longest row, rounded up)."""
    table = np.full((len(rows), rounded(max(map(len, rows), default=0))), padding)
    for row, values in zip(table, rows):
        row[: len(values)] = values
    return table


def rounded(n: int) -> int:
    """`n`, up to an eighth more: at most eight sizes between a power of two and the next."""
    step = 1 << max(0, n.bit_length() - 4)
    return -(-n // step) * step
