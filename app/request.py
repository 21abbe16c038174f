"""What a visitor asks for in the Unmask tab, as checked values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app import limits as check
from app.limits import Limits, Refused
from app.models import Entry, Models
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.options import STRATEGIES, SamplerConfig
from diffuapriel.text.tokenizer import Tokenizer

MAX_TEMPERATURE = 5.0
MAX_TOP_K = 1000
MIN_TOP_P = 0.01


@dataclass(frozen=True)
class Request:
    """A run of the sampler that may start."""

    text: str
    entry: Entry
    length: int  # 0: as long as the text
    config: SamplerConfig


def read_request(
    models: Models,
    limits: Limits,
    text: Any,
    model: Any,
    length: Any,
    steps: Any,
    strategy: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    seed: Any,
) -> Request:
    """Check every value as it came from the page. Raises Refused (a ValueError) that names the first bad one."""
    kept = check.whole_number("top-k", top_k, 0, MAX_TOP_K)
    share = check.number("top-p", top_p, MIN_TOP_P, 1.0)
    config = SamplerConfig(
        strategy=check.choice("strategy", strategy, STRATEGIES),
        steps=check.whole_number("steps", steps, 1, limits.max_steps),
        temperature=check.number("temperature", temperature, 0.0, MAX_TEMPERATURE),
        top_k=kept or None,
        top_p=None if share == 1.0 else share,
        seed=check.whole_number("seed", seed, 0, check.MAX_SEED),
    )
    return Request(
        text=check.text("the text", text, limits.max_characters),
        entry=models.entry(model, models.trained),
        length=check.whole_number("length", length, 0, limits.max_tokens),
        config=config,
    )


def make_canvas(request: Request, tokenizer: Tokenizer, limits: Limits) -> Canvas:
    """The canvas of a request. Raises ValueError where the text does not fit its length or the limit."""
    canvas = Canvas.from_text(request.text, tokenizer, request.length or None)
    if len(canvas) > limits.max_tokens:
        raise Refused(f"the text takes {len(canvas):,} tokens; it may take up to {limits.max_tokens:,}")
    return canvas
