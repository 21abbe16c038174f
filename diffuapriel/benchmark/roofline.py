"""The roofline: the least time of a forward pass, given a machine's peak FLOP/s and memory bandwidth.

Counted are the blocks, without embedding, final norm and head. This is arithmetic; nothing is run. The times add up,
because each term is a kernel of its own and kernels run one after the other:

    products    2 FLOPs per weight and token at peak FLOP/s, or reading the weights once where that takes longer
    attention   4 L d FLOPs per token, at the share of peak FLOP/s that the best attention kernels reach
    scan        the chunked form of SSD (arXiv:2405.21060, section 6), chunks of 128, at peak FLOP/s
    passes      bytes that must go through memory between those kernels, at peak bandwidth

Passes, in two-byte values per token: gate, residual, the next norm and its modulation in one kernel (read the branch,
read and write the stream, write the input of the next product), 4 d before each half of a block; GELU, in and out;
queries and keys in and out once for their norm and RoPE; the scan's z, x, B, C and dt in and y out. The memory traffic
inside a product or inside attention is part of its rate. A fused kernel that saves a pass can beat this roofline;
kernel launches are not counted.

The peaks are measured, not read from a data sheet: a large product of random matrices (a GPU is faster on zeros than on
data) and a copy of several gigabytes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.config import ModelConfig

BYTES = 2  # per bfloat16 value
SCAN_CHUNK = 128
BEST_ATTENTION = 0.85  # of peak FLOP/s: cuDNN and FlashAttention-3 on Hopper at head dimension 128
FLASH_ATTENTION_2 = 0.49  # of peak FLOP/s: 1.7 times slower
ROUNDS = 15
WARM_UPS = 5
IN_A_ROW = 4  # calls between two marks: the launch of the first is hidden behind the others


@dataclass(frozen=True)
class Peaks:
    """Peak rates: matrix products in FLOP/s, copies in bytes per second (read plus written)."""

    flops: float
    bandwidth: float

    def __post_init__(self) -> None:
        if min(self.flops, self.bandwidth) <= 0:
            given = f"{self.flops} FLOP/s and {self.bandwidth} bytes/s"
            raise ValueError(f"peaks are {given}; both must be above 0")


@dataclass(frozen=True)
class MeasuredPeaks:
    """The peak rates of a machine as measured, one value per round."""

    flops_rounds: tuple[float, ...]
    bandwidth_rounds: tuple[float, ...]
    matrix: int  # side of the product
    copy_bytes: int

    @property
    def median(self) -> Peaks:
        return Peaks(statistics.median(self.flops_rounds), statistics.median(self.bandwidth_rounds))


@dataclass(frozen=True)
class Work:
    """The work of a forward pass: FLOPs by kind, bytes of weights, and bytes of passes through memory."""

    product_flops: float = 0
    attention_flops: float = 0
    scan_flops: float = 0
    weight_bytes: float = 0
    pass_bytes: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def backbone_work(config: ModelConfig, length: int, batch: int = 1, context: int = 0) -> Work:
    """The work of all blocks of `config` on `batch` texts of `length` tokens, which attend to `context` more."""
    total, tokens = Work(), length * batch
    mixers = {"attention": _attention(config, context + length, tokens), "mamba": _mamba(config, tokens)}
    for kind in config.layer_kinds:
        total += mixers[kind] + _mlp_and_stream(config, tokens)
    return total


def roofline_seconds(
    config: ModelConfig, length: int, batch: int, peaks: Peaks, *, attention_share: float = BEST_ATTENTION
) -> float:
    """Least seconds of one forward pass of the backbone; the module's docstring says what is counted."""
    work = backbone_work(config, length, batch)
    products = max(work.product_flops / peaks.flops, work.weight_bytes / peaks.bandwidth)
    attention = work.attention_flops / (peaks.flops * attention_share)
    return products + attention + work.scan_flops / peaks.flops + work.pass_bytes / peaks.bandwidth


def block_roofline_seconds(
    config: ModelConfig, block_length: int, context: int, batch: int, peaks: Peaks, *, bytes_per_value: int = BYTES
) -> float:
    """Least seconds of a pass over one block of each of `batch` texts, after `context` tokens in the cache.

    As `roofline_seconds`, with the cache read once: keys and values while attention computes, or as long as reading
    them takes; the states of the forward scans, float32, beside the other passes.
    """
    work = backbone_work(config, block_length, batch, context)
    attends = config.layer_kinds.count("attention")
    keys_and_values = 2 * config.d_model * context * attends * batch * bytes_per_value
    states = 4 * config.d_inner * config.d_state * (len(config.layer_kinds) - attends) * batch
    products = max(work.product_flops / peaks.flops, work.weight_bytes / peaks.bandwidth)
    attention = max(work.attention_flops / (peaks.flops * BEST_ATTENTION), keys_and_values / peaks.bandwidth)
    return products + attention + work.scan_flops / peaks.flops + (work.pass_bytes + states) / peaks.bandwidth


def mixer_bytes(config: ModelConfig, length: int, batch: int = 1, *, backward: bool = False) -> int:
    """Bytes that a fused Mamba-2 mixer must move between in_proj and out_proj, both directions.

    Forward: the projection in, y out. `backward` adds the projection and y's gradient in and the projection's gradient
    out.
    """
    projected, y = _mamba_channels(config)
    values = 3 * projected + 2 * y if backward else projected + y
    return values * BYTES * length * batch


def _mamba_channels(config: ModelConfig) -> tuple[int, int]:
    """Channels per token, both directions: of in_proj's output, and of out_proj's input."""
    per_direction = 2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads
    return 2 * per_direction, 2 * config.d_inner


def _mamba(config: ModelConfig, tokens: int) -> Work:
    projected, y = _mamba_channels(config)
    weights = (projected + y) * config.d_model  # in_proj and out_proj
    seen = SCAN_CHUNK / 2  # tokens of its own chunk that a token sees, on average
    scores = 2 * seen * config.n_groups * config.d_state  # C B^T, once per group
    inside = 2 * seen * config.d_inner  # those scores times x
    states = 4 * config.d_state * config.d_inner  # the chunk's x B^T, and its C on the state before
    scan = 2 * (scores + inside + states) * tokens  # both directions
    return _products(weights, tokens) + Work(scan_flops=scan, pass_bytes=mixer_bytes(config, tokens))


def _attention(config: ModelConfig, length: int, tokens: int) -> Work:
    passes = 4 * config.d_model * BYTES * tokens  # queries and keys, in and out
    attention = 4 * length * config.d_model * tokens
    return _products(4 * config.d_model**2, tokens) + Work(attention_flops=attention, pass_bytes=passes)


def _mlp_and_stream(config: ModelConfig, tokens: int) -> Work:
    hidden = config.mlp_ratio * config.d_model
    passes = (2 * 4 * config.d_model + 2 * hidden) * BYTES * tokens
    return _products(2 * config.d_model * hidden, tokens) + Work(pass_bytes=passes)


def _products(weights: int, tokens: int) -> Work:
    return Work(product_flops=2 * weights * tokens, weight_bytes=BYTES * weights)


def measure_peaks(
    device: torch.device, *, matrix: int, copy_bytes: int, dtype: torch.dtype, seconds: float
) -> MeasuredPeaks:
    """Time a product of side `matrix` and a copy of `copy_bytes`, interleaved."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(matrix, matrix, generator=generator, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.randn(copy_bytes // 4, generator=generator, device=device)
    target = torch.empty_like(source)
    calls = {
        "product": _repeated(lambda: torch.mm(a, b, out=product)),
        "copy": _repeated(lambda: target.copy_(source)),
    }
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    ms = time_interleaved(calls, repeats=ROUNDS, seconds=seconds, device=device)
    amounts = {"product": 2 * matrix**3, "copy": 2 * source.nbytes}
    flops, bandwidth = (
        tuple(float(f"{1000 * IN_A_ROW * amount / t:.5g}") for t in ms[name]) for name, amount in amounts.items()
    )
    return MeasuredPeaks(flops, bandwidth, matrix, source.nbytes)


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(IN_A_ROW):
            call()

    return run
