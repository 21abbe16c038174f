"""The models that the app offers: checkpoints and untrained presets, loaded on first use.

One model runs at a time on this machine: two passes would slow each other down, and a timed race needs all cores.
`Models.turn()` is that one turn, given in the order in which it was asked for. A race takes it for its whole length,
the runs of the Unmask page for one pass at a time (app/server/room.py).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from app.server.limits import Refused, Setting, choice
from app.server.turn import Turn
from app.strings.language import texts, translated
from app.strings.numbers import count
from diffuapriel.config import ARCHITECTURES, DEFAULT_CHECKPOINT, PRESETS, WRITERS, preset
from diffuapriel.sampling.shared import Stopped
from diffuapriel.tales.language import level_of
from diffuapriel.tokenizer import Tokenizer, get_tokenizer

if TYPE_CHECKING:
    from diffuapriel.benchmark.entry import Entry
    from diffuapriel.sampling.frontier import Frontier

log = logging.getLogger(__name__)
FIRST_MODEL = "tales-blocks-diffuapriel"  # what the page opens with, where it is bundled
KEPT = 4  # loaded checkpoints in memory; the least recently used one is dropped first
TURN_SECONDS = 120.0  # how long the first visitor in the queue waits for the present run to end


@dataclass(frozen=True)
class ModelEntry:
    """One choice on the page. `source` is a checkpoint's name or folder, or "preset/architecture"."""

    label: str
    source: str
    trained: bool
    tokenizer: str  # name of its tokenizer
    corpus: str = ""  # what a checkpoint was trained on, e.g. "tales:3"
    architecture: str = ""
    window: int = 0  # tokens of the windows that a checkpoint was trained on; 0: unknown
    block_lengths: tuple[int, ...] = ()  # of a model of blocks, as in its `ModelConfig`
    parameters: int = 0
    generation: Mapping[str, Any] = field(default_factory=dict, compare=False)  # as in `CheckpointInfo`
    sources: tuple[str, ...] = ()  # names of the texts of a mix, as on its card
    frontier: Frontier | None = field(default=None, compare=False)  # of quality and tokens per pass, as recorded
    teacher: str = ""  # the checkpoint that this one was distilled from

    def __str__(self) -> str:
        return self.label

    @property
    def tales_level(self) -> int | None:
        """The level of the tales grammar that this model writes, None for any other text."""
        return level_of(self.corpus)

    @property
    def reading(self) -> str:
        """What the model has read, in a sentence."""
        if not self.trained:
            return texts.READ_NOTHING
        if self.tales_level is not None:
            return texts.READ_TALES
        read = ", ".join(name.replace("_", " ") for name in self.sources) or self.corpus
        return texts.READ_TEXTS.format(texts=read) if read else ""


class Models:
    """All models, the checkpoints loaded so far, and the one turn."""

    def __init__(self, checkpoints: Sequence[str] = (), device: str = "cpu") -> None:
        """checkpoints: folders beside the bundled ones, offered first. Raises what `inspect_checkpoint` raises of them.

        A bundled one that is not whole is left out, with a warning.
        """
        from diffuapriel.checkpoint import bundled, inspect_checkpoint

        self.device = device
        self.has_own = bool(checkpoints)  # beside the bundled ones
        self._loaded: OrderedDict[str, Entry] = OrderedDict()
        self._turn = Turn()
        self._entries: dict[str, ModelEntry] = {}
        self._folders: dict[str, Path] = {}  # of the checkpoints, by label
        for source in dict.fromkeys([*checkpoints, *preferred(bundled())]):
            try:
                info = inspect_checkpoint(source)
                frontier = info.frontier
            except (OSError, ValueError) as error:
                if source in checkpoints:
                    raise
                log.warning("The bundled model %s is left out: %s", source, error)
                continue
            label = next(name for name in numbered(info.name) if name not in self._entries)
            config = info.config
            about = (config.tokenizer, info.corpus, config.architecture, info.length, config.block_lengths)
            about = (*about, config.parameters, info.generation, info.sources, frontier, info.teacher)
            self._entries[label] = ModelEntry(label, str(source), True, *about)
            self._folders[label] = info.folder
        for name in PRESETS:
            for architecture in ARCHITECTURES:
                label = untrained_label(name, architecture)
                tokenizer = preset(name, architecture).tokenizer
                self._entries[label] = ModelEntry(
                    label, f"{name}/{architecture}", False, tokenizer, architecture=architecture
                )

    @property
    def trained(self) -> list[str]:
        """Labels of the checkpoints; without any, those of nano with random weights, so that the app runs."""
        return [e.label for e in self._entries.values() if e.trained] or self.untrained[: len(ARCHITECTURES)]

    @property
    def default(self) -> str:
        """What the page opens with: the first checkpoint."""
        return self.trained[0]

    @property
    def untrained(self) -> list[str]:
        """Labels of the presets with random weights."""
        return [e.label for e in self._entries.values() if not e.trained]

    @property
    def everything(self) -> list[str]:
        """All labels, checkpoints first."""
        return list(self._entries)

    def choices(self, labels: Sequence[str]) -> list[tuple[str, str]]:
        """(what a list shows, label): checkpoints with their size, and which bundled one writes best of its corpus.

        Short enough for a phone: 'stories-diffuapriel-small · 35M, writes best, slow'.
        """
        shown = []
        for label in labels:
            entry = self._entries[label]
            alike = [e.parameters for e in self._entries.values() if e.trained and e.corpus == entry.corpus]
            largest = not self.has_own and entry.parameters == max(alike, default=0) > 2 * min(alike, default=0)
            best = texts.MODEL_BEST if largest else ""
            shown.append((f"{label} · {count(entry.parameters)}{best}" if entry.trained else label, label))
        return shown

    def find(self, label: Any, permitted: Sequence[str] | None = None) -> ModelEntry:
        """The model with a label that a visitor sent. Raises Refused for any other value."""
        return self._entries[choice("model", label, self.everything if permitted is None else permitted)]

    def setting(self, permitted: Sequence[str] | None = None) -> Setting:
        """The setting for a model; its check returns the ModelEntry."""
        return Setting(lambda label: self.find(label, permitted))

    def tokenizer(self, model_entry: ModelEntry) -> Tokenizer:
        """A model's tokenizer, without loading the model."""
        return get_tokenizer(model_entry.tokenizer)

    def opening_pair(self) -> tuple[str, str]:
        """The two models that the Race tab opens with: the first DiffuApriel and the first DiffuTran."""
        labels = self.trained
        mamba = next((n for n in labels if "diffutran" not in n), labels[0])
        attention = next((n for n in labels if "diffutran" in n), labels[-1])
        return mamba, attention

    def load(self, model_entry: ModelEntry) -> Entry:
        """The model, ready to run or to race. Presets are not kept: they are large and quick to make."""
        from diffuapriel.benchmark.entry import Entry
        from diffuapriel.benchmark.memory import refusal

        if not model_entry.trained:
            name, architecture = model_entry.source.split("/")
            weights = 4 * preset(name, architecture).parameters
            what = f"loading {model_entry.label}"
            if problem := refusal(weights, self.device, what, "a smaller preset"):
                raise Refused(translated(problem) or texts.NOT_ENOUGH_MEMORY)
            return Entry.random(name, architecture, device=self.device)
        if model_entry.label not in self._loaded:
            self._loaded[model_entry.label] = self._open(model_entry)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(model_entry.label)
        return self._loaded[model_entry.label]

    def _open(self, model_entry: ModelEntry) -> Entry:
        """Load a checkpoint. Its errors name files by their folder, of which visitors see the label only."""
        from diffuapriel.benchmark.entry import Entry

        try:
            return Entry.from_checkpoint(model_entry.source, device=self.device, name=model_entry.label)
        except (OSError, ValueError) as error:
            told = str(error).replace(str(self._folders[model_entry.label]), model_entry.label)
            raise Refused(translated(told) or texts.NOT_LOADED.format(model=model_entry.label)) from error

    @property
    def busy(self) -> bool:
        """Whether a model is running now."""
        return self._turn.taken

    @contextmanager
    def turn(self, stopped: Event | None = None) -> Iterator[None]:
        """The exclusive use of the machine: hold it to load or run a model.

        Raises Refused where it is not free for two minutes. With `stopped` it waits for as long as it takes, and
        raises Stopped once that is set.
        """
        if not self._turn.take(math.inf if stopped else TURN_SECONDS, stopped):
            raise Stopped if stopped else Refused(texts.BUSY.format(seconds=TURN_SECONDS))
        try:
            yield
        finally:
            self._turn.give_back()


def untrained_label(preset_name: str, architecture: str) -> str:
    """'diffuapriel nano, random weights'."""
    return f"{architecture} {preset_name}, random weights"


def numbered(name: str) -> Iterator[str]:
    """'mine', 'mine (2)', 'mine (3)', ..."""
    yield name
    yield from (f"{name} ({number})" for number in itertools.count(2))


def preferred(names: Sequence[str]) -> list[str]:
    """Bundled checkpoints: the one that the page opens with, the default of the package, those that have read English;
    then by architecture, the baseline last."""
    first = (FIRST_MODEL, DEFAULT_CHECKPOINT, *WRITERS)

    def rank(name: str) -> tuple[int, int, str]:
        architecture = next((i for i in reversed(range(len(ARCHITECTURES))) if name.endswith(ARCHITECTURES[i])), 9)
        return first.index(name) if name in first else len(first), architecture, name

    return sorted(names, key=rank)
