"""What a visitor asks for in the Race tab, as checked values: two or three entries, and what they are to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.server.limits import Limits, Refused, Setting, Settings, choice, read, sampler_settings, setting
from app.server.models import ModelEntry, Models, untrained_label
from app.strings.language import texts, translated
from diffuapriel.config import ARCHITECTURES
from diffuapriel.options import Option, options_of
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig, resolve_options

if TYPE_CHECKING:
    from diffuapriel.benchmark.entry import Entry

OWN_RULE = "own_rule"  # the strategy with which each entry writes by the rule that its card records
NO_ENTRY = ""  # what the page sends where no third entry is wanted
ROOMY = 48 * 10**9  # bytes of GPU memory: three models of 1.3B and their logits at 65,536 tokens
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)  # offered as the longest of a sweep


@dataclass(frozen=True)
class RacingModel:
    """One choice of the Race tab: a model, and the block length at which a model of blocks races."""

    model_entry: ModelEntry
    block_length: int | None = None  # None for any other model

    def __str__(self) -> str:
        if self.block_length is None:
            return self.model_entry.label
        from diffuapriel.benchmark.entry import block_suffix

        return self.model_entry.label + block_suffix(self.block_length)


@dataclass(frozen=True)
class RaceRequest:
    """A race that may start."""

    entries: tuple[RacingModel, ...]  # two or three
    length: int
    steps: int
    strategy: str
    repeats: int
    seed: int
    block: int = 0

    @property
    def top_p(self) -> float | None:
        """Trained models draw as in the Unmask tab, so that their texts can be read."""
        return 0.9 if all(entry.model_entry.trained for entry in self.entries) else None

    @property
    def own_rules(self) -> bool:
        """Whether each entry writes by its own rule."""
        return self.strategy == OWN_RULE

    @property
    def temperature(self) -> float:
        """Of all entries alike: with their own rules, what the first recorded frontier was measured at."""
        measured = [entry.model_entry.frontier for entry in self.entries if self.own_rules]
        return next((frontier.temperature for frontier in measured if frontier), 1.0)


@dataclass(frozen=True)
class RaceSetting:
    """A length to race at, and what goes with it."""

    length: int
    steps: int
    block: int


@dataclass(frozen=True)
class Opening:
    """What the Race tab opens with: the entries ("" for none), and two lengths, of which the long one is set."""

    entries: tuple[str, str, str]
    short: RaceSetting
    long: RaceSetting


@dataclass(frozen=True)
class SweepRequest:
    """A sweep that may start."""

    entries: tuple[RacingModel, ...]
    lengths: tuple[int, ...]


def racing_models(models: Models) -> dict[str, RacingModel]:
    """All that can race, by name: a model of blocks comes once with its default block length, then with the others."""
    found: list[RacingModel] = []
    for label in models.everything:
        entry = models.find(label)
        if known := entry.block_lengths:
            first = resolve_options(entry.generation, known)["block_length"] or 0
            found += [RacingModel(entry, size) for size in dict.fromkeys((first, *known))]
        else:
            found.append(RacingModel(entry))
    return {str(one): one for one in found}


def racing_choices(models: Models) -> list[tuple[str, str]]:
    """(what a list shows, name): as `Models.choices`, with the block length behind the model."""
    found = racing_models(models)
    shown = models.choices([one.model_entry.label for one in found.values()])
    return [
        (words + name.removeprefix(one.model_entry.label), name)
        for (words, _), (name, one) in zip(shown, found.items(), strict=True)
    ]


def entry_settings(models: Models) -> Settings:
    """Two or three models; the third may be left out ("" or None)."""
    found = racing_models(models)

    def find(name: Any) -> RacingModel:
        return found[choice("model", name, list(found))]

    third = Setting(lambda name: None if name in (NO_ENTRY, None) else find(name))
    return {"a": Setting(find), "b": Setting(find), "c": third}


def race_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for a race, in the order of its endpoint."""
    sampler = sampler_settings(limits)
    length = Option("length", int, 128, least=1, most=limits.race_tokens(models.device))
    repeats = Option("repeats", int, 2, least=1, most=limits.max_repeats)
    return {
        **entry_settings(models),
        "length": setting(length),
        "steps": sampler["steps"],
        "strategy": setting(replace(options_of(SamplerConfig)["strategy"], choices=race_strategies(models))),
        "repeats": setting(repeats, "timed runs"),
        "seed": sampler["seed"],
        "block": sampler["block"],
    }


def race_strategies(models: Models) -> tuple[str, ...]:
    """What a race can be run with: each entry by its own rule where a model has one."""
    recorded = any(models.find(label).generation for label in models.trained)
    return (*STRATEGIES, OWN_RULE) if recorded else STRATEGIES


def distilled_pairs(models: Models) -> list[tuple[RacingModel, RacingModel]]:
    """Each model that was distilled from another one which is offered too, behind that one."""
    entries: dict[str, RacingModel] = {}
    for one in racing_models(models).values():
        entries.setdefault(one.model_entry.label, one)  # of a model of blocks, that with its own block length
    students = [one for one in entries.values() if one.model_entry.teacher in entries]
    return [(entries[one.model_entry.teacher], one) for one in students if one.model_entry.generation]


def opening(models: Models) -> Opening:
    """Lengths on both sides of the crossover of this device, with models that race there within a minute or two.

    The presets of the paper's comparison with random weights, unless checkpoints were given: a trained model is as
    fast, and at a long length writes nonsense too.
    """
    from diffuapriel.benchmark.memory import available_bytes

    short, long, size = RaceSetting(128, 32, 16), RaceSetting(2048, 8, 0), "nano"
    if models.device.startswith("cuda"):
        roomy = available_bytes(models.device) >= ROOMY
        short, long = RaceSetting(1024, 16, 0), RaceSetting(65_536 if roomy else 16_384, 16, 0)
        size = "1.3b" if roomy else "small"
    if models.has_own:
        found = racing_models(models)
        a, b = (next(n for n, one in found.items() if str(one.model_entry) == name) for name in models.opening_pair())
        return Opening((a, b, NO_ENTRY), RaceSetting(128, 128, 16), long)
    mamba, hybrid, attention = (untrained_label(size, kind) for kind in ARCHITECTURES)
    return Opening((mamba, attention, hybrid), short, long)


def sweep_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for a sweep, in the order of its endpoint."""
    from diffuapriel.benchmark.sweep import LENGTHS as MEASURED

    longest = Option("longest", int, 4096, least=MEASURED[0], most=limits.max_sweep_length)
    return {**entry_settings(models), "longest": setting(longest, "longest length")}


def read_race(models: Models, limits: Limits, *values: Any) -> RaceRequest:
    """The checked values of `race_settings`. Raises Refused, which names the first invalid one."""
    asked = read(race_settings(models, limits), values)
    return RaceRequest(entries_of(asked), **asked)


def read_sweep(models: Models, limits: Limits, *values: Any) -> SweepRequest:
    """The checked values of `sweep_settings`. Raises Refused, which names the first invalid one."""
    from diffuapriel.benchmark.sweep import LENGTHS as MEASURED

    asked = read(sweep_settings(models, limits), values)
    return SweepRequest(entries_of(asked), tuple(n for n in MEASURED if n <= asked["longest"]))


def entries_of(asked: dict[str, Any]) -> tuple[RacingModel, ...]:
    """Takes the two or three entries out of the checked values."""
    return tuple(entry for entry in (asked.pop("a"), asked.pop("b"), asked.pop("c")) if entry is not None)


def load_entries(
    models: Models, racing: Sequence[RacingModel], *, whole: bool = False, own_rules: bool = False
) -> list[Entry]:
    """The models of a race or sweep in the form that runs fastest here.

    whole: for passes over whole canvases, without the caches of models of blocks. own_rules: each races by the rule
    that it has recorded.

    Raises Refused, with the figure, where the random weights of all of them together do not fit in memory: checked
    before any is made, since building two large models only to refuse the third would take minutes.
    """
    from diffuapriel.benchmark.memory import refusal
    from diffuapriel.config import preset

    random = [one.model_entry for one in racing if not one.model_entry.trained]
    needed = sum(4 * preset(*model_entry.source.split("/")).parameters for model_entry in random)
    what = f"loading {f' {texts.AND} '.join(map(str, random))}"
    if needed and (problem := refusal(needed, models.device, what, "a smaller preset")):
        raise Refused(translated(problem) or texts.NOT_ENOUGH_MEMORY)
    loaded = [(models.load(one.model_entry), None if whole else one.block_length) for one in racing]
    if own_rules:
        return [race_by_own_rule(entry, size).tuned() for entry, size in loaded]
    return [(entry if size is None else entry.in_blocks(size)).tuned() for entry, size in loaded]


def race_by_own_rule(entry: Entry, block_length: int | None) -> Entry:
    """The entry with its recorded rule; one without a record at the block length that was chosen for it."""
    if entry.generation or block_length is None:
        return entry.with_own_rule()
    return entry.in_blocks(block_length)


def where_it_runs(device: str) -> str:
    """The sentence that says where a race runs."""
    import torch

    from diffuapriel.device import device_name

    if device.startswith("cuda"):
        return texts.RACE_ON_GPU.format(name=device_name(torch.device(device)))
    if device == "cpu" and not torch.cuda.is_available():
        return texts.RACE_WITHOUT_GPU
    return texts.RACE_ON_CPU if device == "cpu" else texts.RACE_ON.format(device=device)
