"""The Unmask tab: a canvas with holes in, and it fills up before the reader's eyes.

The text box and the canvas are two ways to write one thing: what is typed above appears on the canvas, what is
changed on the canvas is read back into the text box.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from app import limits as check
from app import render, texts
from app.guard import guarded, guarded_stream
from app.keep import Keep, drop_zone
from app.link import wire_link
from app.link_fields import unmask_fields
from app.stops import wire_run
from app.unmask_run import SAME, UnmaskRuns
from app.visit import OPENING, Visit

if TYPE_CHECKING:
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.frames import StepFrame

STEPS = 128  # one token a step on canvases of that size: tokens revealed together do not know of each other
TOP_P = 0.9  # cuts off the least likely tenth, where most slips are
VISIT_SECONDS = 3600.0  # how long a canvas is kept that nobody touches
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


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
            guarded_stream(self.run, lambda message: (SAME, render.note(message, bad=True), "", SAME, SAME)),
            [*inputs, visit],
            [canvas, status, final, *saved],
            status=status,
            name="unmask",
            also=[asked],
        )
        self._wire_edits(visit, inputs, canvas, status, saved)
        wire_link("unmask", unmask_fields(self.models, self.limits, inputs), status)
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
        edited.then(guarded_stream(self.save, lambda message: (SAME, SAME)), visit, saved, **AT_ONCE)
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
        from app.request import MAX_TEMPERATURE, MAX_TOP_K, MIN_TOP_P
        from diffuapriel.sampling.options import BLOCK

        model = gr.Dropdown(
            self.models.trained, value=self.models.default, label=texts.MODEL, elem_id="unmask-model"
        )
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
        block = gr.Slider(
            0,
            self.limits.max_tokens,
            min(BLOCK, self.limits.max_tokens),
            step=1,
            label=texts.BLOCK,
            info=texts.BLOCK_INFO,
            elem_id="unmask-block",
        )
        with gr.Accordion(texts.MORE, open=False):
            temperature = gr.Slider(
                0, MAX_TEMPERATURE, 1.0, step=0.05, label=texts.TEMPERATURE, info=texts.TEMPERATURE_INFO
            )
            top_k = gr.Slider(0, MAX_TOP_K, 0, step=1, label=texts.TOP_K, info=texts.TOP_K_INFO)
            top_p = gr.Slider(MIN_TOP_P, 1.0, TOP_P, step=0.01, label=texts.TOP_P, info=texts.TOP_P_INFO)
            seed = gr.Number(
                0, label=texts.SEED, info=texts.SEED_INFO, precision=0, minimum=0, maximum=check.MAX_SEED
            )
        return length, [model, steps, strategy, temperature, top_k, top_p, seed, block]

    def greeting(self) -> str:
        """The status line before the first run."""
        entry = self.models.entry(self.models.default)
        return texts.READY if entry.trained else texts.UNTRAINED

    def opening_canvas(self) -> str:
        """What the player shows before the first run: the first example, all holes still masked."""
        from app.request import Request, make_canvas
        from diffuapriel.player.wire import compact, to_text
        from diffuapriel.sampling.options import BLOCK, SamplerConfig
        from diffuapriel.sampling.trace import Trace

        _, text, length = texts.EXAMPLES[0]
        entry = self.models.entry(self.models.default)
        asked = Request(text, entry, length, SamplerConfig(steps=STEPS, block_length=BLOCK, top_p=TOP_P))
        tokenizer = self.models.tokenizer(entry)
        canvas = make_canvas(asked, tokenizer, self.limits)
        about = {"model": entry.label, "architecture": entry.architecture}
        trace = Trace.of([start_frame(canvas)], canvas, tokenizer, asked.config, **about)
        return to_text(compact(trace.to_dict(), run=OPENING) | {"steer": True, "done": False, "live": False})


def start_frame(canvas: Canvas) -> StepFrame:
    """Frame 0: the canvas before any step."""
    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.sampling.options import SamplerConfig
    from diffuapriel.sampling.sampler import Sampler

    def unused(*_: Any) -> Any:
        raise AssertionError("the start canvas needs no denoiser")

    return next(Sampler(SamplerConfig(), get_schedule("log-linear"), canvas.mask_id).stream(unused, canvas))
