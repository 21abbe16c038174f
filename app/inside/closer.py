"""The lower half of the Inside tab: a closer look at one model, on the same text.

The half-lives of its Mamba heads' states, its attention maps, and what the noise level changes in each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.inside import charts
from app.inside.request import InspectRequest, load_model, offered, opening, read_request
from app.server import limits as check
from app.server.api import endpoint
from app.server.guard import guarded
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.server.queue import MODEL
from app.strings.language import texts
from app.ui import render
from app.ui.events import AT_ONCE

if TYPE_CHECKING:
    from torch import Tensor

    from diffuapriel.interpret.half_life import LayerHalfLives
    from diffuapriel.model.denoiser import Denoiser

TIMES = [n / 40 for n in range(1, 41)]  # of the curves over time
HYBRID = "diffuapriel-h"
FIRST, MEAN = 0, 0  # the layer and the head shown by default


class CloserPanel:
    """The handler, and the part of the page that calls it."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits

    def build(self, text: Any, chosen: Any, time: Any, position: Any) -> tuple[gr.Plot, Callable[[Any], None]]:
        """Draw the panel. Returns the chart of the schedule, and a function that makes an event redraw the others."""
        gr.HTML(render.lead(texts.CLOSER_TITLE, texts.CLOSER_LEAD), apply_default_css=False)
        names = opening(self.models)
        # The hybrid has both, heads of Mamba and maps of attention.
        hybrid = next((name for name in names if self.models.find(name).architecture == HYBRID), names[0])
        model = gr.Dropdown(self.models.choices(names), value=hybrid, label=texts.CLOSER_MODEL, elem_id="inside-closer")
        status = gr.HTML("", elem_id="closer-status", elem_classes="da-status", apply_default_css=False)
        gr.HTML(render.lead(texts.HALF_LIFE_TITLE, texts.HALF_LIFE_LEAD), apply_default_css=False)
        memory = gr.Plot(show_label=False, elem_id="inside-memory", visible=False)
        gr.HTML(render.lead(texts.ATTENTION_TITLE, texts.ATTENTION_LEAD), apply_default_css=False)
        with gr.Row():
            first, mean = [(texts.ATTENTION_FIRST, FIRST)], [(texts.ATTENTION_MEAN, MEAN)]
            layer = gr.Dropdown(first, value=FIRST, label=texts.ATTENTION_LAYER, elem_id="inside-layer")
            head = gr.Dropdown(mean, value=MEAN, label=texts.ATTENTION_HEAD, elem_id="inside-head")
        attention = gr.Plot(show_label=False, elem_id="inside-attention", visible=False)
        with gr.Row():
            with gr.Column(min_width=320):
                gr.HTML(render.lead(texts.SCHEDULE_TITLE, texts.SCHEDULE_LEAD), apply_default_css=False)
                schedule = gr.Plot(show_label=False, elem_id="inside-schedule", visible=False)
            with gr.Column(min_width=320):
                gr.HTML(render.lead(texts.MODULATION_TITLE, texts.MODULATION_LEAD), apply_default_css=False)
                parts = [(label, name) for name, label in texts.MODULATION_PARTS.items()]
                part = gr.Radio(parts, value="mixer", label=texts.MODULATION_PART, elem_id="inside-part")
                modulation = gr.Plot(show_label=False, elem_id="inside-modulation", visible=False)
        numbers = gr.JSON(visible=False, label="Half-lives and modulation")
        inputs = [text, model, position, time, layer, head, part]
        outputs = [memory, attention, modulation, layer, head, numbers, status]

        wiring: dict[str, Any] = {
            "preprocess": False,
            "concurrency_id": MODEL,
            "concurrency_limit": 1,
            "show_progress_on": [status],
            "api_visibility": "private",
        }

        def redraw_on(event: Any) -> None:
            event(guarded(self.run), inputs, outputs, **wiring)

        from diffuapriel.interpret.adaln import SUBLAYERS

        choices = {"model": offered(self.models), "part": SUBLAYERS}
        endpoint(self.inside_closer, "inside_closer", choices=choices, group=MODEL)
        chosen.change(self.follow, [chosen, model], [model, layer, head], **AT_ONCE)
        redraw_on(model.input(lambda: (FIRST, MEAN), None, [layer, head], **AT_ONCE).then)
        for chooser in (layer, head, part):
            redraw_on(chooser.input)
        return schedule, redraw_on

    def follow(self, chosen: Any, present: Any) -> tuple[Any, int, int]:
        """The choice is among the models inspected above; the present model stays chosen if it is one of them."""
        names = [name for name in chosen if name in self.models.everything] if isinstance(chosen, list) else []
        value = present if present in names else next(iter(names), None)
        return gr.update(choices=self.models.choices(names), value=value), FIRST, MEAN

    def run(self, text: Any, model: Any, position: Any, t: Any, layer: Any, head: Any, part: Any) -> tuple[Any, ...]:
        """The closer look: three charts, the choices of layer and head, numbers, status."""
        *drawn, numbers, status = self._look(text, model, position, t, layer, head, part)
        numbers.pop("attention", None)  # the page has the chart
        return *drawn, numbers, status

    def _look(self, text: Any, model: Any, position: Any, t: Any, layer: Any, head: Any, part: Any) -> tuple[Any, ...]:
        from diffuapriel.interpret.adaln import SUBLAYERS

        model_entry = self.models.find(model, offered(self.models))
        asked = read_request(self.limits, self.models.tokenizer(model_entry), text, position, t)
        number = SUBLAYERS.index(check.choice("part", part, SUBLAYERS))
        with self.models.turn():
            return draw(load_model(self.models, model_entry), asked, layer, head, number)

    def inside_closer(
        self,
        text: str,
        model: str,
        position: int = -1,
        t: float = 0.0,
        layer: int = FIRST,
        head: int = MEAN,
        part: str = "mixer",
    ) -> dict:
        """Half-lives of all Mamba heads, one attention map, and the modulation over time, of one model.

        Args:
            text: the text; [MASK:6] is a hole of six tokens
            model: one of the listed names
            position: the position to predict, from 0; -1 for the first mask
            t: the time that the model is told, from 0 to 1; 0 for the share of masks in the text
            layer: a layer with attention, from 1; 0 for the first
            head: a head of it, from 1; 0 for the mean of all
            part: of a block, for the modulation: mixer or mlp
        Returns:
            The half-lives of each Mamba layer, the attention map, and the modulation of each layer over time.
        """
        return self._look(text, model, position, t, layer, head, part)[5]


def draw(denoiser: Denoiser, asked: InspectRequest, layer: Any, head: Any, part: int) -> tuple[Any, ...]:
    """What `run` returns, for a loaded model. Raises Refused for a layer or head that the model does not have."""
    import torch

    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.interpret.adaln import modulation_over_time
    from diffuapriel.interpret.attention_maps import attention_layers, attention_map
    from diffuapriel.interpret.half_life import head_half_lives

    ids = asked.ids.to(denoiser.embedding.weight.device)
    with_attention = [number + 1 for number in attention_layers(denoiser)]  # as the page counts
    found = _one_of("layer", layer, with_attention)
    weights, heads, title = None, 0, ""
    if not with_attention:
        _one_of("head", head, [])
    else:
        found = found or with_attention[0]
        maps = attention_map(denoiser, ids, asked.sigma, found - 1)
        heads = len(maps)
        one = _one_of("head", head, list(range(1, heads + 1)))
        weights = maps[one - 1] if one else maps.mean(0)
        of = texts.ATTENTION_ONE.format(head=one) if one else texts.ATTENTION_MEAN
        title = f"{texts.LAYER.format(layer=found)}, {of}"
    memory = head_half_lives(denoiser, ids, asked.sigma)
    sizes = modulation_over_time(denoiser, torch.tensor(TIMES), get_schedule())[:, part]
    kind = denoiser.config.architecture
    shown: dict[str, Any] = {"visible": bool(with_attention)}
    return (
        charts.shown(charts.half_life_chart(memory, denoiser.config.layer_kinds, len(ids), kind)),
        charts.shown(charts.attention_chart(weights, asked.tokens, title, kind)),
        charts.shown(charts.modulation_chart(sizes, TIMES, asked.t, kind)),
        gr.update(choices=_choices(texts.ATTENTION_FIRST, texts.LAYER, "layer", with_attention), **shown),
        gr.update(choices=_choices(texts.ATTENTION_MEAN, texts.ATTENTION_ONE, "head", range(1, heads + 1)), **shown),
        numbers_of(memory, sizes) | ({} if weights is None else {"attention": weights.round(decimals=4).tolist()}),
        render.note(summary(memory, len(with_attention))),
    )


def _one_of(name: str, value: Any, numbers: list[int]) -> int:
    """The number of a layer or head; 0 for the default."""
    found = check.whole_number(name, value, 0, max(numbers, default=0))
    if found and found not in numbers:
        permitted = ", ".join(map(str, [0, *numbers]))
        raise Refused(texts.NOT_PERMITTED.format(name=check.named(name), value=found, permitted=permitted))
    return found


def _choices(first: str, each: str, name: str, numbers: Sequence[int]) -> list[tuple[str, int]]:
    return [(first, 0), *((each.format(**{name: number}), number) for number in numbers)]


def summary(memory: Sequence[LayerHalfLives], attention: int) -> str:
    """The charts in one sentence."""
    if not memory:
        return texts.CLOSER_TRANSFORMER.format(layers=attention)
    import torch

    forward, reverse = torch.cat([layer.half_life for layer in memory], dim=1)
    spans = {}
    for name, v in (("forward", forward), ("reverse", reverse)):
        low, middle, high = v.min().item(), v.median().item(), v.max().item()
        spans[name] = texts.CLOSER_SPAN.format(low=low, middle=middle, high=high)
    return texts.CLOSER_MAMBA.format(**spans, layers=len(memory), attention=attention)


def numbers_of(memory: Sequence[LayerHalfLives], sizes: Tensor) -> dict[str, Any]:
    """The measurement as plain values, for callers of the API; layers are counted from 1, as on the page."""
    from diffuapriel.interpret.adaln import MODULATIONS

    half_lives = [
        {"layer": one.layer + 1, "forward": one.half_life[0].tolist(), "reverse": one.half_life[1].tolist()}
        for one in memory
    ]
    modulation = [dict(zip(MODULATIONS, layer.tolist())) for layer in sizes]
    return {"half_life_tokens": half_lives, "times": TIMES, "modulation": modulation}
