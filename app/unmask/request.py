"""What a visitor asks for in the Unmask tab, as checked values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.server import limits as check
from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models
from app.strings import en as texts
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import BY_BLOCKS, MAX_STEPS, STRATEGIES, SamplerConfig
from diffuapriel.tokenizer import Tokenizer

MAX_TEMPERATURE = 5.0
MAX_TOP_K = 1000
MIN_TOP_P = 0.01
MOST_WRITTEN = 2_000  # characters written over tokens at once
EDITS = ("mask", "pin", "unpin", "type", "choose")
COMMANDS = (*EDITS, "undo", "swap", "pause", "go", "step")


@dataclass(frozen=True)
class Request:
    """A run of the sampler that may start."""

    text: str
    model_entry: ModelEntry
    length: int  # 0: as long as the text
    config: SamplerConfig


@dataclass(frozen=True)
class Command:
    """What a visitor wants of the run on their screen. `first` to `last` are the positions that an edit is about."""

    run: str  # the run's name, so that a command about a run of the past is noticed
    do: str  # one of COMMANDS
    at: int | None = None  # the step on the screen; None: the newest
    first: int = 0
    last: int = 0
    text: str = ""  # to type
    token: int = -1  # to choose


def read_command(data: Any, limits: Limits) -> Command:
    """Check a command as it came from the page. Raises Refused that names the first bad value."""
    if not isinstance(data, dict):
        raise Refused(texts.NO_COMMAND.format(value=check.shown(data)))
    do = check.choice("do", data.get("do"), COMMANDS)
    name = check.text("run", data.get("run"), 64)
    step = data.get("at")
    at = None if step is None else check.whole_number("step", step, 0, MAX_STEPS)
    if do not in EDITS:
        return Command(name, do, at)
    first = check.whole_number("first", data.get("first"), 0, limits.max_tokens - 1)
    last = check.whole_number("last", data.get("last"), first, limits.max_tokens - 1)
    text, token = "", -1
    if do == "type":
        text = check.text("the text", data.get("text"), MOST_WRITTEN)
        if not text:
            raise Refused(texts.NOTHING_WRITTEN)
    if do == "choose":
        token = check.whole_number("id", data.get("id"), 0, 2**31)
    return Command(name, do, at, first, last, text, token)


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
    block: Any,
) -> Request:
    """Check every value as it came from the page. Raises Refused (a ValueError) that names the first bad one."""
    kept = check.whole_number("top-k", top_k, 0, MAX_TOP_K)
    share = check.number("top-p", top_p, MIN_TOP_P, 1.0)
    strategy = check.choice("strategy", strategy, STRATEGIES)
    block = check.whole_number("block", block, 0, limits.max_tokens)
    config = SamplerConfig(
        strategy=strategy,
        block_length=(block or None) if strategy in BY_BLOCKS else None,
        steps=check.whole_number("steps", steps, 1, limits.max_steps),
        temperature=check.number("temperature", temperature, 0.0, MAX_TEMPERATURE),
        top_k=kept or None,
        top_p=None if share == 1.0 else share,
        seed=check.whole_number("seed", seed, 0, check.MAX_SEED),
    )
    return Request(
        text=check.text("the text", text, limits.max_characters),
        model_entry=models.find(model, models.trained),
        length=check.whole_number("length", length, 0, limits.max_tokens),
        config=config,
    )


def make_canvas(request: Request, tokenizer: Tokenizer, limits: Limits) -> Canvas:
    """The canvas of a request. Raises ValueError where the text does not fit its length or the limit."""
    canvas = Canvas.from_text(request.text, tokenizer, request.length or None)
    if len(canvas) > limits.max_tokens:
        tokens, most = f"{len(canvas):,}", f"{limits.max_tokens:,}"
        raise Refused(texts.CANVAS_TOO_LONG.format(tokens=tokens, most=most))
    return canvas
