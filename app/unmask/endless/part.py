"""The button that keeps a model of blocks writing: block after block, a new text behind each end, until it is stopped.

It goes on from the text on the canvas, up to the first mask. Each pass takes the machine's one turn, as those of the
room do, so others write meanwhile. Stop ends it within a pass; pressed again, it goes on where it was, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import torch
from gradio.context import Context

from app.server.guard import guarded, guarded_stream
from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models
from app.server.queue import OF_MODELS, VisitorQueue
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import AT_ONCE, HIDDEN, SKIP, wire_run
from app.ui.inputs import scripted
from app.unmask.endless.text import EndlessText
from app.unmask.request import UnmaskRequest, read_request
from app.unmask.session import UnmaskSession
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import SPECULATIVE, resolve_blocks
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.shared import Stopped
from diffuapriel.sampling.writer import write_blocks

SCRIPT = Path(__file__).with_name("endless.js")
REDRAW_SECONDS = 0.1
DRAFTED_TOKENS = 64  # of a block with `speculative`: then the length of the drafts does not change the text
COURTESY_SECONDS = 60.0  # how long one visitor writes on while others wait in the queue
Update = tuple[Any, Any, Any]  # the text, status, the file


class EndlessPart:
    """The handler, and the part of the page that calls it."""

    def __init__(self, models: Models, limits: Limits, stops: Stops) -> None:
        self.models, self.limits, self.stops = models, limits, stops
        self.others_wait = lambda: False

    @property
    def is_offered(self) -> bool:
        """Whether a model here can write without end."""
        return any(writes(self.models.find(label)) for label in self.models.trained)

    def button(self) -> gr.Button:
        """Draw the button; it is seen while a model of blocks is chosen."""
        seen = writes(self.models.find(self.models.default))
        return gr.Button(texts.KEEP_WRITING, elem_id="unmask-endless", visible=seen, scale=0, min_width=140)

    def build(self, row: tuple[gr.Button, gr.Button, Any], inputs: list[Any], session: gr.State, group: str) -> None:
        """Draw the rest, and wire it.

        row: the button, that which stops, the status line. inputs: the settings of the tab, the model second. Runs wait
        in the queue of `group`.
        """
        button, stop, status = row
        panel = gr.HTML(**scripted(SCRIPT), elem_id="endless-text", visible=False)
        file = gr.DownloadButton(
            texts.ENDLESS_SAVE, visible=False, elem_id="endless-save", size="sm", scale=0, min_width=160
        )
        page: Any = Context.root_block

        def others_wait() -> bool:
            queue = getattr(page, "_queue", None)
            return isinstance(queue, VisitorQueue) and any(e.concurrency_id in OF_MODELS for e in queue.waiting())

        self.others_wait = others_wait
        button.click(lambda session: session, session, session, **AT_ONCE)  # an output, so that it expires
        wire_run(
            button,
            stop,
            self.stops,
            guarded_stream(self.write, lambda message: (SKIP, render.note(message, bad=True), SKIP)),
            [session, *inputs],
            [panel, status, file],
            status=status,
            at_once=self.limits.batch,
            group=group,
        )
        inputs[1].change(guarded(self.seen), inputs[1], button, **AT_ONCE)

    def seen(self, label: str) -> Any:
        """The button is there for a model that can write without end."""
        return gr.update(visible=writes(self.models.find(label, self.models.trained)))

    def write(self, request: gr.Request, session: UnmaskSession | None, *values: Any) -> Iterator[Update]:
        """Write on until the visitor stops it, or others have waited for long. `values`: the settings of the tab."""
        asked = read_request(self.models, self.limits, *values)
        session = session or UnmaskSession(self.models, self.limits)
        size = endless_length(asked)
        with self.stops.running(request.session_hash) as stopped:
            yield SKIP, render.note(texts.WAITING), HIDDEN
            text, prompt = text_of(session, asked)
            said, running = texts.ENDLESS_STOPPED, render.note(texts.ENDLESS_RUNNING)
            with text.lock:
                text.go_on()
                with suppress(Stopped):
                    model = InTurns(self.models, asked.model, stopped)
                    steps = -(-asked.config.steps * size // max(size, len(asked.canvas())))
                    config = replace(asked.config, steps=steps)
                    sampler = Sampler(config, get_schedule("log-linear"), asked.tokenizer.mask_id)
                    window = asked.model.window or None
                    shown = -REDRAW_SECONDS
                    for block in write_blocks(model, sampler, size, prompt, window=window, after=text.so_far):
                        text.take(block)
                        if text.seconds - shown >= REDRAW_SECONDS:
                            shown = text.seconds
                            yield gr.update(value=text.message(live=True), visible=True), running, SKIP
                        if text.seconds > COURTESY_SECONDS and self.others_wait():
                            said = texts.ENDLESS_COURTESY
                            break
                done = render.note(said.format(tokens=text.tokens))
                yield gr.update(value=text.message(live=False), visible=bool(text.blocks)), done, saved(text)


class InTurns(torch.nn.Module):
    """A model of blocks that takes the machine's one turn for each pass, also to be loaded.

    Raises Stopped once the visitor has pressed Stop.
    """

    def __init__(self, models: Models, model_entry: ModelEntry, stopped: Event) -> None:
        super().__init__()
        self.models, self.stopped = models, stopped
        with models.turn(stopped):
            self.model: Any = models.load(model_entry).denoiser
        self.config = self.model.config

    def empty_cache(self, batch: int) -> Any:
        return self.model.empty_cache(batch)

    def commit_and_denoise(self, *inputs: Any, **options: Any) -> Any:
        return self._in_turn(self.model.commit_and_denoise, *inputs, **options)

    def verify_and_draft(self, *inputs: Any, **options: Any) -> Any:
        return self._in_turn(self.model.verify_and_draft, *inputs, **options)

    def _in_turn(self, call: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        with self.models.turn(self.stopped):
            if self.stopped.is_set():
                raise Stopped
            return call(*inputs, **options)


def writes(model: ModelEntry) -> bool:
    """Whether a model can write without end: in blocks that are not the whole canvas."""
    return any(model.block_lengths)


def endless_length(asked: UnmaskRequest) -> int:
    """The block length: that of the page, or the model's default for one that is the whole canvas. Raises Refused."""
    if not writes(asked.model):
        raise Refused(texts.ENDLESS_NO_BLOCKS.format(model=asked.model.label))
    if asked.config.strategy == SPECULATIVE:
        return DRAFTED_TOKENS
    known = tuple(filter(None, asked.model.block_lengths))
    return asked.config.block_length or resolve_blocks("", None, known=known)["block_length"]


def text_of(session: UnmaskSession, asked: UnmaskRequest) -> tuple[EndlessText, list[int]]:
    """The visitor's text without end, and its prompt; a new one where settings or the canvas have changed."""
    prompt = prompt_of(session, asked)
    key = asked.model.label, asked.config, tuple(prompt)
    if session.endless is None or session.endless.key != key:
        if session.endless:
            session.endless.close()
        session.endless = EndlessText(key, asked.tokenizer, prompt)
    return session.endless, prompt


def prompt_of(session: UnmaskSession, asked: UnmaskRequest) -> list[int]:
    """The ids on the canvas before the first mask and before padding, which is two <|endoftext|> in a row."""
    run = session.run if session.model and session.model.tokenizer == asked.model.tokenizer else None
    ids = (asked.canvas().ids if run is None else run.state.ids[0]).tolist()
    mask, eos = asked.tokenizer.mask_id, asked.tokenizer.eos_id
    ends = (p for p, i in enumerate(ids) if i == mask or (i == eos and ids[p - 1 : p] == [eos]))
    return ids[: next(ends, len(ids))]


def saved(text: EndlessText) -> Any:
    """The update of the download button."""
    return gr.update(value=str(text.file), visible=text.file.exists() and bool(text.tokens))
