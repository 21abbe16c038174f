"""What a race measured, and the sentences that say how fair it was.

Files: JSON with a schema and a version. Version 1 called an entry a lane; it still loads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from diffuapriel.benchmark.entry import Entry, distinct_names
from diffuapriel.options import shown
from diffuapriel.sampling.config import ADAPTIVE, FREE_OF_STEPS, SamplerConfig
from diffuapriel.trace.recording import Recording
from diffuapriel.trace.trace import Trace

SCHEMA = "diffuapriel-race-result"
VERSION = 2
OLD_KEYS = {"lanes": "entries", "lane": "entry"}
MATCHED = 102  # percent: parameters within 2 % of each other, this included, count as equal


@dataclass(frozen=True, kw_only=True)
class EntryFacts:
    """An entry as a result describes it; `name` is unique within the result."""

    name: str
    architecture: str
    tokenizer: str
    parameters: int
    weights: str
    dtype: str
    device: str
    attention: str
    scan: str = "none"
    form: str = ""  # how the denoiser ran, in words
    block_length: int | None = None  # of a model of blocks with its context cache; 0: the whole canvas at once
    rule: dict[str, Any] | None = None  # options of the sampler that it raced with instead of the race's

    @property
    def own_options(self) -> dict[str, Any]:
        """The options of the sampler that are this entry's own and not the race's."""
        if self.rule or self.block_length is None:
            return dict(self.rule or {})
        return {"block_length": self.block_length or None, "block_start": "zero"}

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> tuple[EntryFacts, ...]:
        """The facts of all entries of a sweep or race, under the names that its result gives them."""
        found = []
        for name, entry in zip(distinct_names(entries), entries, strict=True):
            values = {f.name: getattr(entry, f.name) for f in dataclasses.fields(EntryFacts)}
            values |= {"name": name, "tokenizer": entry.tokenizer.name, "device": str(entry.device)}
            found.append(EntryFacts(**values))
        return tuple(found)


@dataclass(frozen=True)
class Run:
    """One timed generation. `started` and `ended` are seconds since the race began, on the host's clock."""

    entry: str
    repeat: int
    started: float
    ended: float
    step_ms: tuple[float, ...]
    denoiser_ms: float  # of the whole run: the part of it spent inside the denoiser


@dataclass(frozen=True, kw_only=True)
class EntryResult(EntryFacts):
    """What one entry did: medians over the repeats.

    `recording` is the first timed run with the median step times, for a replay; `trace` explains its tokens too, on a
    canvas of up to 1,024 tokens. Neither is written to the JSON.
    """

    seconds: float  # per generation
    seconds_min: float
    seconds_max: float
    step_ms: tuple[float, ...]
    ms_per_step: float
    tokens: int  # masks filled
    tokens_per_second: float
    forward_passes: int
    denoiser_share: float  # of the generation's time, 0 to 1; without the head where the whole step ran on a GPU
    peak_memory_bytes: int
    cache_bytes: int = 0  # the context cache of the text before the last block
    trace: Trace | None = field(default=None, repr=False, compare=False)
    recording: Recording | None = field(default=None, repr=False, compare=False)

    @property
    def tokens_per_pass(self) -> float:
        """Masks filled per forward pass."""
        return self.tokens / max(1, self.forward_passes)

    @property
    def ms_ends(self) -> tuple[float, float]:
        """Milliseconds per step of the fastest and of the slowest run."""
        steps = len(self.step_ms)
        return 1000 * self.seconds_min / steps, 1000 * self.seconds_max / steps


@dataclass(frozen=True)
class RaceResult:
    """The whole race. `order` names the entries as they were timed."""

    entries: tuple[EntryResult, ...]
    length: int
    steps: int
    strategy: str
    temperature: float
    seed: int
    repeats: int
    warmup_steps: int
    order: tuple[str, ...]
    runs: tuple[Run, ...]
    machine: str
    threads: int
    clock: str
    memory_method: str
    torch_version: str
    block_length: int | None = None
    top_p: float | None = None

    @property
    def equal_steps(self) -> bool:
        """Whether all entries took as many steps, so that milliseconds per step can be compared."""
        return len({len(entry.step_ms) for entry in self.entries}) == 1

    @property
    def own_rules(self) -> bool:
        """Whether an entry wrote by a rule of its own."""
        return any(entry.rule for entry in self.entries)

    def sampler(self, entry: EntryFacts) -> SamplerConfig:
        """The options that an entry wrote with."""
        names = ("strategy", "steps", "temperature", "seed", "block_length", "top_p")
        return SamplerConfig(**{name: getattr(self, name) for name in names} | entry.own_options)

    def without_replays(self) -> RaceResult:
        """The figures alone."""
        return replace(self, entries=tuple(replace(entry, trace=None, recording=None) for entry in self.entries))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without traces and recordings: each has a file format of its own."""
        values = dataclasses.asdict(self.without_replays())
        for entry in values["entries"]:
            del entry["trace"], entry["recording"]
        return {"schema": SCHEMA, "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RaceResult:
        """The inverse of `to_dict`. Raises ValueError for another schema or version."""
        return read_record(cls, read_schema(values, SCHEMA, VERSION, OLD_KEYS))

    def fairness(self) -> list[str]:
        """What was equal for all entries, how they were timed, and what was not matched: one fact per sentence."""
        letters = {entry.name: chr(ord("A") + i) for i, entry in enumerate(self.entries)}
        steps, runs = _plural(self.warmup_steps, "step"), _plural(self.repeats, "run")
        on_gpu = self.entries[0].device.startswith("cuda")
        own = [entry for entry in self.entries if entry.block_length is not None and not entry.rule]
        blocks = f" in blocks of {self.block_length}" if self.block_length and len(own) < len(self.entries) else ""
        top_p = f", top-p {self.top_p:g}" if self.top_p else ""
        how = f"{self.steps:,} steps, strategy {self.strategy}{blocks}"
        if self.own_rules:
            rules = (f"{letters[e.name]} {self._rule(e)}" for e in self.entries)
            how = f"each by its own rule ({'; '.join(rules)})"
        return [
            f"Same work: {self.entries[0].tokens:,} masks on a canvas of {self.length:,} tokens, {how}, "
            f"temperature {self.temperature:g}{top_p}, seed {self.seed}, one canvas at a time."
            + block_lengths_used(own, letters),
            f"Timed one after the other, never together: {' '.join(letters[name] for name in self.order)} after "
            f"{self.warmup_steps} untimed warm-up {steps} each at this length; figures are medians of "
            f"{self.repeats} {runs}, timed with {self.clock}.",
            matched_parameters(self.entries),
            what_ran(self.entries) + (" Every step copies its tokens to the host." if on_gpu else ""),
            f"{machine_facts(self.entries, self.machine, self.threads)}, PyTorch {self.torch_version}.",
            "Tokens are masks filled, not text encoded again. Peak memory: " + self.memory_method + ".",
        ]

    def _rule(self, entry: EntryFacts) -> str:
        """E.g. "threshold 0.97, blocks of 32"."""
        config = self.sampler(entry)
        value = "" if config.strategy in FREE_OF_STEPS else f" in {config.steps:,} steps"
        if config.strategy in ADAPTIVE:
            value = f" {getattr(config, config.strategy):g}"
        return f"{config.strategy}{value}" + (f", blocks of {config.block_length}" if config.block_length else "")


def read_schema(values: Any, schema: str, version: int, old_keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A JSON object of a schema, with the present names of renamed keys.

    Raises ValueError unless `values` is an object of this schema in a version from 1 to `version`.
    """
    found = (values.get("schema"), values.get("version")) if isinstance(values, dict) else (None, None)
    if found[0] != schema or found[1] not in range(1, version + 1):
        permitted = " or ".join(map(str, range(1, version + 1)))
        raise ValueError(f"this is schema {found[0]!r} version {found[1]!r}; permitted: {schema!r} version {permitted}")
    return rename_keys(values, old_keys or {})


def rename_keys(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value with the keys of all its objects renamed where `names` has them."""
    if isinstance(value, dict):
        return {names.get(key, key): rename_keys(item, names) for key, item in value.items()}
    return [rename_keys(item, names) for item in value] if isinstance(value, list) else value


def read_record(kind: Any, value: Any) -> Any:
    """A dataclass from its JSON, or an optional one, or a tuple or dict of such. Keys that are no fields are ignored.

    Raises TypeError or KeyError for a value that does not fit.
    """
    if kind in (str, int, float, bool):
        permitted = (int, float) if kind is float else kind
        if not isinstance(value, permitted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"a value is {shown(value)}; it must be of type {kind.__name__}")
        return value
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        return None if value is None else read_record(inner[0], value)
    if get_origin(kind) is tuple:
        return tuple(read_record(inner[0], item) for item in value)
    if get_origin(kind) is dict:
        return {key: read_record(inner[1], item) for key, item in value.items()}
    if not dataclasses.is_dataclass(kind):
        return value
    names = get_type_hints(kind)
    known = {f.name: read_record(names[f.name], value[f.name]) for f in dataclasses.fields(kind) if f.name in value}
    return kind(**known)  # type: ignore[operator]


def matched_parameters(entries: Sequence[EntryFacts]) -> str:
    """Whether the parameters match, with the counts."""
    counts = [entry.parameters for entry in entries]
    shown = " against ".join(f"{count:,}" for count in counts)
    names = sorted({entry.tokenizer for entry in entries})
    vocabulary = f" Vocabularies differ ({' and '.join(names)})." if len(names) > 1 else ""
    if 100 * max(counts) <= MATCHED * min(counts):  # in whole numbers: exact at the edge
        return f"Parameters matched within 2 %: {shown}.{vocabulary}"
    gap = max(counts) / max(1, min(counts)) - 1
    apart = f"{gap:.0%}" if gap >= 0.1 else f"{gap:.2%}"
    return (
        f"Parameters are NOT matched: {shown}, {apart} apart; the speeds compare sizes as well as "
        f"architectures.{vocabulary}"
    )


def what_ran(entries: Sequence[EntryFacts]) -> str:
    """The kernels of the entries that have one, whether all ran in the same form, and their weights."""
    lines = []
    for what, field_name in (("Attention kernel", "attention"), ("Scan", "scan")):
        kernels = {entry.name: getattr(entry, field_name) for entry in entries}
        named = [f"{name}: {kernel}" for name, kernel in kernels.items() if kernel != "none"]
        lines.append(f"{what}: {'; '.join(named)}." if named else f"{what}: no entry has one.")
    forms = {entry.form for entry in entries}
    if len(forms) > 1:
        lines.append(f"NOT treated alike: {'; '.join(f'{entry.name}: {entry.form}' for entry in entries)}.")
    else:
        lines.append(f"All entries run alike: {forms.pop()}.")
    weights = sorted({entry.weights for entry in entries}, reverse=True)
    note = "; speed does not depend on them" if len(weights) > 1 else ""
    return " ".join([*lines, f"Weights: {' against '.join(weights)}{note}."])


def machine_facts(entries: Sequence[EntryFacts], machine: str, threads: int) -> str:
    """'float32 on cpu (the machine's name, 2 threads)'."""
    device = entries[0].device
    dtypes = " and ".join(sorted({entry.dtype for entry in entries}))
    counted = "" if device.startswith("cuda") else f", {threads} {_plural(threads, 'thread')}"
    return f"{dtypes} on {device} ({machine}{counted})"


def block_lengths_used(entries: Sequence[EntryFacts], letters: Mapping[str, str]) -> str:
    """The block lengths of models of blocks, and what that means for their steps; "" without any."""
    if not entries:
        return ""
    sizes = [f"{letters[e.name]} {e.block_length or 'the whole canvas, without a cache'}" for e in entries]
    return (
        f" Block lengths: {', '.join(sizes)}. A block takes a step at least. The context cache is exact and begins "
        "empty in each run; committing to it is on the clock. Peak memory is that of the last block, cache included."
    )


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
