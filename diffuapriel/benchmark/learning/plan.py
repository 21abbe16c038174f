"""What a study compares, and everything that is equal for all entries of it.

    architectures   DiffuApriel, DiffuApriel-H and DiffuTran, matched in parameters within 2 %
    placement       the hybrid's attention: one block in six or in three, spread, early or late
    conditioning    each architecture with and without the noise level (AdaLN's input)
    blocks          block diffusion at several block lengths (blocks.py)

An entry is a name and a model configuration. Its learning rate is chosen on a small budget, from factors of the
architecture's default; then it is trained on the whole budget once per seed. Data, order, noise and the number of
tokens are the same for all entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffuapriel.benchmark.learning import blocks
from diffuapriel.config import ARCHITECTURES, PRESETS, ModelConfig, default_tokenizer, preset
from diffuapriel.options import check_fields, option
from diffuapriel.training.config import TrainConfig, default_learning_rate

if TYPE_CHECKING:
    import torch

CURVE_SEQUENCES = 64  # validation sequences per point of a learning curve
FACTORS = (0.5, 1.0, 2.0)
SEEDS = (0, 1)


@dataclass(frozen=True)
class StudyEntry:
    """A name and a model."""

    name: str
    model: ModelConfig

    @property
    def parameters(self) -> int:
        """All parameters, embeddings included."""

        return self.model.parameters


def _architectures(size: str, tokenizer: str) -> list[StudyEntry]:
    return [StudyEntry(name, preset(size, name, tokenizer=tokenizer)) for name in ARCHITECTURES]


def _placement(size: str, tokenizer: str) -> list[StudyEntry]:
    found: dict[tuple[str, ...], StudyEntry] = {}
    for title, every in (("1 in 6", 5), ("1 in 3", 2)):
        for placement in ("spread", "early", "late"):
            changes = {"attention_every": every, "attention_placement": placement, "tokenizer": tokenizer}
            model = preset(size, "diffuapriel-h", **changes)
            # In a shallow model several placements are the same: the first counts.
            found.setdefault(tuple(model.layer_kinds), StudyEntry(f"{title}, {placement}", model))
    return [*found.values(), StudyEntry("no attention", preset(size, "diffuapriel", tokenizer=tokenizer))]


def _conditioning(size: str, tokenizer: str) -> list[StudyEntry]:
    return [
        StudyEntry(
            f"{name}, {word} the noise level",
            preset(size, name, tokenizer=tokenizer, time_conditioning=word == "with"),
        )
        for name in ARCHITECTURES
        for word in ("with", "without")
    ]


def _blocks(size: str, tokenizer: str) -> list[StudyEntry]:
    return [StudyEntry(name, model) for name, model in blocks.models(size, tokenizer).items()]


STUDIES: dict[str, Callable[[str, str], list[StudyEntry]]] = {
    "architectures": _architectures,
    "placement": _placement,
    "conditioning": _conditioning,
    "blocks": _blocks,
}


@dataclass(frozen=True)
class StudyPlan:
    """One study. Raises ValueError that names the field, its value and what is permitted.

    factors: multiples of each architecture's default learning rate to try; a single one is taken without trying.
    seeds: one run each.
    only: entries whose name contains one of these, all by default. Processes that share a folder can each run a part;
    the same plan without `only` then collects all of them.
    """

    study: str = option("architectures", choices=tuple(STUDIES), help="what is compared")
    preset: str = option("nano", choices=tuple(PRESETS), help="size of the models")
    corpus: str = option("tales:3", help="as for `diffuapriel train`")
    tokens: int = option(5_000_000, least=1, help="tokens per run")
    sweep_tokens: int = option(1_000_000, least=1, help="tokens per trial of a learning rate")
    factors: tuple[float, ...] = FACTORS
    seeds: tuple[int, ...] = SEEDS
    only: tuple[str, ...] = ()
    length: int = option(128, least=2, help="tokens per sequence")
    batch_size: int = option(32, least=1, help="sequences per step")
    sequences: int = option(512, least=2, flags=("--windows",), help="validation sequences")
    mc_samples: int = option(8, least=1, flags=("--draws",), help="random masks per validation sequence")
    stories: int = option(200, least=0, help="stories to draw from a model of tales")
    device: str = option("auto", help="cpu, cuda or mps; auto: CUDA if available")
    precision: str = option("float32", choices=("float32", "bf16"), help="precision of matrix products")
    compile: bool = option(False, help="use torch.compile")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.factors or min(self.factors) <= 0 or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors are {self.factors}; give one or more, all different and above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}; give one or more, all different")
        if not self.entries:
            names = "; ".join(entry.name for entry in self._all_entries)
            raise ValueError(f"only is {self.only}, which is in no entry's name; entries: {names}")
        self.train_config(self.entries[0], seed=self.seeds[0])  # raises for what training refuses

    @property
    def entries(self) -> list[StudyEntry]:
        """In the order of the tables."""
        chosen = [entry for entry in self._all_entries if any(part in entry.name for part in self.only)]
        return chosen if self.only else self._all_entries

    @property
    def _all_entries(self) -> list[StudyEntry]:
        return STUDIES[self.study](self.preset, default_tokenizer(self.corpus, self.preset))

    @property
    def torch_device(self) -> torch.device:
        return self.train_config(self.entries[0]).torch_device

    def train_config(
        self, entry: StudyEntry, factor: float = 1.0, seed: int = 0, folder: str = "", tokens: int = 0
    ) -> TrainConfig:
        """The training run of one entry at a factor of its default learning rate; `tokens` replaces the plan's."""
        architecture, tokens = entry.model.architecture, tokens or self.tokens
        updates = max(1, tokens // (self.batch_size * self.length))
        return TrainConfig(
            architecture=architecture,
            preset=self.preset,
            model=entry.model,
            corpus=self.corpus,
            folder=folder,
            length=self.length,
            batch_size=self.batch_size,
            tokens=tokens,
            learning_rate=factor * default_learning_rate(self.preset, architecture),
            warmup_steps=max(1, min(200, updates // 10)),
            validate_every=max(1, updates // 10),
            num_validation_sequences=min(CURVE_SEQUENCES, self.sequences),
            seed=seed,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
        )
