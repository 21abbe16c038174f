"""A generation that a person steers: pause it anywhere, edit it, continue, branch.

    run = SteeredGeneration(canvas, SamplerConfig(strategy="low_confidence"), get_schedule("log-linear"))
    frame = run.advance(denoiser)          # a step of the sampler
    frame = run.mask([3, 4])               # an edit; also write, choose and pin
    other, run = run, run.branch(12)       # the run as it was after 12 changes, which can now continue differently
    trace = run.trace(tokenizer)           # replays everywhere, with the edits marked as such

A *change* is a step of the sampler or an edit, and `frame.step` counts changes. The state is edited only between two
pure steps, so the same seed and the same edits give the same text. An edit before the first step is not a change of the
run: it modifies the start canvas.

A run stores only what each change modified: 1,024 tokens in 256 steps take about a megabyte. Earlier states are
rebuilt from the start when they are needed.
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
from diffuapriel.sampling.config import ON_SCHEDULE, SPECULATIVE, SamplerConfig
from diffuapriel.sampling.frames import DECIMALS, StepFrame, frame_of
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.state import State, masked_share
from diffuapriel.sampling.tokens import TOP_TOKENS
from diffuapriel.trace.trace import Trace

if TYPE_CHECKING:
    from diffuapriel.diffusion.schedule import Schedule
    from diffuapriel.sampling.sampler import DenoiserFunction
    from diffuapriel.tokenizer import Tokenizer

Candidates = dict[int, tuple[tuple[int, float], ...]]  # position -> (id, probability), best first

FIXING = ("pin", "type", "choose")  # edits after which the sampler never changes the token
COLUMNS = ("ids", "confidence", "entropy")  # fields of a frame with one value per position
OF_A_STEP = (
    "top_ids",
    "top_probs",
    "rank",
    "score",
    "runner_up",
    "threshold",
)  # fields that only a step sets


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One change. The ids, confidence and entropy of its `frame` are those of the changed `positions` only."""

    frame: StepFrame
    positions: NDArray[np.int64]
    step: int  # steps that the sampler has made, this change included
    steps: int  # steps that the sampler has in total, as of this change

    @classmethod
    def of(cls, frame: StepFrame, positions: Iterable[int], step: int, steps: int) -> Snapshot:
        """The snapshot of a whole frame that changed `positions`."""
        at = sorted(positions)
        columns = {name: tuple([getattr(frame, name)[p] for p in at]) for name in COLUMNS}
        return cls(replace(frame, **columns), np.array(at, dtype=np.int64), step, steps)


class SteeredGeneration:
    """An interactive generation session on one canvas, with undo.

    Args: canvas, on the denoiser's device; config and schedule as for a Sampler. Attributes: `canvas`, the start;
    `state`, the newest state; `snapshots`, the changes so far; `steps`, the sampler's total steps.

    An edit that creates holes adds steps for them, at the rate of the start of the run; otherwise one step would fill
    them all. An edit returns its frame, or raises ValueError if it is not possible.
    """

    def __init__(self, canvas: Canvas, config: SamplerConfig, schedule: Schedule) -> None:
        self.config, self.schedule, self.canvas = config, schedule, canvas
        self.snapshots: list[Snapshot] = []
        self.options_since = 0  # the change after which `config` holds; earlier ones were made with other options
        self.predictions: tuple[int, Candidates] = (-1, {})  # of `predict`: changes made so far, candidates
        self.steps = config.steps
        self._sampler = Sampler(config, schedule, canvas.mask_id)
        self.state = self._sampler.start(canvas)

    def __len__(self) -> int:
        """The number of changes so far."""
        return len(self.snapshots)

    @property
    def done(self) -> bool:
        """Whether the sampler has nothing left to do."""
        return self._sampler.done(self.state)

    @property
    def planned_steps(self) -> int:
        """The number of changes at the end of the run, without further edits."""
        left = replace(self.config, steps=max(1, self.steps - self.state.step))
        return len(self) + left.max_calls(int(self.state.masked.sum()), self.state.ids.shape[1])

    def advance(self, denoiser: DenoiserFunction) -> StepFrame:
        """One denoiser call and one step. Raises ValueError if no step is left."""
        if self.done:
            raise ValueError("there is no [MASK] left to fill; mask something first")
        before = self.state.ids
        self.state, frame = self._sampler.advance_with_frame(denoiser, self.state)
        return self._append(frame, np.flatnonzero((self.state.ids != before)[0]).tolist())

    def predict(self, denoiser: DenoiserFunction) -> Candidates:
        """What the denoiser would put at each [MASK] of the present canvas: one call, no step."""
        positions = np.flatnonzero(self.state.masked[0]).tolist()
        if not positions:
            raise ValueError("there is no [MASK] to predict; mask something first")
        with torch.no_grad():
            _, *how = (a[:1] for a in self._sampler.model_inputs(self.state))  # the ids may be those of drafts
            ids = torch.from_numpy(self.state.ids.copy()).to(self.state.device)
            logits = denoiser(ids, *how)[:, : self.canvas.mask_id]
            best = torch.softmax(logits.float(), -1).topk(min(TOP_TOKENS, self.canvas.mask_id))
        rows = zip(positions, best.indices.tolist(), best.values.double().numpy(force=True).round(DECIMALS).tolist())
        self.predictions = len(self), {p: tuple(zip(ids, probabilities)) for p, ids, probabilities in rows}
        return self.predictions[1]

    # -- edits --

    def mask(self, positions: Sequence[int]) -> StepFrame:
        """Return positions to [MASK], and unpin them."""
        at = self._positions(positions)
        if (self.state.ids[0, at] == self.canvas.mask_id).all():
            raise ValueError("this is masked already")
        return self._edit(["mask"] * len(at), at, np.full(len(at), self.canvas.mask_id))

    def pin(self, positions: Sequence[int], pinned: bool = True) -> StepFrame:
        """Fix tokens, so that only further edits change them, or unfix them; a [MASK] is skipped."""
        at = self._positions(positions)
        at = at[self.state.ids[0, at] != self.canvas.mask_id]
        if not len(at):
            raise ValueError("a [MASK] cannot be pinned; write something there first")
        return self._edit(["pin" if pinned else "unpin"] * len(at), at, self.state.ids[0, at])

    def write(self, first: int, ids: Sequence[int], until: int | None = None, filler: int = -1) -> StepFrame:
        """Write token ids from `first` on; they are pinned, except [MASK]s.

        `until` is the last position to replace (None: as many as there are ids). Positions that are left over become
        [MASK]. If there are more ids than positions, the following text moves right until enough [MASK]s are used up,
        or all but one of the `filler` tokens at the end of the canvas. Raises ValueError if there is not enough
        room.
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
        unknown = np.full(len(values) - len(moved), np.nan)  # what a person writes has no confidence
        sure = {name: [*unknown, *getattr(self.state, name)[0, moved]] for name in COLUMNS[1:]}
        candidates = {int(at[p - len(moved)]): self.candidates(moved[p]) for p in range(len(moved))}
        return self._edit(kinds, at, np.array(values), sure, {p: c for p, c in candidates.items() if c})

    def _make_room(self, start: int, needed: int, filler: int) -> list[int]:
        """The positions from `start` on whose tokens move right, to free `needed` positions before them."""
        row, moved, room = self.state.ids[0].tolist(), [], 0
        for p in range(start, len(row)):
            if room == needed:
                return moved
            if row[p] == self.canvas.mask_id:
                room += 1
            else:
                moved.append(p)
        while room < needed and len(moved) > 1 and row[moved[-1]] == row[moved[-2]] == filler:
            del moved[-1]
            room += 1
        if room < needed:
            raise ValueError(
                f"the text needs room for {needed} more, and {room} masked positions follow it; mask something there"
            )
        return moved

    def choose(self, position: int, token: int) -> StepFrame:
        """Replace a token by another of its candidates, and pin it."""
        at = self._positions([position])
        candidates = self.candidates(position)
        probability = dict(candidates).get(token)
        if probability is None:
            raise ValueError(f"token {token} is not among the candidates of position {position}")
        sure = {"confidence": probability, "entropy": self.state.entropy[0, position]}
        return self._edit(["choose"], at, np.array([token]), sure, {position: candidates})

    def candidates(self, position: int) -> tuple[tuple[int, float], ...]:
        """The most probable (id, probability) when the token at `position` was drawn; empty if it was not drawn.

        Of a [MASK], those that `predict` found for the present canvas.
        """
        if self.state.ids[0, position] == self.canvas.mask_id:
            changes, found = self.predictions
            return found.get(position, ()) if changes == len(self) else ()
        for snapshot in reversed(self.snapshots):
            if position in snapshot.frame.top_k:
                return snapshot.frame.top_k[position]
            if snapshot.frame.edits.get(position) in ("mask", "type"):
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
        candidates: Candidates | None = None,
    ) -> StepFrame:
        """Write `ids` at positions `at`, ascending; `sure` holds their confidences and entropies."""
        state, mask_id = self.state, self.canvas.mask_id
        new = {name: getattr(state, name).copy() for name in (*COLUMNS, "fixed")}
        new["ids"][0, at], new["fixed"][0, at] = ids, [kind in FIXING for kind in kinds]
        if not self.snapshots:
            self.canvas = self._canvas(new["ids"], new["fixed"])
            self.state = self._sampler.start(self.canvas)
            return frame_of(self.state)
        masked, touched = new["ids"] == mask_id, np.zeros_like(state.fixed)
        if kinds[0] not in ("pin", "unpin"):
            touched[0, at] = True
            for name in COLUMNS[1:]:
                new[name][0, at] = (sure or {}).get(name, np.nan)
        if self.config.strategy not in ON_SCHEDULE:
            new["t"] = masked_share(new["ids"], new["fixed"], mask_id)
        unstepped = State.initial(state.ids, state.fixed, mask_id, state.device, state.first_row)
        self.state = state.replace(
            **{name: getattr(unstepped, name) for name in OF_A_STEP},
            **new,
            revealed=touched & ~masked,
            remasked=touched & masked & ~state.masked,
        )
        self._add_steps(int(masked.sum()), state.step)
        edits = dict(zip(at.tolist(), kinds))
        return self._append(replace(frame_of(self.state), edits=edits, top_k=candidates or {}))

    def _append(self, frame: StepFrame, others: Iterable[int] = ()) -> StepFrame:
        """Keep a frame; others: positions that changed, beside those that it names."""
        frame = replace(frame, step=len(self) + 1)
        changed = {*frame.revealed, *frame.remasked, *frame.edits, *others}
        self.snapshots.append(Snapshot.of(frame, changed, self.state.step, self.steps))
        return frame

    def _add_steps(self, masked: int, step: int) -> None:
        """Leave as many steps after `step` for the masked positions as the start of the run did, in proportion."""
        at_start = max(1, int(self.canvas.masked.sum()))
        needed = min(self.config.steps, -(-masked * self.config.steps // at_start))
        self._set_steps(max(self.steps, step + needed))

    def _set_steps(self, steps: int) -> None:
        if steps != self.steps:
            self.steps = steps
            self._sampler = Sampler(replace(self.config, steps=steps), self.schedule, self.canvas.mask_id)

    def _canvas(self, ids: NDArray[np.int64], fixed: NDArray[np.bool_]) -> Canvas:
        new_ids, new_fixed = (torch.from_numpy(a[0].copy()).to(self.canvas.ids.device) for a in (ids, fixed))
        return Canvas(new_ids, new_fixed, self.canvas.mask_id)

    # -- history --

    def branch(self, at: int) -> SteeredGeneration:
        """A copy of this run as it was after `at` changes (0: the start); this run is not modified."""
        if not 0 <= at <= len(self):
            raise ValueError(f"step {at}; permitted: 0 to {len(self)}")
        run = SteeredGeneration(self.canvas, self.config, self.schedule)
        run._restore(self.snapshots[:at])
        run.options_since = min(at, self.options_since)
        return run

    def reconfigure(self, config: SamplerConfig) -> SteeredGeneration:
        """A copy of this run that continues with other options; what has been written stays."""
        run = SteeredGeneration(self.canvas, config, self.schedule)
        run._restore(self.snapshots[:])
        run.options_since = len(self)
        run._set_steps(max(1, self.state.step))  # then those that the masks need at the new rate
        run._add_steps(int(run.state.masked.sum()), run.state.step)
        if config.strategy not in ON_SCHEDULE:
            run.state = run.state.replace(t=masked_share(run.state.ids, run.state.fixed, self.canvas.mask_id))
        return run

    def restart(self, config: SamplerConfig) -> SteeredGeneration:
        """A new run from the start, with the tokens that are fixed now and everything else masked."""
        fixed = self.state.fixed
        canvas = self._canvas(np.where(fixed, self.state.ids, self.canvas.mask_id), fixed)
        return SteeredGeneration(canvas, config, self.schedule)

    def _restore(self, snapshots: list[Snapshot]) -> None:
        """Apply snapshots to the start state."""
        self.snapshots = snapshots
        if not snapshots:
            return
        start, newest = self.state, snapshots[-1]
        new = {name: getattr(start, name).copy() for name in (*COLUMNS, "fixed", "mended")}
        for snapshot in snapshots:
            for name in COLUMNS:
                values = np.array(getattr(snapshot.frame, name), dtype=new[name].dtype)  # None becomes NaN
                new[name][0, snapshot.positions] = values
            new["mended"][0, list(snapshot.frame.remasked)] = True
            for position, kind in snapshot.frame.edits.items():
                new["fixed"][0, position] = kind in FIXING
        if self.config.strategy == SPECULATIVE:
            drafts = start.drafts.copy()
            for position, token in newest.frame.draft:
                drafts[0, 0, position] = token
            new["drafts"] = drafts
        counts = {"t": np.array([newest.frame.t]), "nfe": np.array([newest.frame.nfe])}
        self.state = start.replace(**new, **counts, step=newest.step)
        self._set_steps(newest.steps)

    def frames(self) -> Iterator[StepFrame]:
        """Every frame from the start, complete."""
        start = frame_of(self._sampler.start(self.canvas))
        yield start
        columns = {name: list(getattr(start, name)) for name in COLUMNS}
        for snapshot in self.snapshots:
            for name, column in columns.items():
                for p, value in zip(snapshot.positions.tolist(), getattr(snapshot.frame, name)):
                    column[p] = value
            yield replace(snapshot.frame, **{name: tuple(column) for name, column in columns.items()})

    def trace(self, tokenizer: Tokenizer, **about: str) -> Trace:
        """The run so far; `about` as in `Trace.of`."""
        about.setdefault("schedule", self.schedule.name)
        trace = Trace.of(self.frames(), self.canvas, tokenizer, self.config, **about)
        trace.meta.update(self.changed_options)
        return trace

    @property
    def changed_options(self) -> dict[str, int]:
        """For `meta`: since which step its options hold, if not from the start."""
        return {"options_since": self.options_since} if self.options_since else {}

    @classmethod
    def from_trace(cls, trace: Trace, schedule: Schedule, device: torch.device | str = "cpu") -> SteeredGeneration:
        """A recorded run, ready to continue. Raises ValueError or TypeError if its options are not a sampler's."""
        names = {field.name for field in dataclasses.fields(SamplerConfig)}
        options: dict[str, Any] = {name: value for name, value in trace.meta.items() if name in names}
        options.setdefault("block_start", "zero")  # where blocks began before this was an option
        ids = torch.tensor(trace.frames[0].ids, dtype=torch.int64)
        canvas = Canvas(ids, torch.tensor(trace.fixed), trace.mask_id)
        run = cls(canvas.to(device), SamplerConfig(**options), schedule)
        since = trace.meta.get("options_since", 0)
        run.options_since = since if isinstance(since, int) else 0
        snapshots, step = [], 0
        for before, frame in zip(trace.frames, trace.frames[1:]):
            step += not frame.edits
            if frame.edits:
                run._add_steps(frame.ids.count(trace.mask_id), step)
            columns = [zip(getattr(before, name), getattr(frame, name)) for name in ("ids", "confidence")]
            changed = {p for column in columns for p, (old, new) in enumerate(column) if old != new}
            changed |= {*frame.revealed, *frame.remasked, *frame.edits}
            snapshots.append(Snapshot.of(replace(frame, step=len(snapshots) + 1), changed, step, run.steps))
        run._restore(snapshots)
        return run


def replace_text(canvas: Canvas, first: int, until: int, ids: Sequence[int], longest: int) -> Canvas:
    """The canvas of a run that has not started, with the tokens `first` to `until` replaced and fixed, except [MASK]s.

    The following text moves, as in a text editor. [MASK]s at the end are added or removed to keep the length; without
    any, the length changes. Raises ValueError beyond `longest` tokens and for positions off the canvas.
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
