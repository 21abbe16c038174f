"""The file format of a trace, version 2, and the checks that a foreign file must pass.

    {"schema": "diffuapriel-trace", "version": 2,
     "meta": {"model", "architecture", "tokenizer", "strategy", "steps", "temperature", "seed", "created", ...},
     "length": 64, "mask_id": 4097, "eos_id": 4096, "fixed": [true, false, ...],
     "vocab": {"12": "Mia", ...},                            display string of every id that appears
     "frames": [{"step", "t", "ids", "revealed", "remasked", "confidence", "entropy", "top_k", "nfe", "ms",
                 "denoiser_ms", "why", "rival", "bar", "edits"}, ...]}

The fields of a frame are those of `StepFrame`; `top_k` is {"position": [[id, probability], ...]}, `why` is
{"position": [rank, score]}, `edits` is {"position": "pin", ...}. `meta` may hold further plain values. The fields
from `denoiser_ms` on may be missing, then they are 0 or empty: that is version 1, which is read too. Everything
else is required, nothing else is permitted, and every value is checked: a trace may come from a stranger.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from diffuapriel.sampling.canvas import MAX_LENGTH
from diffuapriel.sampling.config import MAX_SEED, MAX_STEPS, STRATEGIES
from diffuapriel.sampling.frames import EDITS, StepFrame

SCHEMA = "diffuapriel-trace"
VERSION = 2
READ = (1, 2)
MAX_BYTES = 256 * 1024 * 1024
MAX_IDS = 2**31  # vocabulary sizes
MAX_TEXT = 4096  # characters of one display string or one value of meta
MAX_ALTERNATIVES = 64

_TOP = ("schema", "version", "meta", "length", "mask_id", "eos_id", "fixed", "vocab", "frames")
_FRAME = ("step", "t", "ids", "revealed", "remasked", "confidence", "entropy", "top_k", "nfe", "ms")
_OPTIONAL = ("denoiser_ms", "why", "rival", "bar", "edits")


def parse(text: str | bytes) -> dict[str, Any]:
    """The checked JSON object of a trace. Raises ValueError that says what is wrong, and TypeError for no text."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"trace: from_json takes the text of a trace, not {type(text).__name__}")
    if len(text) > MAX_BYTES:
        raise ValueError(f"trace: the file has {len(text):,} bytes; permitted: up to {MAX_BYTES:,}")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also what is not UTF-8, and numbers of thousands of digits
        raise ValueError(f"trace: this is not JSON ({error}); the file is damaged or no trace") from error
    return check(data)


def check(data: Any) -> dict[str, Any]:
    """`data` itself if it is a trace of this version; otherwise ValueError naming the field and what it may hold."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f'trace: this is no DiffuApriel trace (it has no "schema": "{SCHEMA}")')
    if type(data.get("version")) is not int or data["version"] not in READ:
        raise ValueError(
            f"trace: version {_show(data.get('version'))}; this program reads the versions {READ[0]} to {READ[-1]}; "
            "record the trace again, or use the program that wrote it"
        )
    _fields(data, "the trace", _TOP)
    length = _whole(data["length"], "length", 1, MAX_LENGTH)
    mask_id = _whole(data["mask_id"], "mask_id", 1, MAX_IDS)
    _whole(data["eos_id"], "eos_id", 0, mask_id - 1)
    _check_meta(data["meta"])
    _items(data["fixed"], "fixed", length, lambda v: type(v) is bool, "true or false")
    known = _check_vocab(data["vocab"], mask_id)
    frames = data["frames"]
    if type(frames) is not list or not frames:
        raise ValueError(f"trace: frames is {_show(frames)}; it must be a list of one frame or more")
    before = {"step": -1, "nfe": 0}
    for i, frame in enumerate(frames):
        _check_frame(frame, f"frames[{i}]", length, known, before)
        before = frame
    return data


def frames_of(data: dict[str, Any]) -> tuple[StepFrame, ...]:
    """The frames of a checked trace."""
    return tuple(
        StepFrame(
            step=f["step"],
            t=float(f["t"]),
            ids=tuple(f["ids"]),
            revealed=tuple(f["revealed"]),
            remasked=tuple(f["remasked"]),
            confidence=tuple(None if v is None else float(v) for v in f["confidence"]),
            entropy=tuple(None if v is None else float(v) for v in f["entropy"]),
            top_k={int(p): tuple((i, float(q)) for i, q in pairs) for p, pairs in f["top_k"].items()},
            nfe=f["nfe"],
            ms=float(f["ms"]),
            denoiser_ms=float(f.get("denoiser_ms", 0.0)),
            why={int(p): (rank, float(score)) for p, (rank, score) in f.get("why", {}).items()},
            rival=None if f.get("rival") is None else float(f["rival"]),
            bar=None if f.get("bar") is None else float(f["bar"]),
            edits={int(p): kind for p, kind in f.get("edits", {}).items()},
        )
        for f in data["frames"]
    )


def _check_meta(meta: Any) -> None:
    texts, numbers = ("model", "architecture", "tokenizer", "created"), ("steps", "temperature", "seed")
    _fields(meta, "meta", (*texts, "strategy", *numbers), more=True)
    for name, value in meta.items():
        if not (value is None or type(value) is bool or _is_number(value) or _is_text(value)):
            raise ValueError(
                f"trace: meta[{_show(name)}] is {_show(value)}; it must be text, a number or true/false"
            )
    for name in texts:
        if type(meta[name]) is not str:
            raise ValueError(f"trace: meta.{name} is {_show(meta[name])}; it must be text")
    if meta["strategy"] not in STRATEGIES:
        raise ValueError(
            f"trace: meta.strategy is {_show(meta['strategy'])}; permitted: {', '.join(STRATEGIES)}"
        )
    _whole(meta["steps"], "meta.steps", 1, MAX_STEPS)
    _whole(meta["seed"], "meta.seed", 0, MAX_SEED)
    _number(meta["temperature"], "meta.temperature", 0, 100)


def _check_vocab(vocab: Any, mask_id: int) -> set[int]:
    if type(vocab) is not dict:
        raise ValueError(f"trace: vocab is {_show(vocab)}; it must map ids to texts")
    for key, text in vocab.items():
        if not _is_index(key, mask_id + 1):
            raise ValueError(f"trace: vocab has the key {_show(key)}; permitted: the ids 0 to {mask_id}")
        if not _is_text(text):
            raise ValueError(
                f"trace: vocab[{key}] is {_show(text)}; it must be text of up to {MAX_TEXT:,} characters"
            )
    return {int(key) for key in vocab}


def _check_frame(frame: Any, at: str, length: int, known: set[int], before: dict[str, Any]) -> None:
    _fields(frame, at, _FRAME, optional=_OPTIONAL)
    _whole(frame["step"], f"{at}.step", before["step"] + 1, 2**53)
    _whole(frame["nfe"], f"{at}.nfe", before["nfe"], 2**53)
    _number(frame["t"], f"{at}.t", 0, 1)
    _number(frame["ms"], f"{at}.ms", 0, 1e15)
    _number(frame.get("denoiser_ms", 0.0), f"{at}.denoiser_ms", 0, 1e15)
    _items(frame["ids"], f"{at}.ids", length, lambda v: type(v) is int and v in known, "ids that vocab names")
    for name in ("revealed", "remasked"):
        _check_positions(frame[name], f"{at}.{name}", length)
    for name, high in (("confidence", 1.0), ("entropy", 1e6)):
        _items(
            frame[name],
            f"{at}.{name}",
            length,
            lambda v, high=high: v is None or (_is_number(v) and 0 <= v <= high),
            f"null or 0 to {high:g}",
        )
    for key, pairs in _by_position(frame["top_k"], f"{at}.top_k", length):
        _check_alternatives(pairs, f"{at}.top_k[{key}]", known)
    _check_reasons(frame, at, length)


def _check_reasons(frame: dict[str, Any], at: str, length: int) -> None:
    """The fields of version 2: why each token came, and what a person did."""
    for key, pair in _by_position(frame.get("why", {}), f"{at}.why", length):
        if type(pair) is not list or len(pair) != 2:
            raise ValueError(f"trace: {at}.why[{key}] is {_show(pair)}; it must be [rank, score]")
        _whole(pair[0], f"{at}.why[{key}][0]", 1, MAX_IDS)
        _number(pair[1], f"{at}.why[{key}][1]", 0, 1e6)
    for name in ("rival", "bar"):
        if frame.get(name) is not None:
            _number(frame[name], f"{at}.{name}", 0, 1e6)
    for key, kind in _by_position(frame.get("edits", {}), f"{at}.edits", length):
        if kind not in EDITS:
            raise ValueError(f"trace: {at}.edits[{key}] is {_show(kind)}; permitted: {', '.join(EDITS)}")


def _by_position(values: Any, at: str, length: int) -> Iterable[tuple[str, Any]]:
    if type(values) is not dict:
        raise ValueError(f"trace: {at} is {_show(values)}; it must map positions to what was there")
    for key in values:
        if not _is_index(key, length):
            raise ValueError(f"trace: {at} has the key {_show(key)}; permitted: positions 0 to {length - 1}")
    return values.items()


def _check_positions(positions: Any, at: str, length: int) -> None:
    last = -1
    for p in _items(positions, at, None, lambda v: type(v) is int and 0 <= v < length, f"0 to {length - 1}"):
        if p <= last:
            raise ValueError(f"trace: {at} is not ascending: {p} follows {last}")
        last = p


def _check_alternatives(pairs: Any, at: str, known: set[int]) -> None:
    def is_pair(v: Any) -> bool:
        return type(v) is list and len(v) == 2 and type(v[0]) is int and v[0] in known and _is_number(v[1])

    for _, probability in _items(pairs, at, None, is_pair, "[id that vocab names, probability]"):
        _number(probability, at, 0, 1)
    if len(pairs) > MAX_ALTERNATIVES:
        raise ValueError(f"trace: {at} has {len(pairs)} alternatives; permitted: up to {MAX_ALTERNATIVES}")


def _fields(
    data: Any, at: str, required: Iterable[str], *, optional: Iterable[str] = (), more: bool = False
) -> None:
    if type(data) is not dict:
        raise ValueError(f"trace: {at} is {_show(data)}; it must be an object")
    missing = [name for name in required if name not in data]
    unknown = [] if more else [name for name in data if name not in (*required, *optional)]
    if missing or unknown:
        raise ValueError(f"trace: {at} lacks the fields {missing} and has unknown fields {_show(unknown)}")


def _items(
    values: Any, at: str, length: int | None, fits: Callable[[Any], bool], permitted: str
) -> list[Any]:
    if type(values) is not list or (length is not None and len(values) != length):
        size = f"a list of {len(values)}" if type(values) is list else _show(values)
        raise ValueError(f"trace: {at} is {size}; it must be a list" + (f" of {length}" if length else ""))
    for i, value in enumerate(values):
        if not fits(value):
            raise ValueError(f"trace: {at}[{i}] is {_show(value)}; permitted: {permitted}")
    return values


def _whole(value: Any, at: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"trace: {at} is {_show(value)}; permitted: whole numbers from {low} to {high}")
    return value


def _number(value: Any, at: str, low: float, high: float) -> None:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"trace: {at} is {_show(value)}; permitted: {low:g} to {high:g}")


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))


def _is_text(value: Any) -> bool:
    # A lone surrogate is valid JSON and no valid text: it could not be written into a page.
    return type(value) is str and len(value) <= MAX_TEXT and not re.search("[\ud800-\udfff]", value)


def _is_index(key: str, end: int) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,9}", key) is not None and int(key) < end


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _show(value: Any) -> str:
    """A value for a message, cut short and harmless to print."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "a very large number"
    return text if len(text) <= 60 else text[:57] + "..."
