"""A run that a person steers: stopped anywhere, edited, gone on with, branched.

    run = Steered(canvas, SamplerConfig(strategy="confidence"), get_schedule("log-linear"))
    frame = run.advance(denoiser)          # a step of the sampler
    frame = run.mask([3, 4])               # a person's turn: also put, choose and pin
    other, run = run, run.branch(12)       # as it was after its twelfth moment; from there it may go another way
    trace = run.trace(tokenizer)           # replays everywhere, with what was the person's marked as theirs

A *moment* is a step of the sampler or an edit; `frame.step` counts moments. The state is edited between two pure
steps and nowhere else, so the same seed and the same edits give the same text. An edit before the first step is no
moment: it changes the canvas that the run starts from.

Only what a moment changed is kept: a run of 1,024 tokens in 256 steps takes about a megabyte. Earlier states are
made again from the start when somebody goes back to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frames import StepFrame, frame_of
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.state import State, masked_share
from diffuapriel.sampling.strategies import ON_THE_GRID
from diffuapriel.trace.trace import Trace

if TYPE_CHECKING:
    from diffuapriel.diffusion.schedule import Schedule
    from diffuapriel.sampling.sampler import DenoiserLike
    from diffuapriel.tokenizer import Tokenizer

FIXES = ("pin", "type", "choose")  # edits after which a token stays whatever the sampler does


@dataclass(frozen=True, eq=False)
class Moment:
    """What one moment changed. `thin` is its frame, in which ids, confidence and entropy are those of `positions`."""

    thin: StepFrame
    positions: NDArray[np.int64]
    step: int  # of the sampler, by then
    steps: int  # granted to the sampler by then

    @classmethod
    def of(cls, frame: StepFrame, positions: Iterable[int], step: int, steps: int) -> Moment:
        """The moment of a whole frame that changed `positions`."""
        at = sorted(positions)
        columns = {name: getattr(frame, name) for name in ("ids", "confidence", "entropy")}
        thin = replace(frame, **{name: tuple([column[p] for p in at]) for name, column in columns.items()})
        return cls(thin, np.array(at, dtype=np.int64), step, steps)


class Steered:
    """One canvas on its way, and the way back.

    Args: canvas, on the denoiser's device; config; schedule, as for a Sampler. Attributes: `canvas` the start,
    `state` the newest state, `moments` what happened since, `steps` the sampler's steps granted so far.

    An edit that opens holes grants steps for them, at the pace that the run began with; otherwise all of them would
    be filled in one step. An edit raises ValueError where it cannot be, and returns its frame.
    """

    def __init__(self, canvas: Canvas, config: SamplerConfig, schedule: Schedule) -> None:
        self.config, self.schedule, self.canvas = config, schedule, canvas
        self.moments: list[Moment] = []
        self.steps = config.steps
        self._sampler = Sampler(config, schedule, canvas.mask_id)
        self.state = self._sampler.start(canvas)

    def __len__(self) -> int:
        """Moments so far."""
        return len(self.moments)

    @property
    def done(self) -> bool:
        """Whether the sampler has nothing left to do."""
        return self._sampler.done(self.state)

    @property
    def planned(self) -> int:
        """Moments at the end of the run, if nobody interferes."""
        left = replace(self.config, steps=max(1, self.steps - self.state.step))
        return len(self) + left.max_calls(int(self.state.masked.sum()))

    def advance(self, denoiser: DenoiserLike) -> StepFrame:
        """One denoiser call and one step. Raises ValueError where there is nothing left to do."""
        if self.done:
            raise ValueError("there is no [MASK] left to fill; mask something first")
        self.state, frame = self._sampler.show(denoiser, self.state)
        return self._keep(frame)

    # -- a person's turn --

    def mask(self, positions: Sequence[int]) -> StepFrame:
        """Clear positions to [MASK]; what was pinned there no longer is."""
        at = self._positions(positions)
        if (self.state.ids[0, at] == self.canvas.mask_id).all():
            raise ValueError("this is masked already")
        return self._edit(["mask"] * len(at), at, np.full(len(at), self.canvas.mask_id))

    def pin(self, positions: Sequence[int], pinned: bool = True) -> StepFrame:
        """Tokens that nothing but a person changes from now on, or no longer so; a [MASK] is passed over."""
        at = self._positions(positions)
        at = at[self.state.ids[0, at] != self.canvas.mask_id]
        if not len(at):
            raise ValueError("a [MASK] cannot be pinned; write something there first")
        return self._edit(["pin" if pinned else "unpin"] * len(at), at, self.state.ids[0, at])

    def put(self, first: int, ids: Sequence[int], until: int | None = None, filler: int = -1) -> StepFrame:
        """Write token ids at `first` and after it; they are pinned, where they are no [MASK].

        `until` is the last position that they replace (None: the last one they take). Places left of it become
        [MASK]. Where they need more, what follows moves right until [MASK]s give way, or `filler` tokens at the end
        of the canvas, of which one stays. Raises ValueError where that is not enough.
        """
        mask_id, row = self.canvas.mask_id, self.state.ids[0]
        _check_ids(ids, mask_id)
        until = first + len(ids) - 1 if until is None else until
        self._positions(range(first, until + 1))
        left = until + 1 - first - len(ids)
        moved = self._make_room(until + 1, -left, filler) if left < 0 else []
        values = [*ids, *[mask_id] * left, *row[moved].tolist()]
        kinds = ["mask" if i == mask_id else "type" for i in values[: len(values) - len(moved)]]
        kinds += ["type" if fixed else "move" for fixed in self.state.fixed[0, moved]]
        at = np.arange(first, first + len(values))
        new = np.full(len(values) - len(moved), np.nan)  # nobody knows how sure a person is
        sure = {name: [*new, *getattr(self.state, name)[0, moved]] for name in ("confidence", "entropy")}
        candidates = {int(at[p - len(moved)]): self.candidates(moved[p]) for p in range(len(moved))}
        return self._edit(kinds, at, np.array(values), sure, {p: c for p, c in candidates.items() if c})

    def _make_room(self, start: int, places: int, filler: int) -> list[int]:
        """The positions from `start` on whose tokens move, so that so many places become free before them."""
        row, moved, room = self.state.ids[0].tolist(), [], 0
        for p in range(start, len(row)):
            if room == places:
                return moved
            if row[p] == self.canvas.mask_id:
                room += 1
            else:
                moved.append(p)
        while room < places and len(moved) > 1 and row[moved[-1]] == row[moved[-2]] == filler:
            del moved[-1]
            room += 1
        if room < places:
            raise ValueError(
                f"the text needs {places} places more and {room} are free behind it; mask something there"
            )
        return moved

    def choose(self, position: int, token: int) -> StepFrame:
        """Take another of the tokens that were the most probable when `position` was filled; it is pinned."""
        at = self._positions([position])
        candidates = self.candidates(position)
        probability = dict(candidates).get(token)
        if probability is None:
            raise ValueError(f"token {token} is none of the candidates that position {position} had")
        sure = {"confidence": probability, "entropy": self.state.entropy[0, position]}
        return self._edit(["choose"], at, np.array([token]), sure, {position: candidates})

    def candidates(self, position: int) -> tuple[tuple[int, float], ...]:
        """(id, probability) of what was likely when the token at `position` came; empty if no model put it there."""
        for moment in reversed(self.moments):
            if position in moment.thin.top_k:
                return moment.thin.top_k[position]
            if moment.thin.edits.get(position) in ("mask", "type"):
                return ()
        return ()

    def _positions(self, positions: Sequence[int]) -> NDArray[np.int64]:
        at = np.unique(np.asarray(positions, dtype=np.int64))
        if not len(at) or at[0] < 0 or at[-1] >= len(self.canvas):
            shown = ", ".join(map(str, at[:4])) or "none"
            raise ValueError(f"positions: {shown}; permitted: one or more from 0 to {len(self.canvas) - 1}")
        return at

    def _edit(
        self,
        kinds: list[str],
        at: NDArray[np.int64],
        ids: NDArray[np.int64],
        sure: Mapping[str, Any] | None = None,
        candidates: dict[int, tuple[tuple[int, float], ...]] | None = None,
    ) -> StepFrame:
        """Put `ids` at positions `at`, ascending; `sure` are the confidences and the entropies that go with them."""
        state, mask_id = self.state, self.canvas.mask_id
        new = {name: getattr(state, name).copy() for name in ("ids", "fixed", "confidence", "entropy")}
        new["ids"][0, at], new["fixed"][0, at] = ids, [kind in FIXES for kind in kinds]
        if not self.moments:
            self.canvas = self._canvas(new["ids"], new["fixed"])
            self.state = self._sampler.start(self.canvas)
            return frame_of(self.state)
        masked, touched = new["ids"] == mask_id, np.zeros_like(state.fixed)
        if kinds[0] not in ("pin", "unpin"):
            touched[0, at] = True
            for name in ("confidence", "entropy"):
                new[name][0, at] = (sure or {}).get(name, np.nan)
        if self.config.strategy not in ON_THE_GRID:
            new["t"] = masked_share(new["ids"], new["fixed"], mask_id)
        quiet = State.initial(state.ids, state.fixed, mask_id, state.device, state.first_row)
        nothing = {name: getattr(quiet, name) for name in _OF_A_STEP}
        self.state = state.but(
            **nothing, **new, revealed=touched & ~masked, remasked=touched & masked & ~state.masked
        )
        self._grant(int(masked.sum()), state.step)
        edits = dict(zip(at.tolist(), kinds))
        return self._keep(replace(frame_of(self.state), edits=edits, top_k=candidates or {}))

    def _keep(self, frame: StepFrame) -> StepFrame:
        frame = replace(frame, step=len(self) + 1)
        changed = {*frame.revealed, *frame.remasked, *frame.edits}
        self.moments.append(Moment.of(frame, changed, self.state.step, self.steps))
        return frame

    def _grant(self, holes: int, step: int) -> None:
        """After `step`, so many steps for so many holes as at the start of the run."""
        at_start = max(1, int(self.canvas.masked.sum()))
        needed = min(self.config.steps, -(-holes * self.config.steps // at_start))
        self._allow(max(self.steps, step + needed))

    def _allow(self, steps: int) -> None:
        if steps != self.steps:
            self.steps = steps
            self._sampler = Sampler(replace(self.config, steps=steps), self.schedule, self.canvas.mask_id)

    def _canvas(self, ids: NDArray[np.int64], fixed: NDArray[np.bool_]) -> Canvas:
        new_ids, new_fixed = (torch.from_numpy(a[0].copy()).to(self.canvas.ids.device) for a in (ids, fixed))
        return Canvas(new_ids, new_fixed, self.canvas.mask_id)

    # -- the way back --

    def branch(self, at: int) -> Steered:
        """This run as it was after moment `at` (0: the start), to go on from there; this one stays as it is."""
        if not 0 <= at <= len(self):
            raise ValueError(f"moment {at}; permitted: 0 to {len(self)}")
        run = Steered(self.canvas, self.config, self.schedule)
        run._adopt(self.moments[:at])
        return run

    def again(self, config: SamplerConfig) -> Steered:
        """From the start, with what is fixed now and everything else masked."""
        fixed = self.state.fixed
        canvas = self._canvas(np.where(fixed, self.state.ids, self.canvas.mask_id), fixed)
        return Steered(canvas, config, self.schedule)

    def _adopt(self, moments: list[Moment]) -> None:
        """Take moments that follow the start, and make the state after the last of them."""
        self.moments = moments
        if not moments:
            return
        start, newest = self.state, moments[-1]
        new = {name: getattr(start, name).copy() for name in ("ids", "fixed", "confidence", "entropy")}
        for moment in moments:
            for name in ("ids", "confidence", "entropy"):
                values = np.array(getattr(moment.thin, name), dtype=new[name].dtype)  # None becomes NaN
                new[name][0, moment.positions] = values
            for position, kind in moment.thin.edits.items():
                new["fixed"][0, position] = kind in FIXES
        counts = {"t": np.array([newest.thin.t]), "nfe": np.array([newest.thin.nfe])}
        self.state = start.but(**new, **counts, step=newest.step)
        self._allow(newest.steps)

    def frames(self) -> Iterator[StepFrame]:
        """Every frame from the start, whole."""
        start = frame_of(self._sampler.start(self.canvas))
        yield start
        columns = {name: list(getattr(start, name)) for name in ("ids", "confidence", "entropy")}
        for moment in self.moments:
            for name, column in columns.items():
                for p, value in zip(moment.positions.tolist(), getattr(moment.thin, name)):
                    column[p] = value
            yield replace(moment.thin, **{name: tuple(column) for name, column in columns.items()})

    def trace(self, tokenizer: Tokenizer, **about: str) -> Trace:
        """The run so far; `about` as in `Trace.of`."""
        about.setdefault("schedule", self.schedule.name)
        return Trace.of(self.frames(), self.canvas, tokenizer, self.config, **about)

    @classmethod
    def of_trace(cls, trace: Trace, schedule: Schedule, device: torch.device | str = "cpu") -> Steered:
        """A recorded run, to go on with. Raises ValueError or TypeError where its options are not a sampler's."""
        names = {field.name for field in dataclasses.fields(SamplerConfig)}
        options: dict[str, Any] = {name: value for name, value in trace.meta.items() if name in names}
        ids = torch.tensor(trace.frames[0].ids, dtype=torch.int64)
        canvas = Canvas(ids, torch.tensor(trace.fixed), trace.mask_id)
        run = cls(canvas.to(device), SamplerConfig(**options), schedule)
        moments, step = [], 0
        for before, frame in zip(trace.frames, trace.frames[1:]):
            step += not frame.edits
            if frame.edits:
                run._grant(frame.ids.count(trace.mask_id), step)
            columns = [zip(getattr(before, name), getattr(frame, name)) for name in ("ids", "confidence")]
            changed = {p for column in columns for p, (old, new) in enumerate(column) if old != new}
            changed |= {*frame.revealed, *frame.remasked, *frame.edits}
            moments.append(Moment.of(replace(frame, step=len(moments) + 1), changed, step, run.steps))
        run._adopt(moments)
        return run


def retyped(canvas: Canvas, first: int, until: int, ids: Sequence[int], longest: int) -> Canvas:
    """The canvas of a run that has not begun, with other tokens from `first` to `until`, fixed where no [MASK].

    What follows moves, as in any text editor. Masks at the end give way or are added, so that the length stays; where
    there are none, the length changes. Raises ValueError beyond `longest` tokens and for positions outside.
    """
    if not 0 <= first <= until < len(canvas):
        raise ValueError(f"positions {first} to {until}; permitted: 0 to {len(canvas) - 1}")
    _check_ids(ids, canvas.mask_id)
    before, after = canvas.ids[:first].tolist(), canvas.ids[until + 1 :].tolist()
    surplus = len(ids) - (until + 1 - first)
    if after and after[-1] == canvas.mask_id:
        after += [canvas.mask_id] * -surplus
        while surplus > 0 and after and after[-1] == canvas.mask_id:
            surplus -= 1
            del after[-1]
    new = torch.tensor([*before, *ids, *after], dtype=torch.int64)
    if len(new) > longest:
        raise ValueError(f"the text would take {len(new):,} tokens; permitted: up to {longest:,}")
    fixed = torch.zeros(len(new), dtype=torch.bool)
    fixed[:first] = canvas.fixed[:first].cpu()
    fixed[first : first + len(ids)] = torch.tensor(list(ids)) != canvas.mask_id
    rest = canvas.fixed[until + 1 :].cpu()[: len(after)]
    fixed[first + len(ids) : first + len(ids) + len(rest)] = rest
    return Canvas(new.to(canvas.ids.device), fixed.to(canvas.ids.device), canvas.mask_id)


def _check_ids(ids: Sequence[int], mask_id: int) -> None:
    if not ids or not all(0 <= i <= mask_id for i in ids):
        raise ValueError(f"token ids {list(ids)[:8]}; permitted: one or more from 0 to {mask_id}")


_OF_A_STEP = ("top_ids", "top_probs", "rank", "score", "rival", "bar")  # what only a step of the sampler says
