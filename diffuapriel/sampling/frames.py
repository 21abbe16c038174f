"""One step as plain Python values, for screens, files and tests.

A frame holds no tensor: it can be kept, compared, sent and written, whatever the device. It is cheap to build, since
alternatives are listed only for the positions of the step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffuapriel.sampling.state import State

EDITS = ("pin", "unpin", "mask", "type", "choose", "move")  # what a person can do to a token
DECIMALS = 6  # of probabilities, entropies and milliseconds: enough for any screen, half the JSON


@dataclass(frozen=True)
class StepFrame:
    """The canvas after a step, and what the step did.

    Attributes:
        step: 0 is the start canvas.
        t: time after the step, from 1 to 0 (see State.t).
        ids: token ids of the whole canvas.
        revealed, remasked: positions changed by this step, ascending.
        confidence: per position, the probability of its token at the step that revealed it, before temperature and
            filters; None where masked or given.
        entropy: per position, the entropy in nats of the distribution at that step.
        top_k: for each revealed position its (id, probability) pairs, best first, at most five.
        nfe: denoiser calls so far.
        ms: milliseconds of this step, denoiser and sampler together; denoiser_ms: the denoiser's part.
        why: for each revealed position, the rank of its token in the denoiser's distribution (1: most probable) and
            the score that the strategy compared there: a probability, an entropy, a margin or a random number. Of
            `speculative`, which compares nothing, the probability of the token.
        runner_up: the best such score among the positions that stayed masked, None where there is none.
        threshold: what a score had to reach or, for a probability, stay below, if anything.
        draft: (position, token id) of the masked positions whose drafts the next pass of `speculative` verifies.
        edits: what a person did at which position, in EDITS. Such a frame is not a step of the sampler: nfe does not
            grow, `revealed` is what the person wrote and `remasked` what the person cleared.
    """

    step: int
    t: float
    ids: tuple[int, ...]
    revealed: tuple[int, ...]
    remasked: tuple[int, ...]
    confidence: tuple[float | None, ...]
    entropy: tuple[float | None, ...]
    top_k: dict[int, tuple[tuple[int, float], ...]]
    nfe: int
    ms: float
    denoiser_ms: float = 0.0
    why: dict[int, tuple[int, float]] = field(default_factory=dict)
    runner_up: float | None = None
    threshold: float | None = None
    edits: dict[int, str] = field(default_factory=dict)
    draft: tuple[tuple[int, int], ...] = ()


def frame_of(state: State, began: float | None = None, denoiser_ms: float = 0.0) -> StepFrame:
    """The frame of a state with one row. `began`: `time.perf_counter()` at the start of the step, if it is timed."""
    revealed = tuple(np.flatnonzero(state.revealed[0]).tolist())
    shown = zip(revealed, state.top_ids.tolist(), state.top_probs.round(DECIMALS).tolist())
    masked = np.flatnonzero(state.masked[0])
    draft = state.drafts[0, 0, masked]
    draft = draft[: int(np.append(draft < 0, True).argmax())]  # up to the first position without one
    scores = zip(state.rank.tolist(), state.score.round(DECIMALS).tolist())
    fields: dict[str, Any] = {
        "step": state.step,
        "t": float(state.t[0]),
        "ids": tuple(state.ids[0].tolist()),
        "revealed": revealed,
        "remasked": tuple(np.flatnonzero(state.remasked[0]).tolist()),
        "confidence": _numbers(state.confidence[0]),
        "entropy": _numbers(state.entropy[0]),
        "top_k": {position: tuple(zip(ids, probs)) for position, ids, probs in shown},
        "nfe": int(state.nfe[0]),
        "why": dict(zip(revealed, scores)),
        "runner_up": _numbers(state.runner_up)[0],
        "draft": tuple(zip(masked.tolist(), draft.tolist())),
        "threshold": None if state.threshold is None else round(min(1.0, state.threshold), DECIMALS),
    }
    ms = 0.0 if began is None else (time.perf_counter() - began) * 1e3
    return StepFrame(**fields, ms=round(ms, DECIMALS), denoiser_ms=round(denoiser_ms, DECIMALS))


def frame_to_dict(frame: StepFrame) -> dict[str, Any]:
    """The frame as JSON values, as player.js reads them; without `draft` where there is none."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(frame).items()}
    top_k = {str(p): [list(pair) for pair in pairs] for p, pairs in frame.top_k.items()}
    why = {str(p): list(pair) for p, pair in frame.why.items()}
    values |= {"top_k": top_k, "why": why, "edits": {str(p): kind for p, kind in frame.edits.items()}}
    draft = [list(pair) for pair in values.pop("draft")]
    return values | {"draft": draft} if draft else values


def _numbers(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    # v == v is false only for NaN: nothing was drawn there. Adding 0.0 turns -0.0 into 0.0.
    return tuple([v if v == v else None for v in (values.round(DECIMALS) + 0.0).tolist()])
