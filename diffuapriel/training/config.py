"""Everything that can be chosen about a training run, in one frozen, checked dataclass.

How long a run is, is said in exactly one way:

    steps     so many updates: reproducible bit for bit on the same machine
    tokens    rounded up to whole updates: the same for every architecture, so models can be compared
    minutes   the speed of the first seconds fixes the number of updates once; from then on the run is one of
              `steps`, and that number is kept in its state, its log and its model card

`stop_after_minutes` is another thing: a hard stop of the clock. What is not finished then is saved, and the
same call goes on later as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from diffuapriel.config import ARCHITECTURES, ModelConfig, preset
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.training.optimizer import FINAL_RATE, default_learning_rate

PRECISIONS = ("float32", "bf16")
STRATEGIES = ("auto", "ddp", "fsdp")  # see ranks.py
# What may differ when a run goes on: where and how fast it runs, not what it computes.
FREE_ON_RESUME = (
    "folder",
    "device",
    "strategy",
    "compile",
    "checkpoint_activations",
    "stop_after_minutes",
    "save_seconds",
    "validation_windows",
    "tensorboard",
)

# field -> (least, most): both permitted
RANGES: dict[str, tuple[float, float]] = {
    "length": (2, 65_536),
    "batch_size": (1, 65_536),
    "accumulate": (1, 65_536),
    "steps": (1, 10**9),
    "tokens": (1, 10**15),
    "minutes": (0.01, 100_000),
    "stop_after_minutes": (0.01, 100_000),
    "learning_rate": (1e-8, 1.0),
    "warmup_steps": (1, 10**6),
    "final_rate": (0.0, 1.0),
    "weight_decay": (0.0, 10.0),
    "ema_decay": (0.0, 0.999999),
    "clip": (1e-6, 1e6),
    "seed": (0, 2**63 - 1),
    "validate_every": (1, 10**9),
    "validation_windows": (2, 65_536),
    "save_seconds": (0.0, 1e6),
}
WHOLE = (
    "length",
    "batch_size",
    "accumulate",
    "steps",
    "tokens",
    "warmup_steps",
    "seed",
    "validate_every",
    "validation_windows",
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Raises ValueError or TypeError that names the field, its value and what is permitted.

    batch_size x accumulate rows of `length` tokens make one update, over all processes; at most batch_size of them go
    through a model at once, so `accumulate` changes memory, not the result. learning_rate None takes the
    architecture's own (optimizer.py). `model` is a shape of one's own in place of `preset`.
    """

    architecture: str = "diffuapriel"
    preset: str = "nano"
    model: ModelConfig | None = None
    corpus: str = "tales"
    folder: str = "runs/latest"
    length: int = 256  # tokens
    batch_size: int = 16  # rows
    accumulate: int = 1
    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    stop_after_minutes: float | None = None
    schedule: str = "log-linear"
    learning_rate: float | None = None
    warmup_steps: int = 100
    final_rate: float = FINAL_RATE  # at the end of the cosine, as a part of the peak
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    ema_decay: float = 0.9999
    clip: float = 1.0  # greatest norm of the gradient
    document_boundaries: bool = False  # packed documents do not see each other, in scan nor attention
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    strategy: str = "auto"  # of several processes: DDP unless "fsdp"
    compile: bool = False
    checkpoint_activations: bool = False  # less memory for a third more arithmetic
    validate_every: int = 500  # updates
    validation_windows: int = 64  # of held-out text, each time
    save_seconds: float = 60.0  # between two saves of the state
    tensorboard: bool = False  # also write the log for TensorBoard

    def __post_init__(self) -> None:
        _refuse_unknown("architecture", self.architecture, ARCHITECTURES)
        _refuse_unknown("precision", self.precision, PRECISIONS)
        _refuse_unknown("strategy", self.strategy, STRATEGIES)
        for name in RANGES:
            _refuse_out_of_range(name, getattr(self, name))
        beta_1, beta_2 = self.betas
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise ValueError(f"betas are {self.betas}; each must be 0 or more and below 1")
        if [self.steps, self.tokens, self.minutes].count(None) != 2:
            raise ValueError(
                "say how long to train in exactly one way, steps, tokens or minutes; "
                f"got steps={self.steps}, tokens={self.tokens}, minutes={self.minutes}"
            )
        if self.model is not None and self.model.architecture != self.architecture:
            raise ValueError(
                f"architecture is {self.architecture!r}, the model's is {self.model.architecture!r}"
            )
        if self.length > self.model_config.context_length:
            raise ValueError(
                f"length is {self.length}; the model's context is {self.model_config.context_length}"
            )
        default_learning_rate(self.preset, self.architecture)  # refuses an unknown preset
        # Refuses an unknown schedule; an old name becomes the present one.
        object.__setattr__(self, "schedule", get_schedule(self.schedule).name)

    @property
    def model_config(self) -> ModelConfig:
        """The shape that is trained."""
        return self.model or preset(self.preset, self.architecture)

    @property
    def peak_learning_rate(self) -> float:
        """The rate at the end of the warm-up."""
        return self.learning_rate or default_learning_rate(self.preset, self.architecture)

    @property
    def rows(self) -> int:
        """Rows of one update."""
        return self.batch_size * self.accumulate

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one update, [MASK]s and padding included."""
        return self.rows * self.length

    @property
    def planned_steps(self) -> int | None:
        """The number of updates, where it is known before the clock is read."""
        return self.steps if self.tokens is None else math.ceil(self.tokens / self.tokens_per_step)

    @property
    def torch_device(self) -> torch.device:
        """The device, "auto" being CUDA where there is one. Raises ValueError when it is not there."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device is {self.device!r}, which cannot be used here: {reason}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "betas": list(self.betas)}

    def fixed_part(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {key: value for key, value in self.to_dict().items() if key not in FREE_ON_RESUME}


def _refuse_unknown(name: str, value: Any, permitted: tuple[str, ...]) -> None:
    if value not in permitted:
        raise ValueError(f"{name} is {value!r}; permitted: {', '.join(permitted)}")


def _refuse_out_of_range(name: str, value: Any) -> None:
    least, most = RANGES[name]
    if value is None and TrainConfig.__dataclass_fields__[name].default is None:
        return
    kind = "a whole number" if name in WHOLE else "a number"
    if isinstance(value, bool) or not isinstance(value, int if name in WHOLE else (int, float)):
        raise TypeError(f"{name} is {value!r}; it must be {kind} from {least:g} to {most:g}")
    if not least <= value <= most:  # also refuses NaN
        raise ValueError(f"{name} is {value!r}; it must be {kind} from {least:g} to {most:g}")
