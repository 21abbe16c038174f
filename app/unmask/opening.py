"""The recorded run that the page opens with: it plays before any model is loaded.

    python -m app.unmask.opening        records it again, with the bundled model and the settings of the page

The file is a trace like any other, so a visitor can edit it, and the model continues it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from app.server.models import FIRST_MODEL
from diffuapriel import assets
from diffuapriel.trace.trace import Trace

if TYPE_CHECKING:
    from app.server.models import ModelEntry, Models

FILE = "opening.json"
MODEL = FIRST_MODEL


def recording(models: Models, model: ModelEntry) -> Trace | None:
    """The recorded run, where its model is offered and `model` can continue it; else None."""
    if MODEL not in models.trained or model.tales_level is None or not (assets.root() / FILE).is_file():
        return None
    trace = _read()
    return trace if trace.meta["tokenizer"] == model.tokenizer else None


def record() -> Trace:
    """Write the page's first example with the settings of the page."""
    from app.server.models import Models
    from app.strings.language import texts
    from app.unmask.request import opening_config
    from diffuapriel.checkpoint import load_checkpoint
    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.sampling.blocks import denoiser_for
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.sampler import Sampler

    model, tokenizer = load_checkpoint(MODEL)
    config = opening_config(Models().find(MODEL))
    _, text, length = texts.EXAMPLES[0]
    sampler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
    canvas = Canvas.from_text(text, tokenizer, length or None)
    about = {"model": MODEL, "architecture": model.config.architecture}
    trace = Trace.record(sampler, denoiser_for(model.eval(), config), canvas, tokenizer, **about)
    # Without the times of the machine that recorded it.
    return replace(trace, frames=tuple(replace(frame, ms=0.0, denoiser_ms=0.0) for frame in trace.frames))


@lru_cache(maxsize=1)
def _read() -> Trace:
    return Trace.from_json((assets.root() / FILE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    (assets.root() / FILE).write_text(record().to_json(), encoding="utf-8")
