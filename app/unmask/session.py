"""A visitor's canvas: the run on it, the other ending, and the commands that wait.

The visitor's `gr.State` holds it, so that it is theirs alone and is freed when they leave. It is small: a run keeps
what each step changed, and there are at most two. Commands are applied between two steps: at once while nothing runs,
by the running handler otherwise. Hold `lock` to call a method that changes something.
"""

from __future__ import annotations

import datetime
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from app.server.guard import told
from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from app.ui.tale_check import judge
from app.unmask import opening
from app.unmask.endless.text import EndlessText
from app.unmask.request import Command, UnmaskRequest
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.frames import frame_of
from diffuapriel.trace.messages import Feed, compact, guess_message
from diffuapriel.trace.steering import SteeredGeneration, replace_text

if TYPE_CHECKING:
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.sampling.sampler import DenoiserFunction
    from diffuapriel.tokenizer import Tokenizer
    from diffuapriel.trace.trace import Trace

OPENING = "opening"  # the page's name for the run that it opens with, which belongs to no session yet
MOST_MOMENTS = 8192  # steps and edits per run
MOST_WAITING = 64  # commands that wait for the current step


class UnmaskSession:
    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.lock = threading.RLock()
        self.run: SteeredGeneration | None = None
        self.other: SteeredGeneration | None = None  # the ending that a branch left behind
        self.model: ModelEntry | None = None
        self.about: dict[str, str] = {}  # model, architecture and time, for the trace
        self.name = ""  # of the run; a new one whenever the frames on the screen become invalid
        self.turn = 0  # counts the names
        self.content: tuple[str, int, str] | None = None  # of a request that would give the present canvas
        self.next_command: Command | None = None  # what the next run of the model is to do
        self.seed, self.endings = 0, 0  # of the page at the last start, and the endings drawn with it since
        self.running = False
        self.waiting: deque[Command] = deque()
        self.endless: EndlessText | None = None

    def __deepcopy__(self, memo: object) -> UnmaskSession:
        """Gradio copies the state's first value for every visitor: an empty session, since a lock has no copy."""
        return UnmaskSession(self.models, self.limits)

    @property
    def current(self) -> SteeredGeneration:
        """The run, where there must be one."""
        assert self.run is not None, "a canvas has been made"
        return self.run

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the run's model."""
        assert self.model is not None, "a canvas has a model"
        return self.models.tokenizer(self.model)

    @property
    def idle(self) -> bool:
        """Whether there is a canvas and nothing runs on it."""
        return self.run is not None and not self.running

    def close(self) -> None:
        """The visitor has left."""
        self.waiting.clear()
        if self.endless:
            self.endless.close()
        if not self.running:
            self.run = self.other = None

    # -- which run --

    def compose(self, asked: UnmaskRequest) -> None:
        """Make the canvas of a text, before any step. Raises ValueError for a text that gives none."""
        canvas = asked.canvas().to(self.models.device)
        self._set_run(SteeredGeneration(canvas, asked.config, get_schedule("log-linear")), asked.model)
        self.content = asked.content
        self.about = about(asked.model)
        self.seed, self.endings = asked.config.seed, 0

    def begin(self, asked: UnmaskRequest, command: Command | None) -> None:
        """Make the run that a handler is about to play.

        Run (no command) starts from the visitor's canvas, or from the text if they have changed that since. "go" and
        "step" continue the run as the visitor sees it, with the options on the page. From an earlier step they write
        another ending, with another seed where the visitor has chosen none.
        """
        if command is not None:
            command = self.opened(asked, command)
            before, run = self._check(command), self._go_back(command)
            config = replace(asked.config, seed=self._seed(asked.config.seed, another=run is not before))
            if config != run.config:
                run = run.reconfigure(config)
            if asked.model.tokenizer == self.tokenizer.name and asked.model != self.model:
                self.model = asked.model
                self.about = about(asked.model)
            if run is not self.run:
                self._set_run(run, self.model, self.other)
        elif self.run is None or self.content != asked.content:
            self.compose(asked)
        else:
            self._set_run(self.run.restart(asked.config), asked.model)
            self.about = about(asked.model)
            self.seed, self.endings = asked.config.seed, 0
        self.running = True

    def _seed(self, chosen: int, *, another: bool) -> int:
        """The seed of a run that goes on: the one on the page, plus one for each other ending drawn with it."""
        if chosen != self.seed:
            self.seed, self.endings = chosen, 0
        elif another:
            self.endings += 1
        return self.seed + self.endings

    def opened(self, asked: UnmaskRequest, command: Command) -> Command:
        """The command; one for the canvas that the page opened with gets that canvas first."""
        if self.run is not None or command.run != OPENING:
            return command
        recorded = opening.recording(self.models, asked.model)
        if recorded is None or not self.resume_trace(recorded):
            self.compose(asked)
        return replace(command, run=self.name)

    def resume_trace(self, trace: Trace) -> bool:
        """Make a recorded run the current one; False where it is too long or no model here can continue it."""
        model = None if self.running else self._model_for(trace)
        if model is None or len(trace.frames) > MOST_MOMENTS:
            return False
        try:
            run = SteeredGeneration.from_trace(trace, get_schedule("log-linear"), self.models.device)
        except (ValueError, TypeError):
            return False
        self._set_run(run, model)
        self.content = None
        self.seed, self.endings = run.config.seed, 0
        self.about = {key: str(trace.meta.get(key, "")) for key in ("model", "architecture", "created")}
        return True

    def _model_for(self, trace: Trace) -> ModelEntry | None:
        """The trace's own model where it is offered, else one with the same tokenizer."""
        if len(trace.fixed) > self.limits.max_tokens:
            return None
        models = [self.models.find(label) for label in self.models.trained]
        same = [model for model in models if model.tokenizer == trace.meta.get("tokenizer")]
        fits = [model for model in same if self.models.tokenizer(model).mask_id == trace.mask_id]
        named = (model for model in fits if model.label == trace.meta.get("model"))
        return next(named, fits[0] if fits else None)

    def _set_run(
        self, run: SteeredGeneration, model: ModelEntry | None, other: SteeredGeneration | None = None
    ) -> None:
        self.run, self.other, self.model = run, other, model
        self._rename()

    def _rename(self) -> None:
        self.name = uuid.uuid4().hex
        self.turn += 1

    # -- commands --

    def defer(self, command: Command) -> None:
        """Keep a command until the current step is done."""
        if len(self.waiting) >= MOST_WAITING:
            raise Refused(texts.EDITS_WAIT.format(edits=MOST_WAITING))
        self.waiting.append(command)

    def apply_waiting(self, feed: Feed | None) -> tuple[Feed, str]:
        """Apply the deferred commands. Returns the feed, a new one for a new run, and the last refusal."""
        problem = ""
        while self.waiting:
            try:
                frame = self.apply(self.waiting.popleft())
                if frame is not None and feed is not None and feed.run == self.name:
                    feed.take(frame)
            except ValueError as error:
                problem = told(error)
        if feed is None or feed.run != self.name:
            feed = self.feed()
        return feed, problem

    def apply(self, command: Command) -> StepFrame | None:
        """Apply an edit, an undo or a swap of endings. Returns the frame of an edit that only adds one, else None.

        Raises ValueError, with the reason, for what is not possible.
        """
        run = self._check(command)
        if command.do == "undo":
            if not run.snapshots or not run.snapshots[-1].frame.edits:
                raise Refused(texts.NO_EDIT)
            return self._set_run(run.branch(len(run) - 1), self.model, other=self.other)
        if command.do == "swap":
            if self.other is None:
                raise Refused(texts.NO_OTHER_ENDING)
            return self._set_run(self.other, self.model, other=run)
        run = self._go_back(command)
        if len(run) >= MOST_MOMENTS:
            raise Refused(texts.RUN_TOO_LONG.format(steps=len(run)))
        before, began = self.name, bool(len(run))
        frame = self._edit(run, command)
        if not began:
            self._rename()  # the start itself has changed
        return frame if self.name == before else None

    def _check(self, command: Command) -> SteeredGeneration:
        if self.run is None or command.run != self.name:
            raise Refused(texts.CANVAS_CHANGED)
        return self.run

    def _go_back(self, command: Command) -> SteeredGeneration:
        """The run as the visitor sees it: the newest state, or a branch from the step on their screen."""
        run = self._check(command)
        if command.at is None or command.at >= len(run):
            return run
        branch = run.branch(command.at)
        self._set_run(branch, self.model, other=run)
        return branch

    def _edit(self, run: SteeredGeneration, command: Command) -> StepFrame:
        positions = range(command.first, command.last + 1)
        if command.do == "mask":
            return run.mask(positions)
        if command.do in ("pin", "unpin"):
            return run.pin(positions, command.do == "pin")
        if command.do == "choose":
            return run.choose(command.first, command.token)
        ids = Canvas.from_text(command.text, self.tokenizer).ids.tolist()  # [MASK:3] is three masks here too
        if run.snapshots:
            return run.write(command.first, ids, until=command.last, filler=self.tokenizer.eos_id)
        canvas = replace_text(run.canvas, command.first, command.last, ids, self.limits.max_tokens)
        self.run = SteeredGeneration(canvas, run.config, run.schedule)
        self.other = None  # its length may differ
        return frame_of(self.run.state)

    # -- what the page shows --

    def feed(self) -> Feed:
        """A feed with all frames so far; its first message is whole."""
        run = self.current
        meta = {**self.about, "tokenizer": self.tokenizer.name, **asdict(run.config), **run.changed_options}
        feed = Feed(run.canvas, self.tokenizer, meta, run=self.name)
        for frame in run.frames():
            feed.take(frame)
        other = None
        if self.other is not None and len(self.other.canvas) == len(run.canvas):
            other = compact(self.other.trace(self.tokenizer, **self.about).to_dict())
        feed.extra = {"steer": True, "turn": self.turn, "total": run.planned_steps, "other": other}
        return feed

    def annotate(self, feed: Feed) -> str:
        """Add to the next message what is known beside its frames; returns the verdict on a tale so far, as HTML."""
        run = self.current
        feed.extra["total"] = run.planned_steps
        if self.model is None or self.model.tales_level is None:
            return ""
        ids, fixed = run.state.ids[0].tolist(), run.state.fixed[0].tolist()
        judgement = judge(ids, self.tokenizer, self.model.tales_level, fixed)
        feed.extra["remarks"] = {"step": len(run), "at": {str(p): why for p, why in judgement.breaks}}
        return judgement.html

    def guesses(self, command: Command, denoiser: DenoiserFunction) -> dict[str, Any]:
        """A message that says what the model would put at each mask now."""
        run = self._check(command)
        found = run.predict(denoiser)
        return guess_message(self.name, len(run), found, self.tokenizer, done=run.done)

    def trace(self) -> Trace:
        return self.current.trace(self.tokenizer, **self.about)

    def read_back(self) -> tuple[str, int]:
        """The text with holes and the length that give the present canvas: the next run starts from them."""
        run = self.current
        text = canvas_text(run.state.ids[0].tolist(), run.state.fixed[0].tolist(), self.tokenizer)
        self.content = (text, len(run.canvas), self.tokenizer.name)
        return text, len(run.canvas)


def about(model: ModelEntry) -> dict[str, str]:
    """What the trace of a run that starts now says of it."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"model": model.label, "architecture": model.architecture, "created": created}


def canvas_text(ids: Sequence[int], fixed: Sequence[bool], tokenizer: Tokenizer) -> str:
    """The fixed tokens of a canvas as text with holes, without the masks at the end."""
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
