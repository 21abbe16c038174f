"""What `diffuapriel bench --gpu` measures: parts, sizes, and how often.

The names of the racers are those of the architectures; DIFFUTRAN_FLASH_2 is DiffuTran again, the same weights,
kept from every attention kernel but PyTorch's FlashAttention-2.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

PARTS = ("ceilings", "forward", "generation", "mixer", "training", "sampler", "memory")
LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)

PURE, HYBRID, DIFFUTRAN = "diffuapriel", "diffuapriel-h", "diffutran"
DIFFUTRAN_FLASH_2 = "diffutran, FlashAttention-2"
BACKENDS = ("triton", "mamba_ssm", "chunked")
RACERS = (PURE, HYBRID, DIFFUTRAN, DIFFUTRAN_FLASH_2)


@dataclass(frozen=True)
class GpuPlan:
    """How much is measured. A filling batch is as many texts as make `tokens` tokens in all.

    After three rounds (two of a generation) a point ends with `repeats` rounds or `seconds`, whichever comes first. A
    generation of up to `step_tokens` tokens takes `steps` steps; a larger one, so that it ends, fewer in proportion,
    at least 8.
    """

    preset: str = "1.3b"
    parts: tuple[str, ...] = PARTS
    lengths: tuple[int, ...] = LENGTHS
    tokens: int = 65_536
    repeats: int = 15
    seconds: float = 2.0
    dtype: str = "bfloat16"
    steps: int = 64
    step_tokens: int = 4096
    matrix: int = 8192  # side of the product that gives the matrix rate
    copy_bytes: int = 4 * 2**30  # of the buffer whose copy gives the bandwidth
    backends: tuple[str, ...] = BACKENDS
    training_lengths: tuple[int, ...] = (1024, 8192)
    training_tokens: int = 8192

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise ValueError(f"parts are {self.parts!r}; permitted with --gpu: {', '.join(PARTS)}")
        if not self.lengths or any(type(n) is not int or n < 1 for n in self.lengths):
            raise ValueError(f"lengths are {self.lengths!r}; give whole numbers, 1 or more")
        for name in ("repeats", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    def quick(self) -> GpuPlan:
        """The same parts in a fraction of the time: fewer repeats, the shortest, middle and longest length."""
        return dataclasses.replace(
            self,
            lengths=self.few_lengths(),
            repeats=min(self.repeats, 5),
            seconds=min(self.seconds, 1.0),
            steps=min(self.steps, 16),
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return getattr(torch, self.dtype)

    def batches(self, length: int) -> tuple[int, ...]:
        """Batch 1, and the filling batch where that is more."""
        return tuple(sorted({1, max(1, self.tokens // length)}))

    def shapes(self) -> list[tuple[int, int]]:
        """(length, batch) of every point, shortest first."""
        return [(n, batch) for n in sorted(set(self.lengths)) for batch in self.batches(n)]

    def generation_shapes(self) -> list[tuple[int, int]]:
        """Batch 1 at every length; the filling batch at the shortest alone, for it takes long."""
        return [(n, batch) for n, batch in self.shapes() if batch == 1 or n == min(self.lengths)]

    def few_lengths(self) -> tuple[int, ...]:
        """The shortest, the middle and the longest length."""
        lengths = sorted(set(self.lengths))
        return tuple(sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]}))

    def ends(self) -> tuple[int, ...]:
        """The shortest and the longest length."""
        return tuple(sorted({min(self.lengths), max(self.lengths)}))

    def generation_steps(self, length: int, batch: int) -> int:
        """Steps of a generation of `batch` texts of `length` tokens."""
        share = min(1.0, self.step_tokens / (length * batch))
        return max(min(8, self.steps), round(self.steps * share))
