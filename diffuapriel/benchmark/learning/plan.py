"""What is compared with what: the studies, and everything that is equal for all contestants of one.

    architectures   DiffuApriel, DiffuApriel-H and DiffuTran, matched in parameters within 2 %
    placement       the hybrid's attention: one block in six or in three, spread, early or late
    conditioning    each architecture with and without the noise level (AdaLN's input)

A contestant is a shape. Its learning rate is chosen on a small budget, from factors of the architecture's own; then it
is trained on the whole budget once for each seed. Data, order, noise and number of tokens are the same for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from diffuapriel.config import ARCHITECTURES, ModelConfig, preset
from diffuapriel.model.denoiser import count_parameters
from diffuapriel.training.config import TrainConfig, default_learning_rate


@dataclass(frozen=True)
class Contestant:
    """A name and a shape."""

    name: str
    model: ModelConfig

    @property
    def parameters(self) -> int:
        """All of them, embeddings included."""
        return count_parameters(self.model)


def _architectures(size: str) -> list[Contestant]:
    return [Contestant(name, preset(size, name)) for name in ARCHITECTURES]


def _placement(size: str) -> list[Contestant]:
    found: list[Contestant] = []
    for name, every, placement in (
        ("1 in 6, spread", 5, "spread"),
        ("1 in 6, early", 5, "early"),
        ("1 in 6, late", 5, "late"),
        ("1 in 3, spread", 2, "spread"),
        ("1 in 3, early", 2, "early"),
        ("1 in 3, late", 2, "late"),
    ):
        model = preset(size, "diffuapriel-h", attention_every=every, attention_placement=placement)
        if model.layer_kinds not in [
            other.model.layer_kinds for other in found
        ]:  # a shallow one has few choices
            found.append(Contestant(name, model))
    return [*found, Contestant("no attention", preset(size, "diffuapriel"))]


def _conditioning(size: str) -> list[Contestant]:
    return [
        Contestant(
            f"{name}, {'with' if on else 'without'} the noise level", preset(size, name, time_conditioning=on)
        )
        for name in ARCHITECTURES
        for on in (True, False)
    ]


STUDIES: dict[str, Callable[[str], list[Contestant]]] = {
    "architectures": _architectures,
    "placement": _placement,
    "conditioning": _conditioning,
}

CURVE_WINDOWS = 64  # held-out windows of each point of a learning curve
LEAST = {"tokens": 1, "sweep_tokens": 1, "length": 2, "batch_size": 1, "windows": 2, "draws": 1, "stories": 0}


@dataclass(frozen=True)
class Plan:
    """One comparison. Raises ValueError that names the field, its value and what is permitted.

    factors multiply each architecture's default learning rate; one factor alone means that nothing is tried out.
    """

    study: str = "architectures"
    preset: str = "nano"
    corpus: str = "tales:3"
    tokens: int = 5_000_000  # of each run
    sweep_tokens: int = 1_000_000  # of each run that tries a learning rate
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    seeds: tuple[int, ...] = (0, 1)
    length: int = 128
    batch_size: int = 32
    windows: int = 512  # of held-out text
    draws: int = 8  # noise levels of each
    stories: int = 200  # to draw from a model of tales
    device: str = "auto"
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.study not in STUDIES:
            raise ValueError(f"study is {self.study!r}; permitted: {', '.join(STUDIES)}")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not self.factors or min(self.factors) <= 0 or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors are {self.factors}; give one or more, all different and above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}; give one or more, all different")
        self.train_config(
            self.contestants[0], 1.0, self.seeds[0], "", self.tokens
        )  # refuses what training refuses

    @property
    def contestants(self) -> list[Contestant]:
        """In the order of the tables."""
        return STUDIES[self.study](self.preset)

    @property
    def torch_device(self) -> torch.device:
        """Where all of it runs."""
        return self.train_config(self.contestants[0], 1.0, 0, "", 1).torch_device

    def train_config(self, of: Contestant, factor: float, seed: int, folder: str, tokens: int) -> TrainConfig:
        """The training run of one contestant at a factor of its default learning rate."""
        architecture = of.model.architecture
        updates = max(1, tokens // (self.batch_size * self.length))
        return TrainConfig(
            architecture=architecture,
            preset=self.preset,
            model=of.model,
            corpus=self.corpus,
            folder=folder,
            length=self.length,
            batch_size=self.batch_size,
            tokens=tokens,
            learning_rate=factor * default_learning_rate(self.preset, architecture),
            warmup_steps=max(1, min(200, updates // 10)),
            validate_every=max(1, updates // 10),
            num_validation_sequences=min(CURVE_WINDOWS, self.windows),
            seed=seed,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)
