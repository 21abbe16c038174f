"""What a visitor asks for in the Race tab, as checked values: two or three entries, and what they are to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.server.limits import Limits, Refused, Setting, Settings, read, sampler_settings, setting
from app.server.models import ModelEntry, Models, untrained_label
from app.strings.language import texts
from diffuapriel.config import ARCHITECTURES
from diffuapriel.options import Option

if TYPE_CHECKING:
    from diffuapriel.benchmark.entry import Entry

NO_ENTRY = ""  # what the page sends where no third entry is wanted
ROOMY = 48 * 10**9  # bytes of GPU memory: three models of 1.3B and their logits at 65,536 tokens
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)  # offered as the longest of a sweep


@dataclass(frozen=True)
class RaceRequest:
    """A race that may start."""

    model_entries: tuple[ModelEntry, ...]  # two or three
    length: int
    steps: int
    strategy: str
    repeats: int
    seed: int
    block: int = 0

    @property
    def top_p(self) -> float | None:
        """Trained models draw as in the Unmask tab, so that their texts can be read."""
        return 0.9 if all(model_entry.trained for model_entry in self.model_entries) else None


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

    model_entries: tuple[ModelEntry, ...]
    lengths: tuple[int, ...]


def entry_settings(models: Models) -> Settings:
    """Two or three models; the third may be left out ("" or None)."""
    third = Setting(lambda label: None if label in (NO_ENTRY, None) else models.find(label))
    return {"a": models.setting(), "b": models.setting(), "c": third}


def race_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for a race, in the order of its endpoint."""
    sampler = sampler_settings(limits)
    length = Option("length", int, 128, least=1, most=limits.race_tokens(models.device))
    repeats = Option("repeats", int, 2, least=1, most=limits.max_repeats)
    return {
        **entry_settings(models),
        "length": setting(length),
        "steps": sampler["steps"],
        "strategy": sampler["strategy"],
        "repeats": setting(repeats, "timed runs"),
        "seed": sampler["seed"],
        "block": sampler["block"],
    }


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
        return Opening((*models.opening_pair(), NO_ENTRY), RaceSetting(128, 128, 16), long)
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


def entries_of(asked: dict[str, Any]) -> tuple[ModelEntry, ...]:
    """Takes the two or three entries out of the checked values."""
    return tuple(entry for entry in (asked.pop("a"), asked.pop("b"), asked.pop("c")) if entry is not None)


def load_entries(models: Models, model_entries: Sequence[ModelEntry]) -> list[Entry]:
    """The models of a race or sweep in the form that runs fastest here.

    Raises Refused, with the figure, where the random weights of all of them together do not fit in memory: checked
    before any is made, since building two large models only to refuse the third would take minutes.
    """
    from diffuapriel.benchmark.memory import refusal
    from diffuapriel.config import preset

    random = [model_entry for model_entry in model_entries if not model_entry.trained]
    needed = sum(4 * preset(*model_entry.source.split("/")).parameters for model_entry in random)
    what = f"loading {' and '.join(map(str, random))}"
    if needed and (problem := refusal(needed, models.device, what, "a smaller preset")):
        raise Refused(problem)
    return [models.load(model_entry).tuned() for model_entry in model_entries]


def where_it_runs(device: str) -> str:
    """The sentence that says where a race runs."""
    import torch

    from diffuapriel.device import device_name

    if device.startswith("cuda"):
        return texts.RACE_ON_GPU.format(name=device_name(torch.device(device)))
    if device == "cpu" and not torch.cuda.is_available():
        return texts.RACE_WITHOUT_GPU
    return texts.RACE_ON_CPU if device == "cpu" else texts.RACE_ON.format(device=device)
