"""What happens in the Unmask tab: runs, steps, edits, traces. The page is in unmask.py, a visitor's canvas in visit.py.

A run is a generator. It takes the machine's one turn, sends the player at most twenty messages per second while the
sampler runs on, does what the visitor asks between two steps, and gives the turn back however it ends: the text is
done, the visitor pauses, or closes the page (Gradio then closes the generator). What the screen leaves out is still
in the trace.

The Unmask tab: a canvas with holes in, and it fills up before the reader's eyes.

The text box and the canvas are two ways to write one thing: what is typed above appears on the canvas, what is
changed on the canvas is read back into the text box.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.server.guard import guarded, guarded_stream
from app.server.limits import Limits
from app.server.models import ModelEntry, Models
from app.server.stops import Stops
from app.strings.language import texts
from app.ui import render
from app.ui.events import AT_ONCE, HIDDEN, SKIP, wire_run
from app.ui.permalink import wire_link
from app.unmask.export import Keep, drop_zone
from app.unmask.request import unmask_settings
from app.unmask.session import OPENING, Visit, canvas_text

if TYPE_CHECKING:
    from app.unmask.request import Command, UnmaskRequest
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.tokenizer import Tokenizer
    from diffuapriel.trace.messages import Feed
    from diffuapriel.trace.steering import Steered
    from diffuapriel.trace.trace import Trace


Update = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text, JSON file, HTML file
Edited = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text with holes, length, visit


class UnmaskRuns:
    """The handlers of the tab."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.stops = Stops()

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
        request: gr.Request,
        visit: Visit | None = None,
    ) -> Iterator[Update]:
        """Fill the holes of a text with a masked diffusion language model, streaming the steps.

        Args:
            text: the text; [MASK:6] is a hole of six tokens, everything else is kept
            model: one of the listed names
            length: tokens of the canvas, filled up with masks; 0 for the text alone
            steps: steps of the sampler; fewer reveal more tokens at once
            strategy: which masks go first
            temperature: of the drawn tokens; 0 always takes the most probable one
            top_k: draw from the k most probable tokens; 0 for all
            top_p: draw from the most probable tokens that make up this share; 1 for all
            seed: same seed, same text
            block: fill blocks of so many tokens from left to right; 0 for the whole canvas at once
        Returns:
            The player's last message, the verdict, the text, and the trace as JSON and as a web page.
        """
        from app.unmask import files

        asked = self._asked(text, model, length, steps, strategy, temperature, top_k, top_p, seed, block)
        visit = visit or Visit()
        command, visit.asked = visit.asked, None
        stopped = self.stops.flag(request.session_hash)
        try:
            yield SKIP, render.note(texts.WAITING), "", HIDDEN, HIDDEN
            with self.models.turn():
                trace, message = yield from self._play(visit, asked, command, stopped)
        finally:
            visit.running = False
            self.stops.end(request.session_hash, stopped)
        shown = (message, outcome(trace) + self._verdict(visit.model_entry, trace.final), trace.text)
        yield *shown, SKIP, SKIP
        with files.saved(trace) as (
            json_file,
            html_file,
        ):  # the last update is the answer to callers of the API
            yield *shown, offered(json_file), offered(html_file)

    def _play(
        self, visit: Visit, asked: UnmaskRequest, command: Command | None, stopped: Event
    ) -> Generator[Update, None, tuple[Trace, str]]:
        """Load, run and show; returns the trace of all steps, shown or not, and the player's last message."""
        from diffuapriel.trace.messages import to_text

        model_entry = self._begin(visit, asked, command)
        tokenizer = self.models.tokenizer(model_entry)
        denoiser = self.models.load(model_entry).denoiser
        feed: Feed | None = None
        steps_left = 1 if command and command.do == "step" else -1
        while True:
            with visit.lock:
                feed, problem = self._obey(visit, feed, tokenizer)
                run = visit.run
                assert run is not None, "a visit that runs has a run"
                if run.done or stopped.is_set() or not steps_left:
                    visit.running = False  # from here on edits are done at once
                    self._look(visit, feed, tokenizer)
                    return visit.trace(tokenizer), to_text(feed.finish(done=run.done))
            if problem:
                yield SKIP, render.note(problem, bad=True), SKIP, SKIP, SKIP
            if feed.due:
                verdict = self._look(visit, feed, tokenizer)
                yield to_text(feed.send()), render.note(texts.RUNNING) + verdict, SKIP, SKIP, SKIP
                feed.aside.pop("other", None)  # once is enough
            feed.take(run.advance(denoiser))
            steps_left -= 1

    def _begin(self, visit: Visit, asked: UnmaskRequest, command: Command | None) -> ModelEntry:
        """The visitor's canvas, ready to run; edits wait from now on."""
        tokenizer, device = self.models.tokenizer(asked.model_entry), self.models.device
        with visit.lock:
            if command is None:
                visit.begin(asked, tokenizer, self.limits, device)
            else:
                visit.resume(visit.open(asked, tokenizer, self.limits, device, command), asked)
            visit.running = True
            assert visit.model_entry is not None, "a canvas has its model"
            return visit.model_entry

    def _obey(self, visit: Visit, feed: Feed | None, tokenizer: Tokenizer) -> tuple[Feed, str]:
        """Do what waits. The feed, a new one where the frames on the screen no longer hold; and what was refused."""
        problem = ""
        while visit.waiting:
            try:
                frame = visit.obey(visit.waiting.popleft(), tokenizer, self.limits)
                if frame is not None and feed is not None and feed.run == visit.name:
                    feed.take(frame)
            except ValueError as error:
                problem = str(error)
        if feed is None or feed.run != visit.name:
            feed = visit.feed(tokenizer)
        return feed, problem

    def _look(self, visit: Visit, feed: Feed, tokenizer: Tokenizer) -> str:
        """What the next message says beside its frames; the verdict on a tale so far, as HTML."""
        run = visit.run
        assert run is not None, "there is a canvas to look at"
        feed.aside["total"] = run.planned
        if visit.model_entry is None or visit.model_entry.tales_level is None:
            return ""
        from app.ui.tale_check import judge

        judgement = judge(run.state.ids[0].tolist(), tokenizer, visit.model_entry.tales_level)
        feed.aside["remarks"] = {"step": len(run), "at": {str(p): why for p, why in judgement.breaks}}
        return judgement.html

    def ask(self, event: gr.EventData, visit: Visit | None) -> Visit:
        """The visitor asks for steps of the model, from the step on their screen."""
        from app.unmask.request import read_command

        visit = visit or Visit()
        visit.asked = read_command(event._data, self.limits)
        return visit

    def edit(self, event: gr.EventData, request: gr.Request, visit: Visit | None, *values: Any) -> Edited:
        """The visitor changes the canvas, or pauses the model. What cannot be is said in the status line."""
        from app.unmask.request import read_command

        visit = visit or Visit()
        try:
            command = read_command(event._data, self.limits)
            if command.do == "pause":
                self.stops.stop(request.session_hash)
                return SKIP, SKIP, SKIP, SKIP, SKIP
            with visit.lock:
                if visit.running:
                    visit.wait(command)
                    return SKIP, SKIP, SKIP, SKIP, SKIP
                asked = self._asked(*values)
                tokenizer = self.models.tokenizer(
                    asked.model_entry if visit.model_entry is None else visit.model_entry
                )
                command = visit.open(asked, tokenizer, self.limits, self.models.device, command)
                visit.obey(command, tokenizer, self.limits)
                message, status = self._show(visit, tokenizer)
                text, length = self._written(visit, tokenizer)
                return message, status, text, length, visit
        except ValueError as error:
            return SKIP, render.note(str(error), bad=True), SKIP, SKIP, SKIP

    def compose(self, visit: Visit | None, *values: Any) -> tuple[Any, Any, Visit]:
        """The canvas of a text that the visitor is writing, before anything runs."""
        visit = visit or Visit()
        try:
            with visit.lock:
                asked = self._asked(*values)
                tokenizer = self.models.tokenizer(asked.model_entry)
                written = (asked.text, asked.length, tokenizer.name)
                if visit.running or visit.written == written:
                    return SKIP, SKIP, visit
                visit.compose(asked, tokenizer, self.limits, self.models.device)
                message, _ = self._show(visit, tokenizer)
            return message, render.note(texts.READY), visit
        except ValueError as error:
            return SKIP, render.note(str(error), bad=True), visit

    def open_trace(self, path: Any, visit: Visit | None = None) -> tuple[str, str, str]:
        """Read a recorded run that was saved as JSON, and show it.

        Args:
            path: the trace, a JSON file of this app or of a notebook
        Returns:
            The message for the player, a line of status, and the text.
        """
        from app.unmask import files
        from diffuapriel.trace.messages import compact, to_text

        trace = files.read_trace(path, self.limits)
        status = texts.LOADED.format(frames=len(trace.frames))
        visit = visit or Visit()
        with visit.lock:
            model_entry = None if visit.running else self._entry_for(trace)
            if model_entry is None or not visit.take_up(trace, model_entry, self.models.device):
                return to_text(compact(trace.to_dict())), render.note(status), trace.text
            message, _ = self._show(visit, self.models.tokenizer(model_entry))
        return message, render.note(status) + self._verdict(model_entry, trace.final), trace.text

    def read_back(self, visit: Visit | None) -> tuple[Any, Any]:
        """The text with holes and the length that say what the canvas says."""
        if visit is None or visit.run is None or visit.running or visit.model_entry is None:
            return SKIP, SKIP
        with visit.lock:
            return self._written(visit, self.models.tokenizer(visit.model_entry))

    def save(self, visit: Visit | None) -> Iterator[tuple[Any, Any]]:
        """The run so far as files: JSON and a web page."""
        from app.unmask import files

        if visit is None or visit.run is None or visit.running or visit.model_entry is None:
            return
        with visit.lock:
            trace = visit.trace(self.models.tokenizer(visit.model_entry))
        with files.saved(trace) as (json_file, html_file):
            yield offered(json_file), offered(html_file)

    def _asked(self, *values: Any) -> UnmaskRequest:
        from app.unmask.request import read_request

        return read_request(self.models, self.limits, *values)

    def _show(self, visit: Visit, tokenizer: Tokenizer) -> tuple[str, str]:
        """The message with the whole run at rest, and the status line with the verdict on it."""
        from diffuapriel.trace.messages import to_text

        feed = visit.feed(tokenizer)
        verdict = self._look(visit, feed, tokenizer)
        run = visit.run
        assert run is not None, "there is a canvas to show"
        return to_text(feed.finish(done=run.done)), at_rest(run) + verdict

    def _written(self, visit: Visit, tokenizer: Tokenizer) -> tuple[str, int]:
        """What the canvas says, as the text box and the length would: the next run starts from it."""
        run = visit.run
        assert run is not None, "there is a canvas to read"
        text = canvas_text(run.state.ids[0].tolist(), run.state.fixed[0].tolist(), tokenizer)
        visit.written = (text, len(run.canvas), tokenizer.name)
        return text, len(run.canvas)

    def _entry_for(self, trace: Trace) -> ModelEntry | None:
        """The model that can go on with a trace: its own where it is offered, else one that reads its tokens."""
        if len(trace.fixed) > self.limits.max_tokens:
            return None
        model_entries = [self.models.find(label) for label in self.models.trained]
        same = [e for e in model_entries if e.tokenizer == trace.meta.get("tokenizer")]
        fits = [e for e in same if self.models.tokenizer(e).mask_id == trace.mask_id]
        return next((e for e in fits if e.label == trace.meta.get("model")), fits[0] if fits else None)

    def _verdict(self, model_entry: ModelEntry | None, ids: tuple[int, ...]) -> str:
        """The verdict on a tales model's text, as HTML; nothing for other models."""
        if model_entry is None or model_entry.tales_level is None:
            return ""
        from app.ui.tale_check import verdict_html

        return verdict_html(ids, self.models.tokenizer(model_entry), model_entry.tales_level)


def outcome(trace: Trace) -> str:
    """One line of status at the end of a run."""
    last = trace.frames[-1]
    masks = last.ids.count(trace.mask_id)
    if masks:
        return render.note(texts.STOPPED.format(step=last.step, masks=masks))
    steps = [frame for frame in trace.frames[1:] if not frame.edits]
    tokens = sum(len(frame.revealed) - len(frame.remasked) for frame in steps)
    if not tokens:
        return render.note(texts.NOTHING_MASKED)
    seconds = sum(frame.ms for frame in steps) / 1000
    rate = tokens / max(seconds, 1e-9)
    return render.note(texts.DONE.format(tokens=tokens, steps=len(steps), seconds=seconds, rate=rate))


def at_rest(run: Steered) -> str:
    """One line of status where nothing runs."""
    masks = int(run.state.masked.sum())
    line = texts.AT_REST.format(step=len(run), masks=masks) if masks else texts.NOTHING_LEFT
    return render.note(line)


def offered(file: str) -> Any:
    """A download button that now has a file."""
    return gr.update(value=file, visible=True)


STEPS = 128  # one token a step on canvases of that size: tokens revealed together do not know of each other
TOP_P = 0.9  # cuts off the least likely tenth, where most slips are
VISIT_SECONDS = 3600.0  # how long a canvas is kept that nobody touches


class UnmaskTab(UnmaskRuns):
    """`build` draws the page; the handlers that it calls are those of `UnmaskRuns`."""

    def build(self, player: dict[str, Any]) -> None:
        """Draw the tab inside the present `gr.Blocks`. `player`: arguments that make a gr.HTML the player."""
        visit = gr.State(Visit(), time_to_live=VISIT_SECONDS, delete_callback=Visit.close)
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
            run = gr.Button(texts.RUN, variant="primary", scale=0, min_width=130, elem_id="unmask-run")
            stop = gr.Button(texts.STOP, interactive=False, scale=0, min_width=130, elem_id="unmask-stop")
            examples = gr.Column(scale=1, min_width=280)
        with gr.Row():
            with gr.Column(scale=5, min_width=300, elem_classes="da-stage"):
                canvas = gr.HTML(**{**player, "value": self.opening_canvas()}, elem_id="unmask-player")
                status = gr.HTML(
                    render.note(self.greeting()),
                    elem_id="unmask-status",
                    elem_classes="da-status",
                    apply_default_css=False,
                )
                final = gr.Textbox(visible=False, label=texts.FINAL_TEXT)
                saved, upload = self._files()
                gr.HTML(**drop_zone())
            with gr.Column(scale=2, min_width=280, elem_classes="da-side"):
                length, settings = self._settings()
        with examples:
            gr.Examples(
                examples=[[example, tokens] for _, example, tokens in texts.EXAMPLES],
                inputs=[text, length],
                example_labels=[name for name, _, _ in texts.EXAMPLES],
                label=texts.EXAMPLES_LABEL,
                elem_id="unmask-examples",
                api_visibility="private",
            )
        inputs = [text, settings[0], length, *settings[1:]]
        asked = canvas.submit(guarded(self.ask), visit, visit, **AT_ONCE)
        # A state has its time to live, and is deleted at all, only once it has been an output.
        run.click(lambda visit: visit, visit, visit, **AT_ONCE)
        wire_run(
            run,
            stop,
            self.stops,
            guarded_stream(self.run, lambda message: (SKIP, render.note(message, bad=True), "", SKIP, SKIP)),
            [*inputs, visit],
            [canvas, status, final, *saved],
            status=status,
            name="unmask",
            also=[asked],
        )
        self._wire_edits(visit, inputs, canvas, status, saved)
        wire_link("unmask", unmask_settings(self.models, self.limits), inputs, status)
        opened = upload.upload(
            guarded(self.open_trace), [upload, visit], [canvas, status, final], api_name="open_trace"
        )
        opened.then(guarded(self.read_back), visit, [text, length], **AT_ONCE)

    def _wire_edits(
        self, visit: gr.State, inputs: list[Any], canvas: gr.HTML, status: Any, saved: Any
    ) -> None:
        """What the visitor does to the canvas takes effect at once, also while a model runs."""
        text, model, length = inputs[:3]
        raw: dict[str, Any] = {**AT_ONCE, "preprocess": False}  # the handlers check the values themselves
        edited = canvas.input(
            guarded(self.edit),
            [visit, *inputs],
            [canvas, status, text, length, visit],
            trigger_mode="multiple",
            **raw,
        )
        edited.then(guarded_stream(self.save, lambda message: (SKIP, SKIP)), visit, saved, **AT_ONCE)
        gr.on(
            [text.change, length.change, model.change],
            guarded(self.compose),
            [visit, *inputs],
            [canvas, status, visit],
            trigger_mode="always_last",
            **raw,
        )

    def _files(self) -> tuple[list[Any], gr.UploadButton]:
        """The row of buttons for files: ([JSON, web page], open a trace)."""
        small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 160}
        with gr.Row(elem_classes="da-files"):
            json_file = gr.DownloadButton(texts.SAVE_JSON, visible=False, elem_id="save-json", **small)
            html_file = gr.DownloadButton(texts.SAVE_HTML, visible=False, elem_id="save-html", **small)
            Keep(self.limits).build(json_file)
            upload = gr.UploadButton(texts.LOAD, file_types=[".json"], elem_id="open-trace", **small)
        return [json_file, html_file], upload

    def _settings(self) -> tuple[gr.Slider, list[Any]]:
        """The side panel: (length, [model, steps, strategy, temperature, top-k, top-p, seed, block])."""
        from diffuapriel.sampling.config import BLOCK

        model = gr.Dropdown(
            self.models.trained, value=self.models.default, label=texts.MODEL, elem_id="unmask-model"
        )
        ranges = {
            name: one.range for name, one in unmask_settings(self.models, self.limits).items() if one.option
        }
        length = gr.Slider(
            **ranges["length"], value=texts.EXAMPLES[0][2], step=1, label=texts.LENGTH, info=texts.LENGTH_INFO
        )
        steps = gr.Slider(
            **ranges["steps"],
            value=min(STEPS, self.limits.max_steps),
            step=1,
            label=texts.STEPS,
            info=texts.STEPS_INFO,
        )
        strategies = [(label, name) for name, label in texts.STRATEGIES.items()]
        strategy = gr.Dropdown(strategies, value="confidence", label=texts.STRATEGY)
        block = gr.Slider(
            **ranges["block"],
            value=min(BLOCK, self.limits.max_tokens),
            step=1,
            label=texts.BLOCK,
            info=texts.BLOCK_INFO,
            elem_id="unmask-block",
        )
        with gr.Accordion(texts.MORE, open=False):
            temperature = gr.Slider(
                **ranges["temperature"],
                value=1.0,
                step=0.05,
                label=texts.TEMPERATURE,
                info=texts.TEMPERATURE_INFO,
            )
            top_k = gr.Slider(**ranges["top_k"], value=0, step=1, label=texts.TOP_K, info=texts.TOP_K_INFO)
            top_p = gr.Slider(
                **ranges["top_p"], value=TOP_P, step=0.01, label=texts.TOP_P, info=texts.TOP_P_INFO
            )
            seed = gr.Number(**ranges["seed"], value=0, precision=0, label=texts.SEED, info=texts.SEED_INFO)
        return length, [model, steps, strategy, temperature, top_k, top_p, seed, block]

    def greeting(self) -> str:
        """The status line before the first run."""
        model_entry = self.models.find(self.models.default)
        return texts.READY if model_entry.trained else texts.UNTRAINED

    def opening_canvas(self) -> str:
        """What the player shows before the first run: the first example, all holes still masked."""
        from app.unmask.request import UnmaskRequest, make_canvas
        from diffuapriel.sampling.config import BLOCK, SamplerConfig
        from diffuapriel.trace.messages import compact, to_text
        from diffuapriel.trace.trace import Trace

        _, text, length = texts.EXAMPLES[0]
        model_entry = self.models.find(self.models.default)
        asked = UnmaskRequest(
            text, model_entry, length, SamplerConfig(steps=STEPS, block_length=BLOCK, top_p=TOP_P)
        )
        tokenizer = self.models.tokenizer(model_entry)
        canvas = make_canvas(asked, tokenizer, self.limits)
        about = {"model": model_entry.label, "architecture": model_entry.architecture}
        trace = Trace.of([start_frame(canvas)], canvas, tokenizer, asked.config, **about)
        return to_text(compact(trace.to_dict(), run=OPENING) | {"steer": True, "done": False, "live": False})


def start_frame(canvas: Canvas) -> StepFrame:
    """Frame 0: the canvas before any step."""
    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.sampling.config import SamplerConfig
    from diffuapriel.sampling.sampler import Sampler

    def unused(*_: Any) -> Any:
        raise AssertionError("the start canvas needs no denoiser")

    return next(Sampler(SamplerConfig(), get_schedule("log-linear"), canvas.mask_id).stream(unused, canvas))
