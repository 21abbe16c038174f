"""The Unmask tab: a text with holes in, and one fills up before the reader's eyes.

The handler is a generator. It takes the machine's one turn, sends the player at most twenty messages a second
while the sampler runs on, and gives the turn back however it ends: the text is done, the visitor presses Stop,
or closes the page (Gradio then closes the generator). What the screen leaves out is still in the trace.
"""

from __future__ import annotations

import datetime
from collections.abc import Generator, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import limits as check
from app import render, texts
from app.guard import guarded, guarded_stream
from app.limits import Limits
from app.models import Models
from app.stops import Stops, wire_run
from app.verdict import verdict_html

if TYPE_CHECKING:
    from app.request import Request
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.sampling.trace import Trace

Update = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text, JSON file, HTML file
SAME = gr.skip()
HIDDEN = gr.update(visible=False)
STEPS = 128  # one token a step on canvases of that size: tokens revealed together do not know of each other
TOP_P = 0.9  # cuts off the least likely tenth, where most slips are


class UnmaskTab:
    """The handlers of the tab, and `build`, the page that calls them."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.stops = Stops()

    def build(self, player: dict[str, Any]) -> None:
        """Draw the tab inside the present `gr.Blocks`. `player`: arguments that make a gr.HTML the player."""
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
                with gr.Row(elem_classes="da-files"):
                    small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 160}
                    json_file = gr.DownloadButton(
                        texts.SAVE_JSON, visible=False, elem_id="save-json", **small
                    )
                    html_file = gr.DownloadButton(
                        texts.SAVE_HTML, visible=False, elem_id="save-html", **small
                    )
                    upload = gr.UploadButton(texts.LOAD, file_types=[".json"], elem_id="open-trace", **small)
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
        outputs = [canvas, status, final, json_file, html_file]
        handler = guarded_stream(
            self.run, lambda message: (SAME, render.note(message, bad=True), "", SAME, SAME)
        )
        wire_run(run, stop, self.stops, handler, inputs, outputs, status=status, name="unmask")
        upload.upload(guarded(self.open_trace), upload, [canvas, status, final], api_name="open_trace")

    def _settings(self) -> tuple[gr.Slider, list[Any]]:
        """The side panel: (length, [model, steps, strategy, temperature, top-k, top-p, seed])."""
        from app.request import MAX_TEMPERATURE, MAX_TOP_K, MIN_TOP_P

        names = self.models.trained
        model = gr.Dropdown(names, value=names[0], label=texts.MODEL, elem_id="unmask-model")
        length = gr.Slider(
            0,
            self.limits.max_tokens,
            texts.EXAMPLES[0][2],
            step=1,
            label=texts.LENGTH,
            info=texts.LENGTH_INFO,
        )
        steps = gr.Slider(
            1,
            self.limits.max_steps,
            min(STEPS, self.limits.max_steps),
            step=1,
            label=texts.STEPS,
            info=texts.STEPS_INFO,
        )
        strategies = [(label, name) for name, label in texts.STRATEGIES.items()]
        strategy = gr.Dropdown(strategies, value="confidence", label=texts.STRATEGY)
        with gr.Accordion(texts.MORE, open=False):
            temperature = gr.Slider(
                0, MAX_TEMPERATURE, 1.0, step=0.05, label=texts.TEMPERATURE, info=texts.TEMPERATURE_INFO
            )
            top_k = gr.Slider(0, MAX_TOP_K, 0, step=1, label=texts.TOP_K, info=texts.TOP_K_INFO)
            top_p = gr.Slider(MIN_TOP_P, 1.0, TOP_P, step=0.01, label=texts.TOP_P, info=texts.TOP_P_INFO)
            seed = gr.Number(
                0, label=texts.SEED, info=texts.SEED_INFO, precision=0, minimum=0, maximum=check.MAX_SEED
            )
        return length, [model, steps, strategy, temperature, top_k, top_p, seed]

    def greeting(self) -> str:
        """The status line before the first run."""
        entry = self.models.entry(self.models.trained[0])
        return texts.READY if entry.trained else texts.UNTRAINED

    def opening_canvas(self) -> str:
        """What the player shows before the first run: the first example, all holes still masked."""
        from app.request import Request, make_canvas
        from diffuapriel.player.wire import compact, to_text
        from diffuapriel.sampling.options import SamplerConfig
        from diffuapriel.sampling.trace import Trace

        _, text, length = texts.EXAMPLES[0]
        entry = self.models.entry(self.models.trained[0])
        asked = Request(text, entry, length, SamplerConfig(steps=STEPS, top_p=TOP_P))
        tokenizer = self.models.tokenizer(entry)
        canvas = make_canvas(asked, tokenizer, self.limits)
        trace = Trace.of([start_frame(canvas)], canvas, tokenizer, asked.config, model=entry.label)
        return to_text(compact(trace.to_dict()))

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
        request: gr.Request,
    ) -> Iterator[Update]:
        """Fill the holes of a text, streaming the steps.

        text: the text; [MASK:6] is a hole of six tokens, everything else is kept. model: one of the listed names.
        length: tokens of the canvas, filled up with masks (0: the text alone). steps, strategy, temperature,
        top_k (0: all), top_p (1: all), seed: options of the sampler.
        Returns the player's last message, the verdict, the text and the trace as JSON and as a web page.
        """
        from app import files
        from app.request import read_request

        asked = read_request(
            self.models, self.limits, text, model, length, steps, strategy, temperature, top_k, top_p, seed
        )
        stopped = self.stops.flag(request.session_hash)
        try:
            yield SAME, render.note(texts.WAITING), "", HIDDEN, HIDDEN
            with self.models.turn():
                trace, message = yield from self._stream(asked, stopped)
        finally:
            self.stops.forget(request.session_hash)
        shown = (message, outcome(trace) + self._verdict(asked, trace), trace.text)
        yield *shown, SAME, SAME
        with files.saved(trace) as (
            json_file,
            html_file,
        ):  # the last update is the answer to callers of the API
            yield *shown, offered(json_file), offered(html_file)

    def _stream(self, asked: Request, stopped: Event) -> Generator[Update, None, tuple[Trace, str]]:
        """Load, run and show; returns the trace of all steps, shown or not, and the player's last message."""
        from app.request import make_canvas
        from diffuapriel.diffusion.schedule import get_schedule
        from diffuapriel.player.wire import Feed, to_text
        from diffuapriel.sampling.sampler import Sampler
        from diffuapriel.sampling.trace import Trace

        lane = self.models.load(asked.entry)
        canvas = make_canvas(asked, lane.tokenizer, self.limits)
        sampler = Sampler(asked.config, get_schedule("log-linear"), lane.tokenizer.mask_id)
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"model": asked.entry.label, "architecture": lane.architecture, "created": created}
        frames = []
        feed = None
        for frame in sampler.stream(lane.denoiser, canvas.to(lane.device)):
            frames.append(frame)
            feed = feed or Feed(
                canvas, lane.tokenizer, Trace.of(frames, canvas, lane.tokenizer, asked.config, **about).meta
            )
            if message := feed.add(frame):
                yield to_text(message), render.note(texts.RUNNING), SAME, SAME, SAME
            if stopped.is_set():
                break
        assert feed is not None, "a stream begins with the start canvas"
        trace = Trace.of(frames, canvas, lane.tokenizer, asked.config, **about)
        return trace, to_text(feed.finish())

    def _verdict(self, asked: Request, trace: Trace) -> str:
        """The verdict on a tales model's finished text, as HTML; nothing for other models and unfinished texts."""
        level = asked.entry.tales_level
        if level is None or trace.mask_id in trace.final:
            return ""
        return verdict_html(trace.final, self.models.tokenizer(asked.entry), level)

    def open_trace(self, path: Any) -> tuple[str, str, str]:
        """Show a trace that was saved as JSON: (message for the player, status, text)."""
        from app import files
        from diffuapriel.player.wire import compact, to_text

        trace = files.read_trace(path, self.limits)
        status = texts.LOADED.format(frames=len(trace.frames))
        return to_text(compact(trace.to_dict())), render.note(status), trace.text


def start_frame(canvas: Canvas) -> StepFrame:
    """Frame 0: the canvas before any step."""
    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.sampling.options import SamplerConfig
    from diffuapriel.sampling.sampler import Sampler

    def unused(*_: Any) -> Any:
        raise AssertionError("the start canvas needs no denoiser")

    return next(Sampler(SamplerConfig(), get_schedule("log-linear"), canvas.mask_id).stream(unused, canvas))


def outcome(trace: Trace) -> str:
    """One line of status at the end of a run."""
    last = trace.frames[-1]
    masks = last.ids.count(trace.mask_id)
    if masks:
        return render.note(texts.STOPPED.format(step=last.step, masks=masks))
    tokens = trace.frames[0].ids.count(trace.mask_id)
    if not tokens:
        return render.note(texts.NOTHING_MASKED)
    seconds = sum(frame.ms for frame in trace.frames) / 1000
    rate = tokens / max(seconds, 1e-9)
    return render.note(texts.DONE.format(tokens=tokens, steps=last.step, seconds=seconds, rate=rate))


def offered(file: str) -> Any:
    """A download button that now has a file."""
    return gr.update(value=file, visible=True)
