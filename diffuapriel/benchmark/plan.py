"""What `diffuapriel bench` measures, on a CPU or on one NVIDIA GPU: parts, sizes, and how often each is timed.

An entry is named after its architecture; DIFFUTRAN_FLASH_2 is DiffuTran with the same weights, restricted to PyTorch's
FlashAttention-2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffuapriel.benchmark.roofline import MeasuredPeaks

PARTS = {
    "cpu": ("scan", "forward", "generation", "training", "blocks", "memory"),
    "gpu": ("peaks", "forward", "generation", "mixer", "training", "sampler", "memory", "blocks", "folded"),
}
OLD_PARTS = {"ceilings": "peaks"}
LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
CONTEXTS = (1024, 4096, 16_384, 65_536, 262_144)  # of models of blocks
CPU_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16_384)

PURE, HYBRID, DIFFUTRAN = "diffuapriel", "diffuapriel-h", "diffutran"
FULL = ", full sequence"  # ends the name of an entry of the blocks part that runs without blocks
DIFFUTRAN_FLASH_2 = "diffutran, FlashAttention-2"
ENTRIES = (PURE, HYBRID, DIFFUTRAN, DIFFUTRAN_FLASH_2)
BACKENDS = ("triton", "mamba_ssm", "chunked")


@dataclass(frozen=True)
class BenchPlan:
    """How much is measured. Make one with `BenchPlan.on("cpu")` or `BenchPlan.on("gpu")`.

    On a GPU a filling batch has as many texts as make `tokens` tokens in all. After three rounds (two of a generation)
    a shape ends with `repeats` rounds or after `seconds`, whichever comes first. A generation of up to `step_tokens`
    tokens takes `steps` steps; a larger one takes proportionally fewer, at least 8.
    """

    device: str
    preset: str
    parts: tuple[str, ...]
    lengths: tuple[int, ...]
    repeats: int
    dtype: str
    # on a CPU
    forward_repeats: int = 4
    generation_steps: tuple[int, ...] = (32, 64)
    memory_runs: tuple[tuple[str, int], ...] = ((PURE, 16_384), (DIFFUTRAN, 16_384), (PURE, 65_536))
    # on a GPU
    tokens: int = 65_536
    seconds: float = 2.0
    steps: int = 64
    step_tokens: int = 4096
    matrix: int = 8192  # side of the product that gives the peak FLOP/s
    copy_bytes: int = 4 * 2**30  # size of the buffer whose copy gives the peak bandwidth
    backends: tuple[str, ...] = BACKENDS
    training_lengths: tuple[int, ...] = (1024, 8192)
    training_tokens: int = 8192
    contexts: tuple[int, ...] = ()  # tokens before a block, and of its generations
    block_length: int = 256
    block_batch: int = 16  # that fills the card, up to `full_contexts` tokens each
    full_contexts: int = 16_384
    full_most: int = 65_536  # the longest text of a full-sequence pass beside the blocks
    folded_preset: str = "tiny"  # of training in blocks: `folded_batch` rows of `folded_length` tokens
    folded_length: int = 128
    folded_batch: int = 128
    folded_blocks: tuple[int, ...] = (1, 4, 16, 64)
    block_calls: int = 16  # of a block in a generation of up to 16K tokens; fewer in a longer one, at least 2

    @classmethod
    def on(cls, device: str, **changes: Any) -> BenchPlan:
        """The whole plan for "cpu" or "gpu". Raises ValueError for a field that is out of range."""
        kinds: dict[str, dict[str, Any]] = {
            "cpu": {"preset": "nano", "lengths": CPU_LENGTHS, "repeats": 7, "dtype": "float32"},
            "gpu": {"preset": "1.3b", "lengths": LENGTHS, "repeats": 15, "dtype": "bfloat16"},
        }
        if device == "gpu":  # given lengths are contexts too
            kinds[device]["contexts"] = tuple(sorted(set(changes.get("lengths", CONTEXTS))))
        return cls(device, **{"parts": PARTS[device], **kinds[device], **changes})

    def __post_init__(self) -> None:
        parts = tuple(OLD_PARTS.get(part, part) for part in self.parts)
        object.__setattr__(self, "parts", parts)
        permitted = PARTS[self.device]
        if not parts or set(parts) - set(permitted):
            where = " with --gpu" if self.device == "gpu" else ""
            raise ValueError(f"parts are {parts!r}; permitted{where}: {', '.join(permitted)}")
        if not self.lengths or any(type(n) is not int or n < 1 for n in self.lengths):
            raise ValueError(f"lengths are {self.lengths!r}; give whole numbers, 1 or more")
        for name in ("repeats", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    def quick(self) -> BenchPlan:
        """The same parts in a fraction of the time: fewer repeats, fewer or shorter lengths."""
        if self.device == "gpu":
            least = {"repeats": min(self.repeats, 5), "seconds": min(self.seconds, 1.0)}
            few = {"lengths": self.few_lengths(), "contexts": (self.contexts[0], self.contexts[-1])}
            return replace(self, **least, **few, steps=min(self.steps, 16))
        return replace(
            self,
            repeats=min(self.repeats, 3),
            lengths=tuple(n for n in self.lengths if n <= 2048),
            forward_repeats=2,
            generation_steps=self.generation_steps[:1],
            memory_runs=((PURE, 4096), (DIFFUTRAN, 4096)),
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return getattr(torch, self.dtype)

    def batches(self, length: int) -> tuple[int, ...]:
        """Batch 1, and the filling batch if that is larger."""
        return tuple(sorted({1, max(1, self.tokens // length)}))

    def shapes(self) -> list[tuple[int, int]]:
        """(length, batch) of each shape, shortest first."""
        return [(n, batch) for n in sorted(set(self.lengths)) for batch in self.batches(n)]

    def generation_shapes(self) -> list[tuple[int, int]]:
        """Batch 1 at every length; the filling batch, which takes long, at the shortest only."""
        return [(n, batch) for n, batch in self.shapes() if batch == 1 or n == min(self.lengths)]

    def few_lengths(self) -> tuple[int, ...]:
        """The shortest, the middle and the longest length."""
        lengths = sorted(set(self.lengths))
        return tuple(sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]}))

    def ends(self) -> tuple[int, ...]:
        """The shortest and the longest length."""
        return tuple(sorted({min(self.lengths), max(self.lengths)}))

    @property
    def shortest_block(self) -> int:
        """`block_length`, or the shortest context if that is less."""
        return min(self.block_length, *self.contexts)

    def block_shapes(self) -> list[tuple[int, int]]:
        """(context, batch) of each pass over blocks."""
        few = [n for n in self.contexts if n <= self.full_contexts]
        return [(n, 1) for n in self.contexts] + [(n, self.block_batch) for n in few]

    def calls_of(self, context: int) -> int:
        """Denoiser calls per block of a generation of that many tokens."""
        return max(2, min(self.block_calls, self.block_calls * self.full_contexts // context))

    def steps_of(self, length: int, batch: int) -> int:
        """Steps of a generation of `batch` texts of `length` tokens on a GPU."""
        share = min(1.0, self.step_tokens / (length * batch))
        return max(min(8, self.steps), round(self.steps * share))


@dataclass
class Bench:
    """A run in progress, as each part gets it: `say` announces what is measured next."""

    plan: BenchPlan
    device: torch.device
    say: Callable[[str], None]
    measured_peaks: MeasuredPeaks | None = None

    @property
    def peaks(self) -> MeasuredPeaks:
        """This machine's peaks, which the forward and mixer parts need."""
        assert self.measured_peaks, "the peaks are measured first"
        return self.measured_peaks
