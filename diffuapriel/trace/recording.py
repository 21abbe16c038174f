"""A generation as the tokens that each step wrote: a long canvas, small enough to keep, to send and to draw.

A trace repeats the canvas in every frame and explains each token; a recording holds each change once, in two arrays. A
canvas of 65,536 tokens takes 0.7 MB as JSON, however many steps it was written in:

    {"schema": "diffuapriel-recording", "version": 1, "length": 65536, "mask_id": 50257,
     "counts": [0, 1024, ...],         changes of each frame; frame 0 is the start canvas, masks where nothing is given
     "ms": [0.0, 298.3, ...],          milliseconds of each frame
     "positions": base64, "ids": base64}   of all changes in order, uint32, little-endian; mask_id: masked again
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffuapriel.options import shown
from diffuapriel.sampling.canvas import MAX_LENGTH
from diffuapriel.sampling.frames import StepFrame
from diffuapriel.trace.trace import Trace, display_strings

if TYPE_CHECKING:
    from diffuapriel.sampling.config import SamplerConfig
    from diffuapriel.sampling.state import Ints
    from diffuapriel.tokenizer import Tokenizer

SCHEMA = "diffuapriel-recording"
VERSION = 1
MAX_FRAMES = 8192
Words = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Recording:
    """The changes of all frames, one after the other.

    counts, ms: of each frame. positions, ids: (changes,) uint32.
    """

    length: int
    mask_id: int
    counts: tuple[int, ...]
    ms: tuple[float, ...]
    positions: Words
    ids: Words

    def canvases(self) -> Iterator[Ints]:
        """The ids (L,) after each frame."""
        ids, end = np.full(self.length, self.mask_id, dtype=np.int64), 0
        for count in self.counts:
            begin, end = end, end + count
            ids = ids.copy()
            ids[self.positions[begin:end]] = self.ids[begin:end]
            yield ids

    def trace(self, tokenizer: Tokenizer, config: SamplerConfig, *, model: str = "", architecture: str = "") -> Trace:
        """What can be told of it as a trace: no probabilities."""
        frames, before = [], np.full(self.length, self.mask_id, dtype=np.int64)
        unknown = (None,) * self.length
        for step, (ids, ms) in enumerate(zip(self.canvases(), self.ms)):
            if step == 0:
                before, fixed = ids, tuple((ids != self.mask_id).tolist())
            changed = np.flatnonzero(ids != before)
            masked = ids[changed] == self.mask_id
            frames.append(
                StepFrame(
                    step=step,
                    t=float((ids == self.mask_id).sum() / max(1, fixed.count(False))),
                    ids=tuple(ids.tolist()),
                    revealed=tuple(changed[~masked].tolist()),
                    remasked=tuple(changed[masked].tolist()),
                    confidence=unknown,
                    entropy=unknown,
                    top_k={},
                    nfe=step,
                    ms=ms,
                )
            )
            before = ids
        meta = {"model": model, "architecture": architecture, "tokenizer": tokenizer.name, "created": ""}
        meta |= vars(config)
        return Trace(tuple(frames), fixed, self.mask_id, tokenizer.eos_id, display_strings(frames, tokenizer), meta)

    def vocabulary(self, tokenizer: Tokenizer) -> dict[int, str]:
        """{id: display string} of every id that it writes, ascending."""
        found = np.unique(self.ids).tolist()
        return dict(zip(found, tokenizer.token_strings(found), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as described above."""
        values = {"schema": SCHEMA, "version": VERSION, "length": self.length, "mask_id": self.mask_id}
        arrays = {"positions": _encode(self.positions), "ids": _encode(self.ids)}
        return {**values, "counts": list(self.counts), "ms": [round(ms, 3) for ms in self.ms], **arrays}

    @classmethod
    def from_dict(cls, values: Any) -> Recording:
        """The inverse of `to_dict`. Raises ValueError, which names the first value that does not fit."""
        if not isinstance(values, dict) or (values.get("schema"), values.get("version")) != (SCHEMA, VERSION):
            found = values.get("schema") if isinstance(values, dict) else values
            raise ValueError(f"recording: the schema is {shown(found)}; permitted: {SCHEMA!r}, version {VERSION}")
        length = _whole("length", values.get("length"), 1, MAX_LENGTH)
        mask_id = _whole("mask_id", values.get("mask_id"), 1, 2**31)
        counts, ms = values.get("counts"), values.get("ms")
        if not isinstance(counts, list) or not 1 <= len(counts) <= MAX_FRAMES:
            raise ValueError(f"recording: counts is {shown(counts)}; permitted: a list of 1 to {MAX_FRAMES:,} numbers")
        if not isinstance(ms, list) or len(ms) != len(counts):
            raise ValueError(f"recording: ms is {shown(ms)}; it must be a list with a number for each frame")
        if bad := [v for v in ms if type(v) not in (int, float) or not 0 <= v <= 1e12]:
            raise ValueError(f"recording: ms has {shown(bad[0])}; permitted: 0 to 1e12")
        changes = sum(_whole("counts", count, 0, length) for count in counts)
        positions = _decode("positions", values.get("positions"), changes, length - 1)
        ids = _decode("ids", values.get("ids"), changes, mask_id)
        return cls(length, mask_id, tuple(counts), tuple(map(float, ms)), positions, ids)


class Recorder:
    """Collects a recording while a generation runs: call `add` after each step, outside of what is timed."""

    def __init__(self, length: int, mask_id: int) -> None:
        self._before: Ints = np.full(length, mask_id, dtype=np.int64)
        self._mask_id = mask_id
        self._positions: list[Words] = []
        self._ids: list[Words] = []

    def add(self, ids: Ints) -> None:
        """The canvas (L,) after the next frame. The array may be read-only, and is not kept if it changes later."""
        changed = np.flatnonzero(ids != self._before)
        self._positions.append(changed.astype(np.uint32))
        self._ids.append(ids[changed].astype(np.uint32))
        self._before = ids.copy()

    def recording(self, ms: Sequence[float]) -> Recording:
        """The frames so far, with the milliseconds of each."""
        counts = tuple(map(len, self._positions))
        positions, ids = np.concatenate(self._positions), np.concatenate(self._ids)
        return Recording(len(self._before), self._mask_id, counts, tuple(ms), positions, ids)


def _encode(array: Words) -> str:
    return base64.b64encode(array.astype("<u4").tobytes()).decode("ascii")


def _decode(name: str, text: Any, count: int, most: int) -> Words:
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError(f"recording: {name} is {shown(text)}; it must be base64 text") from None
    if len(data) != 4 * count:
        raise ValueError(f"recording: {name} has {len(data):,} bytes; {count:,} changes have {4 * count:,}")
    array = np.frombuffer(data, dtype="<u4").astype(np.uint32)
    if count and int(array.max()) > most:
        raise ValueError(f"recording: {name} has {int(array.max())}; permitted: 0 to {most}")
    return array


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"recording: {name} is {shown(value)}; permitted: {low} to {high:,}")
    return value
