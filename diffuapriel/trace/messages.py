"""What travels to the player: a run as messages of JSON, small enough to stream.

player.js reads whole traces, but a trace repeats the canvas in every frame: 1,024 tokens x 256 steps are some 5 MB.
A message holds a frame as its differences from the frame before, some hundred bytes, so that a page can follow a
running model at twenty redraws per second. A message is a plain dict:

    {"schema": "diffuapriel-feed", "version": 2, "run": id, "vocab": {id: text}, "frames": [...], "done": bool,
     "header": {"meta", "length", "mask_id", "eos_id", "fixed"},          # header: only where the run is whole so far
                                                                        # and, where it is known:
     "live": bool,                      frames are coming now; otherwise the run is over, or waits for somebody
     "total": int,                      steps at the end of the run, if nobody interferes
     "remarks": {"step", "at": {position: text}},                  what is to be said of single tokens at that step
     "steer": bool,                     the host takes commands for this run
     "turn": int,                       grows with every new run of a page: what is older comes too late
     "other": message | null}           another run of as many tokens, to compare with
    {"schema": "diffuapriel-race", "version": 2, "lanes": [{"label", "note", "trace"}], "slow": number | null}

The first frame of a run is full ({"ids", "confidence", "entropy"}), later ones are differences
({"changes": [[position, id, confidence, entropy], ...]}). Steps decide the order, so a message that is lost
or arrives twice does no harm: the last one of a run is always whole.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from diffuapriel.sampling.frames import StepFrame, frame_to_dict

if TYPE_CHECKING:
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.tokenizer import Tokenizer

VERSION = 2
FEED_SCHEMA = "diffuapriel-feed"
RACE_SCHEMA = "diffuapriel-race"
TRACE_SCHEMA = "diffuapriel-trace"
REDRAW_SECONDS = 0.05  # the player redraws about twenty times per second: more messages would not be seen


def to_text(message: dict) -> str:
    """A message as JSON text for `gr.HTML(value=...)`; `<` is escaped, so that no token can look like a tag."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )


def compact(trace: dict, *, run: str | None = None) -> dict:
    """A whole trace (`Trace.to_dict()`) as one message: the same run in a few percent of the size."""
    if not isinstance(trace, dict) or trace.get("schema") != TRACE_SCHEMA:
        raise ValueError(
            f"compact() takes the JSON object of a trace (schema {TRACE_SCHEMA!r}); got "
            f"{trace.get('schema') if isinstance(trace, dict) else type(trace).__name__!r}. "
            "Use trace.to_dict()."
        )
    header = {key: trace[key] for key in ("meta", "length", "mask_id", "eos_id", "fixed")}
    frames = _differences(trace["frames"])
    return _message(run or uuid.uuid4().hex, frames, trace["vocab"], header=header, done=True)


def race_message(lanes: Iterable[dict], *, slow: float | None = None) -> dict:
    """Lanes to be replayed side by side: dicts of `label`, `trace` (`Trace.to_dict()`) and, if wanted, `note`.

    `slow` is how many times slower than real time the replay starts; None lets the player choose.
    """
    if slow is not None and not slow > 0:
        raise ValueError(f"slow is {slow}; it must be above 0 (2 replays at half of the real speed), or None")
    packed = [
        {"label": lane["label"], "note": lane.get("note", ""), "trace": compact(lane["trace"])}
        for lane in lanes
    ]
    if not packed:
        raise ValueError("a race needs at least one lane")
    return {"schema": RACE_SCHEMA, "version": VERSION, "lanes": packed, "slow": slow}


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
    """Turns the step frames of a running model into messages, at most twenty a second.

        feed = Feed(canvas, tokenizer, {"model": "tales-diffuapriel", "steps": 32})
        for frame in sampler.stream(denoiser, canvas):
            if message := feed.add(frame):
                yield to_text(message)
        yield to_text(feed.finish())

    `meta` is the `meta` of a trace; its `steps` tells the player how long the run will be. What else the messages
    should say ("total", "steer", ...) goes into the attribute `aside`, a dict that may change on the way.
    A page that joins late knows nothing of the frames before. So each time the run has doubled in length the
    message is whole again, from the header on: whoever joins is helped soon, and twice the size is all it costs.
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
        self.aside: dict[str, Any] = {}
        self._token_strings = tokenizer.token_strings
        self._interval = interval
        self._now = now
        self._frames: list[dict] = []  # all of the run, as they travel
        self._vocab: dict[str, str] = {}
        self._last: dict | None = None  # the newest frame, full
        self._sent = 0  # frames already in a message
        self._whole = 0  # frames in the last message that was whole
        self._new_vocab: dict[str, str] = {}
        self._next_time = -float("inf")

    def add(self, frame: StepFrame) -> dict | None:
        """Take the next frame; return a message if it is time for one."""
        self.take(frame)
        return self.send() if self.due else None

    @property
    def due(self) -> bool:
        """Whether it is time for a message."""
        return self._now() >= self._next_time

    def send(self) -> dict:
        """A message with what has not been sent."""
        self._next_time = self._now() + self._interval
        return self._compose(done=False, live=True)

    def take(self, frame: StepFrame) -> None:
        """Take a frame that the next message will bring."""
        values = frame_to_dict(frame)
        self._frames.append(_difference(self._last, values))
        self._last = values
        self._learn(values)

    def finish(self, *, done: bool = True) -> dict:
        """The last message: the whole run. `done` is False where it waits for somebody to go on."""
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
        return message | {"live": live} | self.aside

    def _learn(self, frame: dict) -> None:
        """Ask for the display string of every id that has not been seen before."""
        ids = set(frame["ids"]).union(id_ for rows in frame["top_k"].values() for id_, _ in rows)
        unknown = sorted(id_ for id_ in ids if str(id_) not in self._vocab)
        fresh = dict(zip(map(str, unknown), self._token_strings(unknown), strict=True))
        self._vocab |= fresh
        self._new_vocab |= fresh


def _message(run: str, frames: list[dict], vocab: dict, *, header: dict | None, done: bool) -> dict:
    message: dict[str, Any] = {"schema": FEED_SCHEMA, "version": VERSION, "run": run, "vocab": dict(vocab)}
    if header is not None:
        message["header"] = header
    return message | {"frames": list(frames), "done": done}


def _differences(frames: Sequence[dict]) -> list[dict]:
    before = [None, *frames[:-1]] if frames else []
    return [_difference(a, b) for a, b in zip(before, frames, strict=True)]


def _difference(before: dict | None, frame: dict) -> dict:
    """A frame without what it shares with the frame before; the first frame of a run stays full."""
    if before is None or frame["step"] != before["step"] + 1:
        return frame
    ids, confidence, entropy = frame["ids"], frame["confidence"], frame["entropy"]
    # A token that was drawn anew is a change even if the same token came out.
    changed = set(frame["revealed"])
    changed.update(p for p, (old, new) in enumerate(zip(before["ids"], ids, strict=True)) if old != new)
    changes = [[p, ids[p], _short(confidence[p]), _short(entropy[p])] for p in sorted(changed)]
    top_k = {p: [[id_, _short(prob)] for id_, prob in rows] for p, rows in frame["top_k"].items()}
    small = {key: frame[key] for key in ("step", "t", "remasked", "nfe", "ms")}
    reasons = {key: frame[key] for key in ("rival", "bar", "edits") if frame.get(key)}
    if frame.get("why"):
        reasons["why"] = {p: [rank, _short(score)] for p, (rank, score) in frame["why"].items()}
    return small | reasons | {"changes": changes, "top_k": top_k}


def _short(value: float | None) -> float | None:
    """Four digits are more than a screen shows."""
    return None if value is None else float(f"{value:.4g}")
