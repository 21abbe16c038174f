"""What a visitor asks for in the Unmask tab, as checked values: a run (`UnmaskRequest`) or an edit (`Command`)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from app.server import limits as check
from app.server.limits import Limits, Refused, Settings, read, sampler_settings, setting, text_setting
from app.server.models import ModelEntry, Models
from app.strings.language import texts, translated
from diffuapriel.options import Option, options_of
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import (
    ADAPTIVE,
    BLOCKWISE,
    DEFAULT_BLOCK_LENGTH,
    MAX_STEPS,
    SPECULATIVE,
    TEXT_TEMPERATURE,
    SamplerConfig,
    resolve_blocks,
    resolve_options,
)
from diffuapriel.tokenizer import Tokenizer

STORY = 96  # tokens of a canvas whose length is left open
ROOM = 32  # tokens that a text without a hole is continued by, at least
MOST_WRITTEN = 2_000  # characters that one edit writes
EDITS = ("mask", "pin", "unpin", "type", "choose")
COMMANDS = (*EDITS, "undo", "swap", "pause", "go", "step", "guess")

# The page's three orders of writing: the block length of each.
ORDERS = {"left": 1, "blocks": DEFAULT_BLOCK_LENGTH, "anywhere": 0}
ORDER_STRATEGY = "threshold"
THRESHOLD = 0.97  # that the page opens with, unless the model's card has another one
STEPS = 128  # for other strategies: one token per step on canvases of that size
LONGEST_DRAFT = 64  # of a model that knows no blocks but of one token and the whole canvas
TOP_P = 0.9  # cuts off the least likely tenth, where most mistakes are


@dataclass(frozen=True)
class UnmaskRequest:
    """A run of the sampler that may start."""

    text: str
    model: ModelEntry
    length: int  # 0: as long as the text, which is continued if it has no hole
    config: SamplerConfig
    tokenizer: Tokenizer

    @property
    def content(self) -> tuple[str, int, str]:
        """What determines the canvas."""
        return self.text, self.length, self.tokenizer.name

    def canvas(self) -> Canvas:
        """The canvas before any step."""
        return Canvas.from_text(self.text, self.tokenizer, self.length or None)


def unmask_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for a run, in the order of the endpoint."""
    return {
        "text": text_setting(limits.max_characters),
        "model": models.setting(models.trained),
        "length": setting(Option("length", int, 0, least=0, most=limits.max_tokens)),
        **sampler_settings(limits),
        **{name: setting(options_of(SamplerConfig)[name]) for name in ADAPTIVE},
    }


def read_request(models: Models, limits: Limits, *values: Any) -> UnmaskRequest:
    """The checked values of `unmask_settings`. Raises Refused, which names the first invalid one.

    The last two, factor and entropy_bound, may be left out: the card or the page's own proposal then decides. A length
    that the text does not fit grows, up to the limit; without a hole, the model gets some room after the text.
    """
    settings = unmask_settings(models, limits)
    asked = read({name: settings[name] for name in list(settings)[: len(values)]}, values)
    asked = first_settings(asked["model"]) | asked
    known = asked["model"].block_lengths
    if asked["strategy"] == SPECULATIVE:
        if not drafts(asked["model"]):
            able = [label for label in models.trained if drafts(models.find(label))]
            here = texts.DRAFTS_HERE.format(models=", ".join(able)) if able else ""
            raise Refused(texts.NO_DRAFTS.format(model=asked["model"].label) + here)
        block = draft_length(asked["block"], known)
    else:
        block = (
            known_block_length(asked["block"], known) if known else asked["block"] * (asked["strategy"] in BLOCKWISE)
        )
    blocks = resolve_blocks(asked["strategy"], block, asked["block_start"], known)
    measured_so = asked["model"].frontier is not None and asked["model"].frontier.stop_at_eos
    config = SamplerConfig(
        strategy=asked["strategy"],
        **blocks,
        stop_at_eos=measured_so and blocks["block_length"] is not None,
        steps=asked["steps"],
        temperature=asked["temperature"],
        top_k=asked["top_k"] or None,
        top_p=None if asked["top_p"] == 1.0 else asked["top_p"],
        seed=asked["seed"],
        **{name: asked[name] for name in ADAPTIVE},
    )
    model, text, length = asked["model"], asked["text"], asked["length"]
    tokenizer = models.tokenizer(model)
    needed, has_hole = measured(text, tokenizer)
    most = limits.max_tokens
    if needed > most:
        raise Refused(texts.CANVAS_TOO_LONG.format(tokens=needed, most=most))
    if not has_hole and (not length or length < needed):
        length = min(most, max(needed + ROOM, STORY if not length else 0))
    elif 0 < length < needed:
        length = needed
    return UnmaskRequest(text, model, length, config, tokenizer)


def known_block_length(block: int, known: tuple[int, ...]) -> int:
    """Of the block lengths that a model knows, the longest up to `block`; 0 is the whole canvas, longest of all."""
    lengths = sorted(known, key=lambda length: length or math.inf)
    return (
        max((length for length in lengths if length and length <= block), default=lengths[0]) if block else lengths[-1]
    )


def drafts(model: ModelEntry) -> bool:
    """Whether a model can write by `speculative`: in blocks of one token."""
    return 1 in model.block_lengths


def draft_length(block: int, known: tuple[int, ...]) -> int:
    """The length of a draft, which may be any: `block`, or where that is 0 the longest that the model knows."""
    longest = max(known)
    return block or (longest if longest > 1 else LONGEST_DRAFT)


def measured(text: str, tokenizer: Tokenizer) -> tuple[int, bool]:
    """The number of tokens that a text takes, and whether it has a hole. Raises Refused for a malformed hole."""
    if not text:
        return 0, False
    try:
        canvas = Canvas.from_text(text, tokenizer)
    except ValueError as error:
        hole = re.search('"(.*)" is not a hole', str(error), re.S)
        raise Refused(
            texts.BAD_HOLE.format(hole=hole[1]) if hole else translated(str(error)) or texts.NOT_POSSIBLE
        ) from error
    return len(canvas), bool(canvas.masked.any())


def proposed(model: ModelEntry) -> dict[str, Any]:
    """The rule that the page proposes, as in `CheckpointInfo.generation`: that of the model's card, or the page's own.

    The latter writes in blocks with a model of blocks, and anywhere with any other.
    """
    own = {"strategy": ORDER_STRATEGY, "threshold": THRESHOLD}
    rule = dict(model.generation or own)
    return {**rule, "block_length": resolve_options(rule, model.block_lengths)["block_length"] or 0}


def first_settings(model: ModelEntry) -> dict[str, Any]:
    """What the page proposes for a model, by the names of `unmask_settings`: a rule, and how tokens are drawn.

    The rule of the card holds at the temperature and top-p that it was measured with.
    """
    declared, rule, measured = options_of(SamplerConfig), proposed(model), model.frontier
    values = {name: rule.get(name, THRESHOLD if name == "threshold" else declared[name].default) for name in ADAPTIVE}
    drawn = {"temperature": 1.0 if model.tales_level is not None else TEXT_TEMPERATURE, "top_p": TOP_P}
    if measured:
        drawn = {"temperature": measured.temperature, "top_p": 1.0 if measured.top_p is None else measured.top_p}
    return {"strategy": rule["strategy"], "block": rule["block_length"], **values, **drawn}


def first_order(model: ModelEntry) -> str | None:
    """The order of writing that the page proposes; None where its rule is none of the three."""
    first = first_settings(model)
    is_order = first["strategy"] == ORDER_STRATEGY
    return next((name for name, size in ORDERS.items() if is_order and size == first["block"]), None)


def opening_config(model: ModelEntry) -> SamplerConfig:
    """The settings that the page opens with, with this model."""
    drawn = {name: first_settings(model)[name] for name in ("temperature", "top_p")}
    return SamplerConfig(steps=STEPS, **drawn, **resolve_options(proposed(model), model.block_lengths))


@dataclass(frozen=True)
class Command:
    """What a visitor does to the run on their screen. An edit covers the positions from `first` to `last`."""

    run: str  # the run's name, to notice a command for an earlier run
    do: str  # one of COMMANDS
    at: int | None = None  # the step on the screen; None: the newest
    first: int = 0
    last: int = 0
    text: str = ""  # to type
    token: int = -1  # to choose


def read_command(data: Any, limits: Limits) -> Command:
    """Check a command as the page sent it. Raises Refused, which names the first invalid value."""
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
