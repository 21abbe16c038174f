"""A visitor's canvas: the run on it, the other ending, and what the visitor asks of them.

Held in the visitor's `gr.State`, so it is theirs alone and goes when they leave. It is small: a run keeps what each
step changed, and there are at most two. Commands are applied between two steps: at once while nothing runs, by the
running handler otherwise. Every method that changes something is called with `lock` held.
"""

from __future__ import annotations

import datetime
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from app.server.limits import Limits, Refused
from app.strings.language import texts
from app.unmask.request import Command, UnmaskRequest, make_canvas

if TYPE_CHECKING:
    from app.server.models import ModelEntry
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.tokenizer import Tokenizer
    from diffuapriel.trace.messages import Feed
    from diffuapriel.trace.steering import Steered
    from diffuapriel.trace.trace import Trace

OPENING = "opening"  # what the page calls the run that it opens with, before it is anybody's
MOST_MOMENTS = 8192  # of one run: steps and edits
MOST_WAITING = 64  # commands that wait for the step under way


class Visit:
    """What the server keeps of one visitor's Unmask tab."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.run: Steered | None = None
        self.other: Steered | None = None
        self.model_entry: ModelEntry | None = None
        self.about: dict[str, str] = {}
        self.name = ""  # of the run, for the page: a new one whenever frames on the screen no longer hold
        self.turn = 0
        self.written: tuple[str, int, str] | None = (
            None  # text, length and tokenizer that say what the canvas says
        )
        self.asked: Command | None = None  # what the next run of the model is to be
        self.running = False
        self.waiting: deque[Command] = deque()

    def __deepcopy__(self, memo: object) -> Visit:
        """Gradio copies the first value for every visitor: an empty one, since a lock has no copy."""
        return Visit()

    def close(self) -> None:
        """The visitor has left for good."""
        self.waiting.clear()
        if not self.running:
            self.run = self.other = None

    def wait(self, command: Command) -> None:
        """Keep a command until the step under way is over."""
        if len(self.waiting) >= MOST_WAITING:
            raise Refused(texts.EDITS_WAIT.format(edits=MOST_WAITING))
        self.waiting.append(command)

    # -- which run --

    def begin(self, asked: UnmaskRequest, tokenizer: Tokenizer, limits: Limits, device: str) -> None:
        """A run from the canvas that the visitor made, or from the text where they have changed that since."""
        written = (asked.text, asked.length, tokenizer.name)
        if self.run is None or self.written != written:
            self.compose(asked, tokenizer, limits, device)
        else:
            self._show(self.run.again(asked.config), asked.model_entry)
        self.about = about(asked.model_entry)

    def compose(self, asked: UnmaskRequest, tokenizer: Tokenizer, limits: Limits, device: str) -> None:
        """The canvas of a text, before any step. Raises ValueError where the text cannot be one."""
        from diffuapriel.diffusion.schedule import get_schedule
        from diffuapriel.trace.steering import Steered

        canvas = make_canvas(asked, tokenizer, limits).to(device)
        self._show(Steered(canvas, asked.config, get_schedule("log-linear")), asked.model_entry)
        self.written = (asked.text, asked.length, tokenizer.name)
        self.about = about(asked.model_entry)

    def take_up(self, trace: Trace, model_entry: ModelEntry, device: str) -> bool:
        """A recorded run, to go on with; False where it is too long or its options are no sampler's."""
        from diffuapriel.diffusion.schedule import get_schedule
        from diffuapriel.trace.steering import Steered

        if len(trace.frames) > MOST_MOMENTS:
            return False
        try:
            run = Steered.of_trace(trace, get_schedule("log-linear"), device)
        except (ValueError, TypeError):
            return False
        self._show(run, model_entry)
        self.written = None
        self.about = {key: str(trace.meta.get(key, "")) for key in ("model", "architecture", "created")}
        return True

    def open(
        self, asked: UnmaskRequest, tokenizer: Tokenizer, limits: Limits, device: str, command: Command
    ) -> Command:
        """`command` itself; where it is about the canvas that the page opened with, that canvas is made first."""
        if self.run is not None or command.run != OPENING:
            return command
        self.compose(asked, tokenizer, limits, device)
        return replace(command, run=self.name)

    def resume(self, command: Command, asked: UnmaskRequest) -> None:
        """The run as the visitor sees it becomes the one to go on with; one that has not begun takes new options."""
        from diffuapriel.trace.steering import Steered

        run = self._go_back(command)
        if not run.moments:
            self._show(Steered(run.canvas, asked.config, run.schedule), self.model_entry, self.other)

    def _show(self, run: Steered, model_entry: ModelEntry | None, other: Steered | None = None) -> None:
        self.run, self.other, self.model_entry = run, other, model_entry
        self._rename()

    def _rename(self) -> None:
        self.name = uuid.uuid4().hex
        self.turn += 1

    # -- what is asked --

    def obey(self, command: Command, tokenizer: Tokenizer, limits: Limits) -> StepFrame | None:
        """Do what the visitor asks, the model's steps aside. The frame of an edit that only adds one, else None.

        Raises ValueError where it cannot be, with the reason.
        """
        run = self._check(command)
        if command.do == "undo":
            return self._undo(run)
        if command.do == "swap":
            if self.other is None:
                raise Refused(texts.NO_OTHER_ENDING)
            return self._show(self.other, self.model_entry, other=run)
        run = self._go_back(command)
        if len(run) >= MOST_MOMENTS:
            raise Refused(texts.RUN_TOO_LONG.format(steps=f"{len(run):,}"))
        before, began = self.name, bool(len(run))
        frame = self._edit(run, command, tokenizer, limits)
        if not began:
            self._rename()  # the start itself is another one now
        return frame if self.name == before else None

    def _check(self, command: Command) -> Steered:
        if self.run is None or command.run != self.name:
            raise Refused(texts.CANVAS_CHANGED)
        return self.run

    def _go_back(self, command: Command) -> Steered:
        """The run as the visitor sees it: the newest, or a branch from the step on their screen."""
        run = self._check(command)
        if command.at is None or command.at >= len(run):
            return run
        branch = run.branch(command.at)
        self._show(branch, self.model_entry, other=run)
        return branch

    def _undo(self, run: Steered) -> None:
        if not run.moments or not run.moments[-1].thin.edits:
            raise Refused(texts.NO_EDIT)
        self._show(run.branch(len(run) - 1), self.model_entry, other=self.other)

    def _edit(self, run: Steered, command: Command, tokenizer: Tokenizer, limits: Limits) -> StepFrame:
        positions = range(command.first, command.last + 1)
        if command.do == "mask":
            return run.mask(positions)
        if command.do in ("pin", "unpin"):
            return run.pin(positions, command.do == "pin")
        if command.do == "choose":
            return run.choose(command.first, command.token)
        return self._write(run, command, tokenizer, limits)

    def _write(self, run: Steered, command: Command, tokenizer: Tokenizer, limits: Limits) -> StepFrame:
        from diffuapriel.sampling.canvas import Canvas
        from diffuapriel.sampling.frames import frame_of
        from diffuapriel.trace.steering import Steered, retyped

        ids = Canvas.from_text(command.text, tokenizer).ids.tolist()  # [MASK:3] is three masks here too
        if run.moments:
            return run.put(command.first, ids, until=command.last, filler=tokenizer.eos_id)
        canvas = retyped(run.canvas, command.first, command.last, ids, limits.max_tokens)
        self.run = Steered(canvas, run.config, run.schedule)
        self.other = None  # of another length, perhaps
        return frame_of(self.run.state)

    # -- what is shown --

    def feed(self, tokenizer: Tokenizer) -> Feed:
        """A feed that has all frames so far; its first message is whole."""
        from diffuapriel.trace.messages import Feed

        run = self.run
        assert run is not None, "there is a run to show"
        meta = {**self.about, "tokenizer": tokenizer.name, **asdict(run.config)}
        feed = Feed(run.canvas, tokenizer, meta, run=self.name)
        for frame in run.frames():
            feed.take(frame)
        feed.aside = self.aside(tokenizer)
        return feed

    def aside(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What a message says beside the frames."""
        from diffuapriel.trace.messages import compact

        run = self.run
        assert run is not None, "there is a run to show"
        other = None
        if self.other is not None and len(self.other.canvas) == len(run.canvas):
            other = compact(self.other.trace(tokenizer, **self.about).to_dict())
        return {"steer": True, "turn": self.turn, "total": run.planned, "other": other}

    def trace(self, tokenizer: Tokenizer) -> Trace:
        """The run so far, to keep."""
        assert self.run is not None, "there is a run to keep"
        return self.run.trace(tokenizer, **self.about)


def about(model_entry: ModelEntry) -> dict[str, str]:
    """What a trace says of a run that begins now."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"model": model_entry.label, "architecture": model_entry.architecture, "created": created}


def canvas_text(ids: Sequence[int], fixed: Sequence[bool], tokenizer: Tokenizer) -> str:
    """What is fixed on a canvas, as text with holes: what the next run starts from. Masks at the end are left out."""
    pieces: list[str] = []
    kept: list[int] = []
    holes = 0
    for token, keep in [*zip(ids, fixed, strict=True), (tokenizer.mask_id, False)]:
        if keep:
            if holes:
                pieces.append((" " if pieces else "") + f"[MASK:{holes}]")  # this space belongs to the hole
                holes = 0
            kept.append(token)
            continue
        if kept:
            pieces.append(tokenizer.decode(kept))
            kept = []
        holes += 1
    return "".join(pieces)
