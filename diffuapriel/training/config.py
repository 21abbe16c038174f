"""The options of a training run: one frozen dataclass that checks itself.

The length of a run is given in exactly one way:

    steps     optimizer steps: reproducible bit for bit on the same machine
    tokens    rounded up to whole steps: the same for every architecture, so that models can be compared
    minutes   the speed of the first seconds fixes the number of steps once; from then on the run is one of `steps`,
              and that number is kept in its state, its log and its model card

`stop_after_minutes` is a hard time limit instead: the run is saved when it is reached, and the same call continues it.

Peak learning rates: each architecture has its own, and they fall as the model grows. At `tiny`, 250 steps
of 65,536 tokens of tales were best at 6e-3 (of 1.5e-3, 3e-3 and 6e-3) for both Mamba models and at 4e-3 (of 1e-3, 2e-3
and 4e-3) for DiffuTran, the largest tried in each case; long runs want less, so all three use 3e-3. `small` uses 2e-3,
at which DiffuApriel reaches 0.564 nats/token after 32 million tokens of tales; `tiny` reaches 0.623.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from diffuapriel.config import (
    ARCHITECTURES,
    PRESETS,
    RENAMED_SCHEDULES,
    SCHEDULES,
    TOKENIZER_SIZES,
    ModelConfig,
    check_block_lengths,
    default_tokenizer,
    preset,
)
from diffuapriel.options import check_fields, option, options_of

if TYPE_CHECKING:
    import torch

Number = TypeVar("Number", int, float)
PRECISIONS = ("float32", "bf16")
STRATEGIES = ("auto", "ddp", "fsdp")  # see distributed.py
DISTILLATIONS = ("certainty", "sdtt")  # see distillation.py
MIN_LR_RATIO = 0.1
# Options that may change when a run continues: they affect where and how fast it runs, not what it computes.
FREE_ON_RESUME = (
    "folder",
    "device",
    "strategy",
    "compile",
    "checkpoint_activations",
    "stop_after_minutes",
    "save_seconds",
    "accept_changed_data",
    "num_validation_sequences",
    "tensorboard",
)
# Names of options in states and checkpoints written before they were renamed.
RENAMED = {
    "accumulate": "gradient_accumulation_steps",
    "clip": "max_grad_norm",
    "final_rate": "min_lr_ratio",
    "validation_windows": "num_validation_sequences",
}

# Of lists of numbers.
EXAMPLES = {"block_lengths": "1,4,16,64,0", "block_length_weights": "2,1,3,1,1", "mask_rates": "0.3,0.8"}

# preset -> (Mamba and hybrid, Transformer)
LEARNING_RATES = {
    "nano": (3e-3, 2e-3),
    "tiny": (3e-3, 3e-3),
    "small": (2e-3, 2e-3),
    "240m": (1e-3, 3e-4),
    "0.5b": (6e-4, 2e-4),
    "1.3b": (4.5e-4, 1.5e-4),
}


def default_learning_rate(preset: str, architecture: str) -> float:
    """The default peak learning rate. Raises ValueError for an unknown preset."""
    if preset not in LEARNING_RATES:
        raise ValueError(f"preset is {preset!r}; permitted: {', '.join(LEARNING_RATES)}")
    mamba, transformer = LEARNING_RATES[preset]
    return transformer if architecture == "diffutran" else mamba


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Raises ValueError or TypeError that names the option, its value and what is permitted.

    One step reads batch_size x gradient_accumulation_steps rows of `length` tokens, over all processes. At most
    batch_size rows pass through the model at once, so accumulation changes memory, not the result. `model` replaces
    `preset`, `tokenizer` and `edge_embedding` by a configuration of your own.
    """

    architecture: str = option("diffuapriel", choices=ARCHITECTURES, help="the backbone")
    preset: str = option("nano", choices=tuple(PRESETS), help="size; `diffuapriel params` lists them")
    model: ModelConfig | None = None
    corpus: str = option("tales", help="see above")
    tokenizer: str | None = option(
        None, choices=tuple(TOKENIZER_SIZES), help="by default tales-words for tales, else that of the preset"
    )
    init_from: str | None = option(
        None, help="begin with the weights of this checkpoint, of the same preset, architecture and tokenizer"
    )
    edge_embedding: bool = option(True, help="a learned vector at the first and the last position of a text")
    folder: str = option("runs/latest", help="where to save")
    length: int = option(256, least=2, most=65_536, help="tokens per row")
    batch_size: int = option(16, least=1, most=65_536, help="maximum number of rows per forward pass")
    gradient_accumulation_steps: int = option(
        1, least=1, most=65_536, help="batches per step, over all processes", flags=("--accumulate",)
    )
    steps: int | None = option(None, least=1, most=10**9, help="optimizer steps")
    tokens: int | None = option(None, least=1, most=10**15, help="tokens to read, rounded up to whole steps")
    minutes: float | None = option(None, least=0.01, most=100_000, help="as many steps as fit into X minutes")
    stop_after_minutes: float | None = option(
        None, least=0.01, most=100_000, help="save and stop after X minutes; the same command continues"
    )
    schedule: str = option("log-linear", choices=SCHEDULES, renamed=RENAMED_SCHEDULES, help="noise schedule")
    learning_rate: float | None = option(
        None, least=1e-8, most=1.0, help="peak learning rate; depends on preset and architecture unless given"
    )
    warmup_steps: int = option(100, least=1, most=10**6, help="steps of linear warm-up")
    min_lr_ratio: float = option(
        MIN_LR_RATIO, least=0.0, most=1.0, help="final learning rate over the peak", flags=("--final-rate",)
    )
    weight_decay: float = option(0.1, least=0.0, most=10.0, help="applied to matrices only")
    betas: tuple[float, float] = (0.9, 0.95)
    ema_decay: float = option(
        0.9999, least=0.0, most=0.999999, help="decay of the weight average that the checkpoint holds"
    )
    max_grad_norm: float = option(1.0, least=1e-6, most=1e6, help="clip gradients to this norm", flags=("--clip",))
    block_lengths: str | None = option(
        None,
        help="train a model of blocks: the block lengths to draw from, one for each step, such as 1,4,16,64,0; 0 is "
        "the whole row. Such a model is not told the noise level",
    )
    block_length_weights: str | None = option(
        None,
        help="how often each of block_lengths is drawn, relative to the others, such as 2,1,3,1,1; default: equally",
    )
    mask_rates: str | None = option(
        None,
        help="LOW,HIGH: the masked share of each block of a model of blocks, such as 0.3,0.8, where gradients vary "
        "less; the training loss is then no bound, but the validation loss is",
    )
    document_boundaries: bool = option(
        False,
        help="keep the documents in a row separate: neither scan nor attention crosses a boundary. A part of the "
        "checkpoint; such a model takes a canvas without <|endoftext|> for a single document",
    )
    seed: int = option(0, least=0, most=2**63 - 1, help="seed of data order, noise and initial weights")
    device: str = option("auto", help="cpu, cuda, cuda:1 or mps; auto is CUDA where available")
    precision: str = option("float32", choices=PRECISIONS, help="precision of matrix products")
    strategy: str = option("auto", choices=STRATEGIES, help="how several processes share the model; auto is ddp")
    compile: bool = option(False, help="use torch.compile")
    checkpoint_activations: bool = option(
        False, help="recompute activations in the backward pass: less memory, a third more arithmetic"
    )
    validate_every: int = option(500, least=1, most=10**9, help="steps between validations")
    num_validation_sequences: int = option(64, least=2, most=65_536, help="sequences per validation")
    save_seconds: float = option(60.0, least=0.0, most=1e6, help="seconds between saves of the state")
    accept_changed_data: bool = option(False, help="continue a run although the text of its corpus has changed")
    tensorboard: bool = option(False, help="also log for TensorBoard, in FOLDER/tensorboard")

    def __post_init__(self) -> None:
        check_fields(self)
        tokenizer = self.tokenizer or default_tokenizer(self.corpus, self.preset)
        edge_embedding, block_lengths = self.edge_embedding, self.block_lengths
        if self.model is not None:
            tokenizer, edge_embedding = self.model.tokenizer, self.model.edge_embedding
            block_lengths = ",".join(map(str, self.model.block_lengths)) or None
        object.__setattr__(self, "tokenizer", tokenizer)
        object.__setattr__(self, "edge_embedding", edge_embedding)
        object.__setattr__(self, "block_lengths", block_lengths)
        object.__setattr__(self, "document_boundaries", self.model_config.document_boundaries)
        if self.mask_rate_range != (0.0, 1.0) and not block_lengths:
            raise ValueError(f"mask_rates are {self.mask_rates!r}; they go with block_lengths")
        _ = self.block_length_shares  # raises what it finds
        beta_1, beta_2 = self.betas
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise ValueError(f"betas are {self.betas}; each must be 0 or more and below 1")
        if [self.steps, self.tokens, self.minutes].count(None) != 2:
            raise ValueError(
                "say how long to train in exactly one way, steps, tokens or minutes; "
                f"got steps={self.steps}, tokens={self.tokens}, minutes={self.minutes}"
            )
        if self.model is not None and self.model.architecture != self.architecture:
            raise ValueError(f"architecture is {self.architecture!r}, the model's is {self.model.architecture!r}")
        if self.length > self.model_config.context_length:
            raise ValueError(f"length is {self.length}; the model's context is {self.model_config.context_length}")
        for block_length in self.model_config.block_lengths:
            if block_length and self.length % block_length:
                raise ValueError(
                    f"block_lengths are {block_lengths}; {block_length} does not divide length, {self.length}"
                )

    @cached_property
    def model_config(self) -> ModelConfig:
        changes: dict[str, Any] = {"tokenizer": self.tokenizer, "edge_embedding": self.edge_embedding}
        if self.block_lengths:
            changes |= {"block_lengths": _numbers(self.block_lengths, int, "block_lengths"), "time_conditioning": False}
        shape = self.model or preset(self.preset, self.architecture, **changes)
        return dataclasses.replace(shape, document_boundaries=True) if self.document_boundaries else shape

    @property
    def mask_rate_range(self) -> tuple[float, float]:
        """The mask rates that blocks are trained at, by default all."""
        rates = _numbers(self.mask_rates, float, "mask_rates") if self.mask_rates else (0.0, 1.0)
        if len(rates) != 2 or not 0 <= rates[0] < rates[1] <= 1:
            raise ValueError(f"mask_rates are {self.mask_rates!r}; permitted: two rising numbers from 0 to 1")
        return rates[0], rates[1]

    @property
    def block_length_shares(self) -> tuple[float, ...]:
        """The probability of each block length at a step; empty for a model of full sequences."""
        count, given = len(self.model_config.block_lengths), self.block_length_weights
        weights = _numbers(given, float, "block_length_weights") if given else (1.0,) * count
        if len(weights) != count or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(
                f"block_length_weights are {given!r}; permitted: a number above 0 for each of the {count} block_lengths"
            )
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        return self.learning_rate or default_learning_rate(self.preset, self.architecture)

    @property
    def global_batch_size(self) -> int:
        """Rows per step, over all processes."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def tokens_per_step(self) -> int:
        """Tokens per step, [MASK] and padding included."""
        return self.global_batch_size * self.length

    @property
    def planned_steps(self) -> int | None:
        """The number of steps; None where `minutes` decides it during the run."""
        return self.steps if self.tokens is None else math.ceil(self.tokens / self.tokens_per_step)

    @property
    def torch_device(self) -> torch.device:
        """Raises ValueError for a device that this machine does not have."""
        from diffuapriel.device import resolve_device

        return resolve_device(self.device)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "betas": list(self.betas)}

    def differences(self, saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Options that must not change when a run continues and differ from `saved`, the `to_dict` of its state:
        name -> (saved value, this value). Older names and spellings are understood, and options that did not exist
        yet count as what was done then, which is their default but for two."""
        began: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self)}
        began |= {"edge_embedding": False, "tokenizer": (saved.get("model") or {}).get("tokenizer")}
        began["tokenizer"] = began["tokenizer"] or default_tokenizer("", self.preset)
        began |= {RENAMED.get(name, name): value for name, value in saved.items()}
        for name, declared in options_of(TrainConfig).items():
            if isinstance(began[name], str):
                began[name] = declared.renamed.get(began[name], began[name])
        if isinstance(began["model"], dict):
            began["model"] = ModelConfig.from_dict(began["model"]).to_dict()
        return {
            name: (began[name], value)
            for name, value in self.to_dict().items()
            if name not in FREE_ON_RESUME and began[name] != value
        }


@dataclass(frozen=True)
class DistillConfig:
    """One distillation (distillation.py). Raises ValueError or TypeError that names the option and its range."""

    teacher: str
    folder: str
    method: str = option("certainty", choices=DISTILLATIONS, help="what is learned from the teacher; see above")
    sequences: int = option(2048, least=1, help="texts that the teacher writes")
    steps: int = option(2000, least=1, most=10**9, help="optimizer steps")
    batch_size: int = option(16, least=1, help="texts per step")
    length: int | None = option(None, least=2, help="tokens per text; default: as the teacher was trained")
    learning_rate: float = option(3e-4, least=1e-8, most=1.0, help="peak learning rate")
    temperature: float = option(1.0, least=0, most=100, help="of the teacher's texts")
    top_p: float = option(1.0, least=0, most=1, above=True, help="of the teacher's texts; 1 keeps its distribution")
    certainty_weight: float = option(1.0, least=0, most=100, help="certainty: weight of the entropies")
    window: int = option(16, least=1, help="certainty: how many passes ahead the student learns")
    stride: float = option(
        0.125, least=0.001, most=1, help="sdtt: share of the text that a pass of the student reveals"
    )
    teacher_steps: int = option(4, least=2, help="sdtt: passes of the teacher for it")
    block_lengths: str | None = option(
        None, help="of a teacher of blocks, those that the student learns and knows; default: all of more than a token"
    )
    seed: int = option(0, least=0, most=2**63 - 1, help="of the texts, the order and the masks")
    device: str = "cpu"
    precision: str = option("float32", choices=PRECISIONS, help="precision of matrix products")

    def __post_init__(self) -> None:
        check_fields(self)

    def learned(self, known: tuple[int, ...]) -> tuple[int, ...]:
        """The block lengths that the student of a teacher with these learns; none of one of full sequences.

        Raises ValueError for others. With one token per block there is nothing to gain.
        """
        if self.block_lengths is None:
            return tuple(n for n in known if n != 1)
        lengths = check_block_lengths(_numbers(self.block_lengths, int, "block_lengths"))
        if strange := [n for n in lengths if n not in known or n == 1]:
            offered = ", ".join(str(n) for n in known if n != 1) or "none, it writes full sequences"
            raise ValueError(
                f"block_lengths are {self.block_lengths!r}; {strange[0]} is not among the teacher's: {offered}"
            )
        return lengths


def _numbers(values: str, kind: type[Number], name: str) -> tuple[Number, ...]:
    """The numbers of a list such as "1,4,16,0". Raises ValueError for anything else."""
    try:
        return tuple(kind(number) for number in values.split(","))
    except ValueError:
        raise ValueError(f"{name} are {values!r}; give numbers such as {EXAMPLES[name]}") from None
