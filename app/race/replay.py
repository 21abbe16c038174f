"""What the page replays after a race: texts in the player, or pictures of one pixel per token for long canvases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.race.outcome import outcome
from app.strings.language import texts
from app.strings.numbers import figure
from app.ui import render
from app.ui.events import HIDDEN
from app.ui.inputs import scripted
from diffuapriel.charts.palette import series_styles

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import EntryResult, RaceResult

SCRIPT = Path(__file__).with_name("pixels.js")
READABLE = 1024  # tokens: a longer text is drawn as a picture


def pixels_arguments() -> dict[str, Any]:
    """Arguments that make a `gr.HTML` the pictures; its value is a message of `pixels_message`."""
    return scripted(SCRIPT)


def replays(result: RaceResult) -> tuple[Any, Any]:
    """The updates of the player and of the pictures: one of them shows the race, the other is hidden."""
    if any(entry.recording is None for entry in result.entries):
        return HIDDEN, HIDDEN
    if result.length > READABLE:
        return HIDDEN, gr.update(value=pixels_message(result), visible=True)
    return gr.update(value=player_message(result), visible=True), HIDDEN


def player_message(result: RaceResult) -> str:
    """The message that makes the player replay all generations on one clock."""
    from diffuapriel.benchmark.verdict import race_ranking
    from diffuapriel.tokenizer import get_tokenizer
    from diffuapriel.trace.messages import race_message, to_text

    entries = []
    for entry in result.entries:
        trace = entry.trace
        if trace is None:  # read from a file
            assert entry.recording is not None, "only a race that was recorded is replayed"
            about = {"model": entry.name, "architecture": entry.architecture}
            trace = entry.recording.trace(get_tokenizer(entry.tokenizer), result.sampler(entry), **about)
        entries.append({"label": entry.name, "note": note(entry), "trace": trace.to_dict()})
    tied = any(ratio is None for _, ratio in race_ranking(result)[1:])
    return to_text(race_message(entries, verdict=outcome(result), tied=tied))


def pixels_message(result: RaceResult) -> str:
    """The message of pixels.js; `<` is escaped, so that no token can look like a tag.

    {"words", "language", "verdict", "vocab": {tokenizer: {id: text}}, "lanes": [{"label", "note", "color", "tokenizer",
    "recording"}]}, where a recording is as in diffuapriel/trace/recording.py.
    """
    from diffuapriel.tokenizer import get_tokenizer

    vocab: dict[str, dict[int, str]] = {}
    lanes = []
    for entry, style in zip(result.entries, series_styles([entry.architecture for entry in result.entries])):
        assert entry.recording is not None, "only a race that was recorded is replayed"
        known = vocab.setdefault(entry.tokenizer, {})
        known |= entry.recording.vocabulary(get_tokenizer(entry.tokenizer))
        about = {"label": entry.name, "note": note(entry), "color": style.color, "tokenizer": entry.tokenizer}
        lanes.append({**about, "recording": entry.recording.to_dict()})
    message = {
        "words": texts.PIXELS,
        "language": texts.LANGUAGE,
        "verdict": outcome(result),
        "vocab": vocab,
        "lanes": lanes,
    }
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def note(entry: EntryResult) -> str:
    """The speed of an entry, its passes and the size of its context cache, in a few words."""
    speed = texts.ENTRY_NOTE.format(ms=figure(entry.ms_per_step), rate=entry.tokens_per_second)
    made = texts.ENTRY_PASSES.format(passes=entry.forward_passes, rate=entry.tokens_per_pass)
    return ", ".join(filter(None, (speed, made if entry.forward_passes else "", render.cache_note(entry))))
