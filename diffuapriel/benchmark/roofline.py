"""The bound: the least time a forward pass can take on a machine whose matrix rate and bandwidth were measured.

The backbone alone: every block, no embedding, no final norm, no head. Arithmetic, nothing is run. The time is a sum,
because each term is a kernel of its own and kernels run one after the other:

    products    2 flops a weight and token at the matrix rate, or reading the weights once where that takes longer
    attention   4 L d flops per token, at the share of the matrix rate that the best attention kernels reach
    scan        the chunked form of SSD (arXiv:2405.21060, section 6), chunks of 128, at the matrix rate
    passes      bytes that must go through memory between those kernels, at the copy bandwidth

Passes, in values of two bytes per token: gate, residual and the next norm and modulation in one (read the branch, read
and write the stream, write what the next product reads), 4 d before each half of a block; GELU, in and out; queries
and keys once in and out for their norm and RoPE; the scan's z, x, B, C and dt in and y out. What a product or attention
itself reads and writes is in its rate. A fused kernel that saves a pass can beat this; a launch is not in it.

At 790 TFLOP/s and 4.3 TB/s, for backbones of equal parameters at width 2048 (DiffuTran of 24 layers, DiffuApriel of
18, the hybrid of 20 with 4 of attention; time per parameter), DiffuTran over pure DiffuApriel is 1.06, 1.15, 1.32,
1.65, 2.32, 3.66 and 6.33 at 1K, 2K, ... 65K tokens, 10.3 there with FlashAttention-2, and over the hybrid 3.4. A
preset's own shapes give somewhat other figures; the bench prints those.

What this machine can do: its bf16 matrix rate and its copy bandwidth, measured, not read from a data sheet.

A large product of random matrices (on zeros a GPU runs faster than on data) and a copy of several gigabytes, each
warmed up, medians over the rounds. Every fraction of a bound in the report stands on these two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffuapriel.benchmark.gpu.plan import GpuPlan
from diffuapriel.benchmark.gpu.results import Ceilings
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.config import ModelConfig

BYTES = 2  # of a bfloat16 value
SCAN_CHUNK = 128
BEST_ATTENTION = 0.85  # of the matrix rate: cuDNN and FlashAttention-3 on Hopper at head dimension 128
FLASH_ATTENTION_2 = 0.49  # of the matrix rate: 1.7 times slower


@dataclass(frozen=True)
class Rates:
    """What a machine can do: bf16 matrix products in FLOPs/s, copies in bytes/s (read plus written)."""

    matrix: float
    bandwidth: float

    def __post_init__(self) -> None:
        if not (self.matrix > 0 and self.bandwidth > 0):
            raise ValueError(
                f"rates are {self.matrix} flops/s and {self.bandwidth} bytes/s; both must be above 0"
            )


@dataclass(frozen=True)
class Work:
    """What one forward pass of the backbone must do, all layers: flops by kind, and bytes of weights and passes."""

    product_flops: float
    attention_flops: float
    scan_flops: float
    weight_bytes: float
    pass_bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def backbone_work(config: ModelConfig, length: int, batch: int = 1) -> Work:
    """The work of all blocks of `config` on `batch` texts of `length` tokens."""
    total = Work(0, 0, 0, 0, 0)
    for kind in config.layer_kinds:
        mixer = _attention(config, length, batch) if kind == "attention" else _mamba(config, length * batch)
        total += mixer + _mlp_and_stream(config, length * batch)
    return total


def bound_seconds(
    config: ModelConfig,
    length: int,
    batch: int,
    rates: Rates,
    *,
    attention_share: float = BEST_ATTENTION,
) -> float:
    """Least seconds of one forward pass of the backbone; see the module's docstring for what is counted."""
    work = backbone_work(config, length, batch)
    products = max(work.product_flops / rates.matrix, work.weight_bytes / rates.bandwidth)
    attention = work.attention_flops / (rates.matrix * attention_share)
    return products + attention + work.scan_flops / rates.matrix + work.pass_bytes / rates.bandwidth


def mixer_bytes(config: ModelConfig, length: int, batch: int = 1, *, backward: bool = False) -> int:
    """Bytes that a fused Mamba-2 mixer must move between in_proj and out_proj, both directions.

    Forward: the projection in, y out. With `backward` also, once more, the projection and y's gradient in and the
    projection's gradient out.
    """
    projected, y = _mamba_channels(config)
    values = projected + y
    if backward:
        values += projected + y + projected
    return values * BYTES * length * batch


def _mamba_channels(config: ModelConfig) -> tuple[int, int]:
    """Channels a token of both directions: of in_proj's output, and of out_proj's input."""
    per_direction = 2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads
    return 2 * per_direction, 2 * config.d_inner


def _mamba(config: ModelConfig, tokens: int) -> Work:
    projected, y = _mamba_channels(config)
    weights = (projected + y) * config.d_model  # in_proj and out_proj
    seen = SCAN_CHUNK / 2  # tokens of its own chunk that a token sees, on average
    scores = 2 * seen * config.n_groups * config.d_state  # C B^T, once per group
    inside = 2 * seen * config.d_inner  # those scores times x
    states = 4 * config.d_state * config.d_inner  # the chunk's x B^T, and its C on the state before
    scan = 2 * (scores + inside + states)  # both directions
    return Work(
        product_flops=2 * weights * tokens,
        attention_flops=0,
        scan_flops=scan * tokens,
        weight_bytes=BYTES * weights,
        pass_bytes=mixer_bytes(config, tokens),
    )


def _attention(config: ModelConfig, length: int, batch: int) -> Work:
    weights = 4 * config.d_model**2
    return Work(
        product_flops=2 * weights * length * batch,
        attention_flops=4 * length * config.d_model * length * batch,
        scan_flops=0,
        weight_bytes=BYTES * weights,
        pass_bytes=4 * config.d_model * BYTES * length * batch,  # queries and keys, in and out
    )


def _mlp_and_stream(config: ModelConfig, tokens: int) -> Work:
    hidden = config.mlp_ratio * config.d_model
    weights = 2 * config.d_model * hidden
    return Work(
        product_flops=2 * weights * tokens,
        attention_flops=0,
        scan_flops=0,
        weight_bytes=BYTES * weights,
        pass_bytes=(2 * 4 * config.d_model + 2 * hidden) * BYTES * tokens,
    )


ROUNDS = 15
WARM_UPS = 5
IN_A_ROW = 4  # calls between two marks: the first one's launch is hidden behind the others


def measure_ceilings(plan: GpuPlan, device: torch.device | str) -> Ceilings:
    """Time the product and the copy in turn."""
    side = plan.matrix
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(side, side, generator=generator, device=device, dtype=plan.torch_dtype) for _ in range(2)
    )
    product = torch.empty_like(a)
    source = torch.randn(plan.copy_bytes // 4, generator=generator, device=device)
    target = torch.empty_like(source)
    contestants = {
        "product": _repeated(lambda: torch.mm(a, b, out=product)),
        "copy": _repeated(lambda: target.copy_(source)),
    }
    for call in contestants.values():
        for _ in range(WARM_UPS):
            call()
    ms = time_interleaved(contestants, repeats=ROUNDS, seconds=plan.seconds, device=device)
    return Ceilings(
        matrix_rates=tuple(_per_second(2 * side**3, t) for t in ms["product"]),
        bandwidths=tuple(_per_second(2 * source.nbytes, t) for t in ms["copy"]),
        matrix=side,
        copy_bytes=source.nbytes,
    )


def rates(ceilings: Ceilings) -> Rates:
    """The medians, as the bound wants them."""
    return Rates(matrix=ceilings.matrix_rate, bandwidth=ceilings.bandwidth)


def _per_second(amount: int, milliseconds: float) -> float:
    return float(f"{1000 * IN_A_ROW * amount / milliseconds:.5g}")


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(IN_A_ROW):
            call()

    return run
