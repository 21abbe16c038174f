"""The file format of a trace, version 3, and the checks that a foreign file must pass.

    {"schema": "diffuapriel-trace", "version": 3,
     "meta": {"model", "architecture", "tokenizer", "strategy", "steps", "temperature", "seed", "created", ...},
     "length": 64, "mask_id": 4097, "eos_id": 4096, "fixed": [true, false, ...],
     "vocab": {"12": "Mia", ...},                            display string of every id that appears
     "frames": [{"step", "t", "ids", "revealed", "remasked", "confidence", "entropy", "top_k", "nfe", "ms",
                 "denoiser_ms", "why", "runner_up", "threshold", "edits", "draft"}, ...]}

The fields of a frame are those of `StepFrame`; `top_k` is {"position": [[id, probability], ...]}, `why` is
{"position": [rank, score]}, `edits` is {"position": "pin", ...} and `draft` is [[position, id], ...]. `meta` may hold
further plain values. Frame fields from `denoiser_ms` on may be missing, which means 0 or empty. All other fields are
required, no further ones are permitted, and every value is checked: a trace may come from a stranger.

Older versions are read too. Version 2 calls `runner_up` "rival" and `threshold` "bar", and has the strategies
"confidence" (now low_confidence) and "remask" (now remdm). Version 1 has no frame field after `denoiser_ms`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from diffuapriel.options import shown
from diffuapriel.sampling.canvas import MAX_LENGTH
from diffuapriel.sampling.config import ALL_STRATEGIES, MAX_SEED, MAX_STEPS, RENAMED_STRATEGIES
from diffuapriel.sampling.frames import EDITS, StepFrame
from diffuapriel.storage import parse_json

SCHEMA = "diffuapriel-trace"
VERSION = 3
READ = (1, 2, 3)
MAX_BYTES = 10_000_000  # about 1,024 tokens x 500 steps
MAX_FRAMES = 2 * MAX_STEPS  # steps and edits
MAX_IDS = 2**31  # vocabulary sizes
MAX_TEXT = 4096  # characters of one display string or one value of meta
MAX_ALTERNATIVES = 64


class Leaf(NamedTuple):
    """A rule for one value: whether it fits, and what is permitted, in words."""

    fits: Callable[[Any], bool]
    permitted: str


class Keyed(NamedTuple):
    """A rule for an object with numbers as keys: the rule of its values, and the number after the last key."""

    item: Any
    end: int


def _whole(low: int, high: int) -> Leaf:
    return Leaf(lambda v: type(v) is int and low <= v <= high, f"whole numbers from {low} to {high}")


def _number(low: float, high: float) -> Leaf:
    return Leaf(lambda v: _is_number(v) and low <= v <= high, f"{low:g} to {high:g}")


def _or_null(leaf: Leaf) -> Leaf:
    return Leaf(lambda v: v is None or leaf.fits(v), f"null or {leaf.permitted}")


def _choice(names: tuple[str, ...]) -> Leaf:
    return Leaf(lambda v: type(v) is str and v in names, ", ".join(names))


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))


def _is_text(value: Any) -> bool:
    # A lone surrogate is valid JSON but cannot be written into a page.
    return type(value) is str and len(value) <= MAX_TEXT and not re.search("[\ud800-\udfff]", value)


ANY = Leaf(lambda v: True, "")
TEXT = Leaf(_is_text, f"text of up to {MAX_TEXT:,} characters")
FLAG = Leaf(lambda v: type(v) is bool, "true or false")
PLAIN = Leaf(lambda v: v is None or type(v) is bool or _is_number(v) or _is_text(v), "text, numbers, true/false")
COUNT = _whole(0, 2**53)  # up to the largest integer that JavaScript holds exactly
MS = _number(0, 1e15)
SCORE = _or_null(_number(0, 1e6))

META = {
    "model": TEXT,
    "architecture": TEXT,
    "tokenizer": TEXT,
    "created": TEXT,
    "strategy": _choice(ALL_STRATEGIES),
    "steps": _whole(1, MAX_STEPS),
    "temperature": _number(0, 100),
    "seed": _whole(0, MAX_SEED),
    "*": PLAIN,  # every other field
}
TOP = dict.fromkeys(("schema", "version", "eos_id", "fixed", "vocab", "frames"), ANY)
TOP |= {"length": _whole(1, MAX_LENGTH), "mask_id": _whole(1, MAX_IDS), "meta": META}


def _frame(length: int, ids: set[int]) -> dict[str, Any]:
    """The rules of a frame. A list [rule] is any list, [rule, n] one of n items, a tuple a list of just these items."""
    token = Leaf(lambda v: type(v) is int and v in ids, "ids that vocab names")
    position = Leaf(lambda v: type(v) is int and 0 <= v < length, f"0 to {length - 1}")
    return {
        "step": COUNT,
        "t": _number(0, 1),
        "ids": [token, length],
        "revealed": [position],
        "remasked": [position],
        "confidence": [_or_null(_number(0, 1)), length],
        "entropy": [SCORE, length],
        "top_k": Keyed([(token, _number(0, 1))], length),
        "nfe": COUNT,
        "ms": MS,
        "denoiser_ms?": MS,  # "?": may be missing
        "why?": Keyed((_whole(1, MAX_IDS), _number(0, 1e6)), length),
        "runner_up?": SCORE,
        "threshold?": SCORE,
        "edits?": Keyed(_choice(EDITS), length),
        "draft?": [(position, token)],
    }


def _check(rule: Any, value: Any, at: str = "") -> None:
    """Raise ValueError with the name `at` of the first value that breaks its rule."""
    if isinstance(rule, Leaf):
        _require(rule.fits(value), at, value, f"permitted: {rule.permitted}")
    elif isinstance(rule, Keyed):
        _require(type(value) is dict, at, value, "it must be an object with numbers as keys")
        for key, item in value.items():
            if not re.fullmatch("0|[1-9][0-9]{0,9}", key) or int(key) >= rule.end:
                raise ValueError(f"trace: {at} has the key {shown(key)}; permitted: 0 to {rule.end - 1}")
            _check(rule.item, item, f"{at}[{key}]")
    elif isinstance(rule, dict):
        _require(type(value) is dict, at, value, "it must be an object")
        rules = {name.removesuffix("?"): inner for name, inner in rule.items()}
        missing = [name for name in rule if name not in value and name[-1] not in "?*"]
        unknown = [name for name in value if name not in rules and "*" not in rule]
        if missing or unknown:
            what = f"lacks the fields {missing} and has unknown fields {shown(unknown)}"
            raise ValueError(f"trace: {at or 'the trace'} {what}")
        for name, item in value.items():
            where = name if name in rules else shown(name)
            _check(rules.get(name) or rules["*"], item, f"{at}.{where}".lstrip("."))
    else:
        item, *lengths = rule if isinstance(rule, list) else (None, len(rule))
        if type(value) is not list or (lengths and len(value) != lengths[0]):
            what = f"a list of {len(value)}" if type(value) is list else shown(value)
            raise ValueError(f"trace: {at} is {what}; it must be a list" + "".join(f" of {n}" for n in lengths))
        for i, inner in enumerate(value):
            _check(item or rule[i], inner, f"{at}[{i}]")


def _require(fits: bool, at: str, value: Any, what: str) -> None:
    if not fits:
        raise ValueError(f"trace: {at} is {shown(value)}; {what}")


def parse(text: str | bytes, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The checked JSON object of a trace, as version 3. Raises ValueError for a damaged file, TypeError for no text."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"trace: from_json takes the text of a trace, not {type(text).__name__}")
    if len(text) > max_bytes:
        raise ValueError(f"trace: the file has {len(text):,} bytes; permitted: up to {max_bytes:,}")
    try:
        data = parse_json(text, parse_constant=_no_constant)
    except ValueError as error:  # also for text that is not UTF-8 and for huge numbers
        raise ValueError(f"trace: this is not JSON ({error}); the file is damaged or no trace") from error
    return check(data)


def check(data: Any) -> dict[str, Any]:
    """`data`, upgraded in place, if it is a trace; else raises ValueError that names the field and what it may hold."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f'trace: this is no DiffuApriel trace (it has no "schema": "{SCHEMA}")')
    if type(data.get("version")) is not int or data["version"] not in READ:
        raise ValueError(
            f"trace: version {shown(data.get('version'))}; this program reads the versions {READ[0]} to {READ[-1]}; "
            "record the trace again, or use the program that wrote it"
        )
    _upgrade(data)
    _check(TOP, data)
    length, mask_id, frames = data["length"], data["mask_id"], data["frames"]
    _check(_whole(0, mask_id - 1), data["eos_id"], "eos_id")
    _check([FLAG, length], data["fixed"], "fixed")
    _check(Keyed(TEXT, mask_id + 1), data["vocab"], "vocab")
    fits = type(frames) is list and 0 < len(frames) <= MAX_FRAMES
    _require(fits, "frames", frames, f"it must be a list of one frame or more, up to {MAX_FRAMES:,}")
    _check([_frame(length, {int(key) for key in data["vocab"]})], frames, "frames")
    before = {"step": -1, "nfe": 0}
    for i, frame in enumerate(frames):
        _check(_whole(before["step"] + 1, 2**53), frame["step"], f"frames[{i}].step")
        _check(_whole(before["nfe"], 2**53), frame["nfe"], f"frames[{i}].nfe")
        for name in ("revealed", "remasked"):
            if frame[name] != sorted(set(frame[name])):
                raise ValueError(f"trace: frames[{i}].{name} is not ascending: {shown(frame[name])}")
        most = max(map(len, frame["top_k"].values()), default=0)
        if most > MAX_ALTERNATIVES:
            raise ValueError(f"trace: frames[{i}].top_k has {most} alternatives; permitted: up to {MAX_ALTERNATIVES}")
        before = frame
    return data


def _upgrade(data: dict[str, Any]) -> None:
    """Give a trace of an older version the names of this one. Its values have not been checked yet."""
    if data["version"] < 3:
        meta, frames = data.get("meta"), data.get("frames")
        if type(meta) is dict and type(meta.get("strategy")) is str:
            meta["strategy"] = RENAMED_STRATEGIES.get(meta["strategy"], meta["strategy"])
        for frame in frames if type(frames) is list else ():
            for old, new in (("rival", "runner_up"), ("bar", "threshold")):
                if type(frame) is dict and old in frame:
                    frame[new] = frame.pop(old)
    data["version"] = VERSION


def frames_of(data: dict[str, Any]) -> tuple[StepFrame, ...]:
    """The frames of a checked trace; missing fields get the defaults of `StepFrame`."""
    return tuple(StepFrame(**{name: _python(value) for name, value in frame.items()}) for frame in data["frames"])


def _python(value: Any) -> Any:
    """A JSON value with tuples for lists, and integers for the keys of objects."""
    if isinstance(value, dict):
        return {int(key): _python(item) for key, item in value.items()}
    return tuple([_python(item) for item in value]) if isinstance(value, list) else value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
