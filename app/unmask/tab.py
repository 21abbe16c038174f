"""The Unmask tab: a text with holes, and a canvas that fills up while the reader watches.

The text box and the canvas are two ways to write one thing: what is typed above appears on the canvas, and what is
changed on the canvas is read back into the text box.

A run is a generator. It has a seat in the room, where the runs of all visitors share the model's passes, and sends the
player at most twenty messages per second while the sampler runs on. Between two steps it applies the visitor's edits.
It leaves the seat however it ends: the text is complete, the visitor pauses, or closes the page (Gradio then closes the
generator). Steps that the screen
skips are still in the trace.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.server import limits as check
from app.server.guard import guarded, guarded_stream, told
from app.server.limits import MAX_SEED, Limits, Refused
from app.server.models import Models
from app.server.queue import MODEL, ROOM
from app.server.room import Room
from app.server.stops import Stops
from app.strings.language import counted, texts
from app.ui import render
from app.ui.events import AT_ONCE, HIDDEN, SKIP, wire_run
from app.ui.inputs import slider
from app.ui.permalink import wire_link
from app.unmask import controls, export, opening, tour
from app.unmask.blocks import cache_strip, settled_blocks
from app.unmask.dial import SETS, Dial
from app.unmask.endless.part import EndlessPart
from app.unmask.endpoints import UnmaskEndpoints
from app.unmask.request import (
    ORDER_STRATEGY,
    STEPS,
    Command,
    UnmaskRequest,
    drafts,
    first_order,
    first_settings,
    opening_config,
    read_command,
    read_request,
    unmask_settings,
)
from app.unmask.session import OPENING, UnmaskSession
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.config import ADAPTIVE, SPECULATIVE
from diffuapriel.sampling.shared import Stopped
from diffuapriel.trace.messages import Feed, compact, to_text
from diffuapriel.trace.steering import SteeredGeneration

if TYPE_CHECKING:
    from diffuapriel.trace.trace import Trace

Update = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text, JSON file, HTML file
Edited = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text with holes, length, session

SESSION_SECONDS = 3600.0  # how long a canvas that nobody touches is kept


class UnmaskTab:
    """The page (`build`) and its handlers."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.settings = unmask_settings(models, limits)
        self.stops = Stops()
        self.room = Room(models, limits.batch)
        self.endless = EndlessPart(models, limits, self.stops)
        self.dial = Dial(models, limits)

    def new_session(self) -> UnmaskSession:
        """An empty session, also for a caller of the API, who has none."""
        return UnmaskSession(self.models, self.limits)

    def build(self, player: dict[str, Any]) -> None:
        """Build the tab inside the current `gr.Blocks`. `player`: arguments that make a gr.HTML the player."""
        session = gr.State(self.new_session(), time_to_live=SESSION_SECONDS, delete_callback=UnmaskSession.close)
        gr.HTML(**tour.line())
        with gr.Column(elem_classes="da-stage"):
            canvas = gr.HTML(**{**player, "value": self.opening_canvas()}, elem_id="unmask-player")
            status = gr.HTML(
                render.note(self.greeting()),
                elem_id="unmask-status",
                elem_classes="da-status",
                apply_default_css=False,
            )
            saved, upload, menu = self._files()
            gr.HTML(**export.drop_zone())
        text = gr.Textbox(
            value=texts.EXAMPLES[0][1],
            label=texts.TEXT_LABEL,
            info=texts.TEXT_INFO,
            placeholder=texts.TEXT_PLACEHOLDER,
            lines=2,
            max_lines=8,
            elem_id="unmask-text",
        )
        with gr.Row(elem_classes="da-actions"):
            small: dict[str, Any] = {"scale": 0, "min_width": 140}
            run = gr.Button(texts.RUN, variant="primary", elem_id="unmask-run", **small)
            stop = gr.Button(texts.STOP, interactive=False, elem_id="unmask-stop", **small)
            dice = gr.Button(texts.DICE, elem_id="unmask-dice", **small)
            endless = self.endless.button() if self.endless.is_offered else None
            hole = gr.Button(texts.MAKE_HOLE, elem_id="unmask-hole", **small)
            orders = [(label, name) for name, label in texts.ORDERS.items()]
            first = first_order(self.models.find(self.models.default))
            order = gr.Radio(
                orders, value=first, show_label=False, container=False, label=texts.ORDER, elem_id="unmask-order"
            )
        gr.HTML(**controls.keys())
        dial = gr.HTML(**self.dial.arguments(self.models.find(self.models.default)))
        below = gr.Column()
        final = gr.Textbox(visible=False, label=texts.FINAL_TEXT)
        with gr.Accordion(texts.MORE, open=False, elem_id="unmask-more"):
            examples = gr.Column()
            model, length, *rest = self._settings_panel()
        with examples:
            chosen = gr.Examples(
                examples=[[example, tokens] for _, example, tokens in texts.EXAMPLES],
                inputs=[text, length],
                example_labels=[name for name, _, _ in texts.EXAMPLES],
                label=texts.EXAMPLES_LABEL,
                elem_id="unmask-examples",
                api_visibility="private",
            ).load_input_event
        inputs = [text, model, length, *rest]
        seed = rest[list(self.settings)[3:].index("seed")]
        group = MODEL if self.limits.batch == 1 else ROOM
        asked = canvas.submit(guarded(self.ask), session, session, **AT_ONCE)
        another = dice.click(lambda: random.randrange(MAX_SEED), None, seed, **AT_ONCE)
        hole.click(
            guarded(self.make_hole), [text, model, text], text, js=controls.SELECTION, preprocess=False, **AT_ONCE
        )
        controls.wire_order(order, rest[1], rest[6])
        self._wire_dial(dial, inputs)
        # A state expires and is deleted only once it has been an output.
        run.click(lambda session: session, session, session, **AT_ONCE)
        runs = wire_run(
            run,
            stop,
            self.stops,
            guarded_stream(self.run, lambda message: (SKIP, render.note(message, bad=True), "", SKIP, SKIP)),
            [*inputs, session],
            [canvas, status, final, *saved],
            status=status,
            also=[asked, another, chosen],
            group=group,
            at_once=self.limits.batch,
        )
        canvas.select(
            guarded(self.guess),
            [session, *inputs],
            [canvas, session],
            preprocess=False,
            concurrency_id=group,
            concurrency_limit=self.limits.batch,
            show_progress="hidden",
            api_visibility="private",
        )
        if endless:
            with below:
                self.endless.build((endless, stop, status), inputs, session, group)
        UnmaskEndpoints(self.models, self.limits, self.stops, self.play).build(group)
        self._wire_edits(session, inputs, canvas, status, saved)
        with menu:
            export.LivePageExport(self.models, self.limits).build(saved[0], text, model)
            wire_link("unmask", self.settings, inputs, status)
        opened = upload.upload(
            self.open_file,
            [upload, session],
            [canvas, status, final],
            show_progress="hidden",  # else Gradio's red mark stays on the player after a refusal
            api_visibility="private",
        )
        read = opened.then(guarded(self.read_back), session, [text, length], **AT_ONCE)
        self.save_after(read, session, saved)
        for done in runs:
            done.then(None, saved[0], None, js=export.KEEP, **AT_ONCE)

    def _wire_dial(self, dial: gr.HTML, inputs: list[Any]) -> None:
        """A stop of the dial sets the rule; the dial follows the settings, whoever changed them."""
        raw: dict[str, Any] = {**AT_ONCE, "preprocess": False}  # the handlers check the values themselves
        by_name = dict(zip(self.settings, inputs, strict=True))
        dial.input(guarded(self.dial.turn), inputs, [by_name[name] for name in SETS], trigger_mode="multiple", **raw)
        followed = ("model", "length", "temperature", "top_k", "top_p", *SETS)
        changes = [by_name[name].change for name in followed]
        gr.on(changes, guarded(self.dial.follow), inputs, dial, trigger_mode="always_last", **raw)

    def _wire_edits(self, session: gr.State, inputs: list[Any], canvas: gr.HTML, status: Any, saved: Any) -> None:
        """What the visitor does to the canvas takes effect at once, also while a model runs."""
        text, model, length = inputs[:3]
        raw: dict[str, Any] = {**AT_ONCE, "preprocess": False}  # the handlers check the values themselves
        edited = canvas.input(
            guarded(self.edit),
            [session, *inputs],
            [canvas, status, text, length, session],
            trigger_mode="multiple",
            **raw,
        )
        self.save_after(edited, session, saved)
        gr.on(
            [text.change, length.change, model.change],
            guarded(self.compose),
            [session, *inputs],
            [canvas, status, length, session],
            trigger_mode="always_last",
            **raw,
        )

    def save_after(self, event: Any, session: gr.State, saved: list[Any]) -> None:
        """After an event that changed the canvas, make its files and let the browser keep the run."""
        made = event.then(guarded_stream(self.save, lambda message: (SKIP, SKIP)), session, saved, **AT_ONCE)
        made.then(None, saved[0], None, js=export.KEEP, **AT_ONCE)

    def _files(self) -> tuple[list[Any], gr.UploadButton, gr.Column]:
        """The row of buttons for files: ([JSON, web page], open a trace, the menu that the link goes into)."""
        small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 160}
        with gr.Row(elem_classes="da-files"):
            share = gr.Button(texts.SHARE, elem_id="share", **small)
            with gr.Column(elem_id="share-menu", min_width=160) as menu:
                json_file = gr.DownloadButton(
                    texts.SAVE_JSON, visible=False, elem_id="save-json", render=False, **small
                )
                export.GifExport(self.limits).build(json_file)
                html_file = gr.DownloadButton(texts.SAVE_HTML, visible=False, elem_id="save-html", **small)
                json_file.render()
            upload = gr.UploadButton(texts.LOAD, file_types=[".json", ".html"], elem_id="open-trace", **small)
            gr.Button(texts.SCRIPTS["present"], elem_id="present", **small)
        share.click(None, None, None, js=export.SHARE_SCRIPT.read_text(encoding="utf-8"), api_visibility="private")
        return [json_file, html_file], upload, menu

    def _settings_panel(self) -> list[Any]:
        """The components of the settings, in their order, the text aside."""
        settings = self.settings
        first = self.models.find(self.models.default)
        start_with = first_settings(first)
        rule = start_with["strategy"]
        with gr.Row():
            names = self.models.choices(self.models.trained)
            model = gr.Dropdown(names, value=first.label, label=texts.MODEL, info=first.reading, elem_id="unmask-model")
            length = slider(settings["length"], texts.EXAMPLES[0][2], texts.LENGTH, texts.LENGTH_INFO)
        with gr.Row():
            strategies = [(label, name) for name, label in texts.STRATEGIES.items()]
            strategy = gr.Dropdown(strategies, value=rule, label=texts.STRATEGY, elem_id="unmask-strategy")
            said = {"label": texts.THRESHOLD, "info": texts.THRESHOLD_INFO, "visible": rule == "threshold"}
            threshold = slider(settings["threshold"], start_with["threshold"], **said, step=0.01)
            values = [
                gr.Number(
                    start_with[name],
                    label=texts.RULE_VALUES[name][0],
                    info=texts.RULE_VALUES[name][1],
                    step=0.01,
                    visible=rule == name,
                    elem_id=f"unmask-{name}",
                    **settings[name].range,
                )
                for name in ADAPTIVE[1:]
            ]
            steps = slider(settings["steps"], STEPS, texts.STEPS, texts.STEPS_INFO)
        with gr.Row():
            block = slider(settings["block"], start_with["block"], *block_words(rule), elem_id="unmask-block")
            starts = [(label, name) for name, label in texts.BLOCK_STARTS.items()]
            start = gr.Dropdown(
                starts,
                value="prompt",
                label=texts.BLOCK_START,
                info=texts.BLOCK_START_INFO,
                visible=not first.block_lengths,  # the blocks of such a model begin at the start of the canvas
                elem_id="unmask-block-start",
            )
        with gr.Row():
            words = texts.TEMPERATURE, texts.TEMPERATURE_INFO
            temperature = slider(settings["temperature"], start_with["temperature"], *words, step=0.05)
            top_k = slider(settings["top_k"], 0, texts.TOP_K, texts.TOP_K_INFO)
            top_p = slider(settings["top_p"], start_with["top_p"], texts.TOP_P, texts.TOP_P_INFO, step=0.01)
            seed = gr.Number(0, label=texts.SEED, info=texts.SEED_INFO, precision=0, **settings["seed"].range)
        proposed = [strategy, block, threshold, *values, temperature, top_p, model, start]
        model.input(guarded(self.propose), model, proposed, **AT_ONCE)
        strategy.change(describe_rule, strategy, [block, threshold, *values], **AT_ONCE)
        return [model, length, steps, strategy, temperature, top_k, top_p, seed, block, start, threshold, *values]

    def propose(self, label: str) -> tuple[Any, ...]:
        """For a chosen model: `first_settings`, what it has read, and where blocks begin."""
        model = self.models.find(label, self.models.trained)
        start = gr.update(visible=not model.block_lengths)
        return *first_settings(model).values(), gr.update(info=model.reading), start

    def greeting(self) -> str:
        """The status line before the first run."""
        return texts.READY if self.models.find(self.models.default).trained else texts.UNTRAINED

    def opening_canvas(self) -> str:
        """What the player shows before the first run: a recorded one, or the first example with its holes."""
        _, text, length = texts.EXAMPLES[0]
        model = self.models.find(self.models.default)
        recorded = opening.recording(self.models, model)
        if recorded is not None:
            aside = {"steer": True, "done": True, "live": False, "play": True}
            return to_text(compact(recorded.to_dict(), run=OPENING) | aside)
        tokenizer = self.models.tokenizer(model)
        config = opening_config(model)
        canvas = UnmaskRequest(text, model, length, config, tokenizer).canvas()
        trace = SteeredGeneration(canvas, config, get_schedule("log-linear")).trace(
            tokenizer, model=model.label, architecture=model.architecture
        )
        return to_text(compact(trace.to_dict(), run=OPENING) | {"steer": True, "done": False, "live": False})

    # -- a run of the model --

    def run(
        self,
        text: Any,
        model: Any,
        length: Any,
        steps: Any,
        strategy: Any,
        temperature: Any,
        top_k: Any,
        top_p: Any,
        seed: Any,
        block: Any,
        block_start: Any,
        threshold: Any,
        factor: Any,
        entropy_bound: Any,
        request: gr.Request,
        session: UnmaskSession | None = None,
    ) -> Iterator[Update]:
        """Fill the holes of a text, and show every step. Values as the page sent them (`unmask_settings`)."""
        values = (text, model, length, steps, strategy, temperature, top_k, top_p, seed, block, block_start, threshold)
        asked = self._read(*values, factor, entropy_bound)
        session = session or self.new_session()
        command, session.next_command = session.next_command, None
        try:
            with self.stops.running(request.session_hash) as stopped:
                yield SKIP, render.note(texts.WAITING), "", HIDDEN, HIDDEN
                trace, message, verdict = yield from self.play(session, asked, command, stopped)
        finally:
            session.running = False
        warning = cautions(asked)
        status = outcome(trace) + (render.notes(warning) if warning else "") + verdict
        shown = (message, status, trace.text)
        yield *shown, SKIP, SKIP
        with export.saved(trace) as files:  # the last update is the answer to callers of the API
            yield *shown, *map(downloadable, files)

    def play(
        self, session: UnmaskSession, asked: UnmaskRequest, command: Command | None, stopped: Event
    ) -> Generator[Update, None, tuple[Trace, str, str]]:
        """Load, run and show; returns the trace with every step, the player's last message and the verdict."""
        with session.lock:
            session.begin(asked, command)
            assert session.model is not None, "a canvas has a model"
        feed: Feed | None = None
        steps_left = 1 if command and command.do == "step" else -1
        config = session.current.config
        with self.room.seat(session.model, stopped, config) as seat:
            while True:
                with session.lock:
                    feed, problem = session.apply_waiting(feed)
                    run = session.current
                    if run.done or stopped.is_set() or not steps_left:
                        session.running = False  # edits apply at once from here on
                        verdict = session.annotate(feed) + cache_strip(run, session.model, seat.cache_bytes)
                        return session.trace(), to_text(feed.finish(done=run.done)), verdict
                if problem:
                    yield SKIP, render.note(problem, bad=True), SKIP, SKIP, SKIP
                if feed.due:
                    verdict = session.annotate(feed) + cache_strip(run, session.model, seat.cache_bytes)
                    yield to_text(feed.send()), render.note(texts.RUNNING) + verdict, SKIP, SKIP, SKIP
                    feed.extra.pop("other", None)  # once is enough
                seat.steps_left = run.planned_steps - len(run)
                with suppress(Stopped):
                    feed.take(run.advance(seat))
                    steps_left -= 1

    def ask(self, event: gr.EventData, session: UnmaskSession | None) -> UnmaskSession:
        """The visitor asks for steps of the model, from the step on their screen."""
        session = session or self.new_session()
        session.next_command = read_command(event._data, self.limits)
        return session

    def guess(self, event: gr.EventData, session: UnmaskSession | None, *values: Any) -> tuple[Any, UnmaskSession]:
        """What the model would put at each mask of the canvas on the screen: one forward pass."""
        session = session or self.new_session()
        command = read_command(event._data, self.limits)
        with session.lock:
            if session.running:
                return SKIP, session
            command = session.opened(self._read(*values), command)
            assert session.model is not None, "a canvas has a model"
        with self.room.seat(session.model, Event()) as seat, session.lock:
            return to_text(session.guesses(command, seat)), session

    # -- edits and files --

    def make_hole(self, pieces: Any, model: Any, _: Any) -> str:
        """The text with its selected part as a hole of as many tokens. `pieces`: the text before, in and after it."""
        before, inside, after = (check.text("the text", piece, self.limits.max_characters) for piece in pieces)
        if not inside.strip():
            raise Refused(texts.NOTHING_SELECTED)
        tokenizer = self.models.tokenizer(self.models.find(model, self.models.trained))
        space = before[-1:] == " " or inside[0] == " "
        tokens = len(tokenizer.encode((" " if space else "") + inside.strip()))
        end = " " if inside[-1] == " " else ""
        return f"{before.rstrip(' ')}{' ' if space else ''}[MASK:{tokens}]{end}{after}"

    def edit(self, event: gr.EventData, request: gr.Request, session: UnmaskSession | None, *values: Any) -> Edited:
        """The visitor changes the canvas or pauses the model. The status line says what is not possible."""
        session = session or self.new_session()
        try:
            command = read_command(event._data, self.limits)
            if command.do == "pause":
                self.stops.stop(request.session_hash)
                return SKIP, SKIP, SKIP, SKIP, SKIP
            with session.lock:
                if session.running:
                    session.defer(command)
                    return SKIP, SKIP, SKIP, SKIP, SKIP
                session.apply(session.opened(self._read(*values), command))
                return *shown(session), *session.read_back(), session
        except ValueError as error:
            return SKIP, render.note(told(error), bad=True), SKIP, SKIP, SKIP

    def compose(self, session: UnmaskSession | None, *values: Any) -> tuple[Any, Any, Any, UnmaskSession]:
        """Show the canvas of the text that the visitor is writing, before anything runs; its length if that grew."""
        session = session or self.new_session()
        try:
            with session.lock:
                asked = self._read(*self._writable(values))
                warning = cautions(asked)
                if session.running or session.content == asked.content:
                    return SKIP, render.notes(warning) if warning and not session.running else SKIP, SKIP, session
                session.compose(asked)
                message, _ = shown(session)
            if values[2] in (0, asked.length):  # 0: left open
                return message, render.notes([texts.READY, *warning]), SKIP, session
            grown = texts.GROWN.format(length=asked.length)
            return message, render.notes([grown, *warning]), asked.length, session
        except ValueError as error:
            return SKIP, render.note(told(error), bad=True), SKIP, session

    def open_file(self, path: Any, session: UnmaskSession | None) -> tuple[Any, str, Any]:
        """`show_trace`; a refusal is a line of text, which stays."""
        try:
            return self.show_trace(path, session)
        except Refused as refused:
            return SKIP, render.note(str(refused), bad=True), SKIP

    def show_trace(self, path: Any, session: UnmaskSession | None = None) -> tuple[str, str, str]:
        """Read a recorded run that was saved as JSON or as a web page, and show it: message, status, text."""
        trace = export.read_trace(path, self.limits)
        kept = Path(str(path)).stem == export.KEPT
        status = render.note(texts.KEPT if kept else texts.LOADED.format(frames=counted("frames", len(trace.frames))))
        session = session or self.new_session()
        with session.lock:
            if not session.resume_trace(trace):
                return to_text(compact(trace.to_dict())), status, trace.text
            feed = session.feed()
            verdict = session.annotate(feed)
            return to_text(feed.finish(done=session.current.done)), status + verdict, trace.text

    def read_back(self, session: UnmaskSession | None) -> tuple[Any, Any]:
        """The text with holes and the length that give the present canvas."""
        if session is None or not session.idle:
            return SKIP, SKIP
        with session.lock:
            return session.read_back()

    def save(self, session: UnmaskSession | None) -> Iterator[tuple[Any, Any]]:
        """The run so far as files: JSON and a web page."""
        if session is None or not session.idle:
            return
        with session.lock:
            trace = session.trace()
        with export.saved(trace) as (json_file, html_file):
            yield downloadable(json_file), downloadable(html_file)

    def _writable(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values while another model is being chosen: its own strategy follows (`propose`)."""
        if values[4] != SPECULATIVE or drafts(self.models.find(values[1], self.models.trained)):
            return values
        return *values[:4], ORDER_STRATEGY, *values[5:]

    def _read(self, *values: Any) -> UnmaskRequest:
        return read_request(self.models, self.limits, *values)


def block_words(strategy: str) -> tuple[str, str]:
    """What the slider of the block length is called, and what it does."""
    return (texts.DRAFT, texts.DRAFT_INFO) if strategy == SPECULATIVE else (texts.BLOCK, texts.BLOCK_INFO)


def describe_rule(strategy: str) -> tuple[Any, ...]:
    """The same as an update of that slider, and updates of the values of ADAPTIVE: one is seen with its strategy."""
    label, info = block_words(strategy)
    return gr.update(label=label, info=info), *(gr.update(visible=name == strategy) for name in ADAPTIVE)


def shown(session: UnmaskSession) -> tuple[str, str]:
    """The message with the whole run at rest, and the status line with the verdict on it."""
    feed = session.feed()
    verdict = session.annotate(feed)
    run = session.current
    masks = int(run.state.masked.sum())
    line = texts.AT_REST.format(step=len(run), masks=counted("masks", masks)) if masks else texts.NOTHING_LEFT
    strip = cache_strip(run, session.model) if run.snapshots else ""  # an edit unsettles the blocks behind it
    return to_text(feed.finish(done=run.done)), render.note(line) + verdict + strip


def cautions(asked: UnmaskRequest) -> list[str]:
    """A warning where a canvas is longer than the texts of training; another where what it ends with is not seen."""
    model, found = asked.model, []
    if 0 < model.window < asked.length:
        found.append(texts.BEYOND_WINDOW.format(model=model.label, window=model.window))
    size, masked = settled_blocks(asked.config), asked.canvas().masked
    first = int(masked.int().argmax())  # 0 in a full text
    if model.block_lengths and size and masked.any() and not masked[(first // size + 1) * size :].all():
        found.append(texts.END_UNSEEN)
    return found


def outcome(trace: Trace) -> str:
    """The status line at the end of a run."""
    last = trace.frames[-1]
    masks = last.ids.count(trace.mask_id)
    if masks:
        return render.note(texts.STOPPED.format(step=last.step, masks=counted("masks", masks)))
    steps = [frame for frame in trace.frames[1:] if not frame.edits]
    tokens = sum(len(frame.revealed) - len(frame.remasked) for frame in steps)
    if not tokens:
        return render.note(texts.NOTHING_MASKED)
    written, made = counted("tokens", tokens), counted("steps", len(steps))
    if not all(frame.ms for frame in steps):  # those of the recording that the page opens with have no times
        return render.note(texts.DONE_UNTIMED.format(tokens=written, steps=made))
    seconds = sum(frame.ms for frame in steps) / 1000
    rate = tokens / max(seconds, 1e-9)
    return render.note(texts.DONE.format(tokens=written, steps=made, seconds=seconds, rate=rate))


def downloadable(file: str) -> Any:
    """The update of a download button that now has a file."""
    return gr.update(value=file, visible=True)
