"""The messages that the player receives: a run as JSON, small enough to stream.

player.js can load whole traces, but a trace repeats the canvas in every frame: 1,024 tokens x 256 steps are about 5 MB.
A message holds each frame as its difference from the previous one, a few hundred bytes, so a page can follow a running
model at twenty redraws per second. A message is a plain dict:

    {"schema": "diffuapriel-feed", "version": 3, "run": id, "vocab": {id: text}, "frames": [...], "done": bool,
     "header": {"meta", "length", "mask_id", "eos_id", "fixed"},   # only in a message that holds the whole run so far
                                                                   # and, where known:
     "live": bool,                      frames are arriving now; else the run is over or waits for the reader
     "total": int,                      the last step of the run, unless the reader intervenes
     "remarks": {"step", "at": {position: text}},                  notes on single tokens at that step
     "guesses": {"step", "at": {position: [[id, probability], ...]}},   what the model would put at each mask then
     "steer": bool,                     the host accepts commands for this run
     "play": bool,                      replay the run at once, unless the reader prefers less motion
     "turn": int,                       grows with every new run of a page: a message of a lower turn is ignored
     "other": message | null}           another run of the same length, to compare with
    {"schema": "diffuapriel-race", "version": 3, "lanes": [{"label", "note", "trace"}], "slow": number | null,
     "verdict": text shown at the end, instead of the player's own}

The first frame of a run is complete ({"ids", "confidence", "entropy"}), later ones are differences
({"changes": [[position, id, confidence, entropy], ...]}). Frames are ordered by their step, so a message that is lost
or arrives twice does no harm: the last message of a run always holds the whole run.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from diffuapriel.sampling.frames import StepFrame, frame_to_dict

if TYPE_CHECKING:
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.tokenizer import Tokenizer

VERSION = 3
FEED_SCHEMA = "diffuapriel-feed"
RACE_SCHEMA = "diffuapriel-race"
TRACE_SCHEMA = "diffuapriel-trace"
REDRAW_SECONDS = 0.05  # the player redraws about twenty times per second; more messages would not be visible


def to_text(message: dict) -> str:
    """A message as JSON text for `gr.HTML(value=...)`; `<` is escaped, so that no token can form a tag."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def compact(trace: dict, *, run: str | None = None) -> dict:
    """A whole trace (`Trace.to_dict()`) as one message, a few percent of its size."""
    if not isinstance(trace, dict) or trace.get("schema") != TRACE_SCHEMA:
        raise ValueError(
            f"compact() takes the JSON object of a trace (schema {TRACE_SCHEMA!r}); got "
            f"{trace.get('schema') if isinstance(trace, dict) else type(trace).__name__!r}. "
            "Use trace.to_dict()."
        )
    header = {key: trace[key] for key in ("meta", "length", "mask_id", "eos_id", "fixed")}
    whole = trace["frames"]
    frames = [_difference(before, frame) for before, frame in zip([None, *whole], whole)]
    return _message(run or uuid.uuid4().hex, frames, trace["vocab"], header=header, done=True)


def race_message(lanes: Iterable[dict], *, slow: float | None = None, verdict: str = "", tied: bool = False) -> dict:
    """Lanes to replay side by side: dicts of `label`, `trace` (`Trace.to_dict()`) and optionally `note`.

    `slow`: how many times slower than real time the replay starts; None lets the player choose. `verdict`: the result
    in words; by default the player's own, the ratios of the times. `tied`: no lane is called first or second.
    """
    if slow is not None and not slow > 0:
        raise ValueError(f"slow is {slow}; it must be above 0 (2 replays at half the real speed), or None")
    packed = [{"label": lane["label"], "note": lane.get("note", ""), "trace": compact(lane["trace"])} for lane in lanes]
    if not packed:
        raise ValueError("a race needs at least one lane")
    return {"schema": RACE_SCHEMA, "version": VERSION, "lanes": packed, "slow": slow, "verdict": verdict, "tied": tied}


def guess_message(
    run: str, step: int, candidates: dict[int, tuple[tuple[int, float], ...]], tokenizer: Tokenizer, *, done: bool
) -> dict:
    """A message for a run at rest that only says what the model would put at each mask after `step`."""
    ids = sorted({id_ for rows in candidates.values() for id_, _ in rows})
    vocab = dict(zip(map(str, ids), tokenizer.token_strings(ids), strict=True))
    at = {str(p): [[id_, _short(probability)] for id_, probability in rows] for p, rows in candidates.items()}
    guesses = {"step": step, "at": at}
    return _message(run, [], vocab, header=None, done=done) | {"live": False, "steer": True, "guesses": guesses}


def last_ids(message: dict) -> list[int]:
    """The canvas at the end of a whole message."""
    first, *rest = message["frames"]
    ids = list(first["ids"])
    for frame in rest:
        if "ids" in frame:
            ids = list(frame["ids"])
        for position, id_, *_ in frame.get("changes", ()):
            ids[position] = id_
    return ids


class Feed:
    """Turns the step frames of a running model into messages, at most twenty per second.

        feed = Feed(canvas, tokenizer, {"model": "tales-diffuapriel", "steps": 32})
        for frame in sampler.stream(denoiser, canvas):
            if message := feed.add(frame):
                yield to_text(message)
        yield to_text(feed.finish())

    `meta` is the `meta` of a trace; its `steps` tells the player how long the run will be. Further entries of the
    messages ("total", "steer", ...) go into the attribute `extra`, a dict that may change during the run.
    A page that joins late has missed the earlier frames. Each time the run has doubled in length, the message therefore
    holds the whole run again, including the header; this doubles the total size at most.
    """

    def __init__(
        self,
        canvas: Canvas,
        tokenizer: Tokenizer,
        meta: dict[str, Any],
        *,
        run: str | None = None,
        interval: float = REDRAW_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.header = {
            "meta": meta,
            "length": int(canvas.ids.numel()),
            "mask_id": canvas.mask_id,
            "eos_id": tokenizer.eos_id,
            "fixed": canvas.fixed.tolist(),
        }
        self.run = run or uuid.uuid4().hex
        self.extra: dict[str, Any] = {}
        self._token_strings = tokenizer.token_strings
        self._interval = interval
        self._now = now
        self._frames: list[dict] = []  # of the whole run, as sent
        self._vocab: dict[str, str] = {}
        self._last: dict | None = None  # the newest frame, complete
        self._sent = 0  # number of frames already in a message
        self._whole = 0  # number of frames in the last message with the whole run
        self._new_vocab: dict[str, str] = {}
        self._next_time = -float("inf")

    def add(self, frame: StepFrame) -> dict | None:
        """Add the next frame; returns a message if one is due."""
        self.take(frame)
        return self.send() if self.due else None

    @property
    def due(self) -> bool:
        """Whether the interval since the last message has passed."""
        return self._now() >= self._next_time

    def send(self) -> dict:
        """A message with the frames that have not been sent."""
        self._next_time = self._now() + self._interval
        return self._compose(done=False, live=True)

    def take(self, frame: StepFrame) -> None:
        """Add a frame for the next message."""
        values = frame_to_dict(frame)
        self._frames.append(_difference(self._last, values))
        self._last = values
        self._learn(values)

    def finish(self, *, done: bool = True) -> dict:
        """The last message, with the whole run. `done` is False if the run waits for the reader to continue."""
        return self._compose(done=done, live=False)

    def _compose(self, *, done: bool, live: bool) -> dict:
        whole = not live or len(self._frames) >= 2 * self._whole
        start = 0 if whole else self._sent
        message = _message(
            self.run,
            self._frames[start:],
            self._vocab if whole else self._new_vocab,
            header=self.header if whole else None,
            done=done,
        )
        self._sent = len(self._frames)
        self._whole = self._sent if whole else self._whole
        self._new_vocab = {}
        return message | {"live": live} | self.extra

    def _learn(self, frame: dict) -> None:
        """Look up the display string of every new id."""
        ids = set(frame["ids"]).union(id_ for rows in frame["top_k"].values() for id_, _ in rows)
        ids.update(id_ for _, id_ in frame.get("draft", ()))
        unknown = sorted(id_ for id_ in ids if str(id_) not in self._vocab)
        fresh = dict(zip(map(str, unknown), self._token_strings(unknown), strict=True))
        self._vocab |= fresh
        self._new_vocab |= fresh


def _message(run: str, frames: list[dict], vocab: dict, *, header: dict | None, done: bool) -> dict:
    message: dict[str, Any] = {"schema": FEED_SCHEMA, "version": VERSION, "run": run, "vocab": dict(vocab)}
    if header is not None:
        message["header"] = header
    return message | {"frames": list(frames), "done": done}


def _difference(before: dict | None, frame: dict) -> dict:
    """A frame without what it shares with the previous one; the first frame of a run stays complete."""
    if before is None or frame["step"] != before["step"] + 1:
        return frame
    ids, confidence, entropy = frame["ids"], frame["confidence"], frame["entropy"]
    # A token that was drawn again counts as a change even if it is the same token.
    changed = set(frame["revealed"])
    changed.update(p for p, (old, new) in enumerate(zip(before["ids"], ids, strict=True)) if old != new)
    changes = [[p, ids[p], _short(confidence[p]), _short(entropy[p])] for p in sorted(changed)]
    top_k = {p: [[id_, _short(prob)] for id_, prob in rows] for p, rows in frame["top_k"].items()}
    small = {key: frame[key] for key in ("step", "t", "remasked", "nfe", "ms")}
    reasons = {key: frame[key] for key in ("runner_up", "threshold", "edits", "draft") if frame.get(key)}
    if frame.get("why"):
        reasons["why"] = {p: [rank, _short(score)] for p, (rank, score) in frame["why"].items()}
    return small | reasons | {"changes": changes, "top_k": top_k}


def _short(value: float | None) -> float | None:
    """Four digits, more than the screen shows."""
    return None if value is None else float(f"{value:.4g}")
