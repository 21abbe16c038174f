"""Components that several tabs share: a slider for a setting, the row that runs and stops a measurement, scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.server.limits import Setting
from app.strings.language import texts
from app.ui import render


def slider(setting: Setting, value: float, label: str, info: str | None = None, **more: Any) -> gr.Slider:
    """A slider over the range of a setting, in steps of 1; it starts at `value`, or at the end of a shorter range."""
    value = min(value, setting.range["maximum"])
    return gr.Slider(value=value, label=label, info=info, **{"step": 1, **setting.range, **more})


def scripted(script: Path, template: str = '<div class="da-host"></div>', value: str = "") -> dict[str, Any]:
    """Arguments that make a `gr.HTML` run the JavaScript of a file, which draws into `template`."""
    return {
        "value": value,
        "html_template": template,
        "css_template": "",
        "js_on_load": script.read_text(encoding="utf-8"),
        "apply_default_css": False,
    }


def run_row(
    name: str,
    label: str,
    *,
    ready: str = "",
    examples: Sequence[tuple[str, str]] = (),
    text: Any = None,
    beside: Sequence[gr.Button] = (),
) -> tuple[gr.Button, gr.Button, gr.HTML]:
    """Draw a Run button named `label`, a Stop button and the status line below them; returns the three.

    name: begins their ids on the page. ready: the first status. examples: (name, text); a click on one fills the
    component `text`. beside: further buttons, made with `render=False`.
    """
    with gr.Row(elem_classes="da-actions"):
        run = gr.Button(label, variant="primary", scale=0, min_width=130, elem_id=f"{name}-run")
        stop = gr.Button(texts.STOP, interactive=False, scale=0, min_width=130, elem_id=f"{name}-stop")
        for button in beside:
            button.render()
        if examples:
            gr.Examples(
                [[example] for _, example in examples],
                [text],
                example_labels=[example for example, _ in examples],
                label=texts.EXAMPLES_LABEL,
                elem_id=f"{name}-examples",
                api_visibility="private",
            )
    first = render.note(ready) if ready else ""
    status = gr.HTML(first, elem_id=f"{name}-status", elem_classes="da-status", apply_default_css=False)
    return run, stop, status
