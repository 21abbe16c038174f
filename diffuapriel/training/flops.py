"""Model FLOPs, and model FLOP utilization (MFU) as in PaLM (arXiv:2204.02311, appendix B).

    forward    linear layers   2 per weight and token, the head at every position included
               attention       4 L d per token: every token attends to every other, so there is no causal half
               scan            the recurrence: 4 N per channel, token and direction (state update and readout)
    step       three times the forward pass: the backward pass takes two products for one

This counts the arithmetic of the model, not of an implementation. Not counted: what activation checkpointing
recomputes, what the chunked form of the scan adds, and norms, convolutions and gates, which are not matrix products.
MFU is model FLOPs per second over the card's peak for dense bfloat16 products, also for float32 runs.
"""

from __future__ import annotations

import torch

from diffuapriel.config import ModelConfig
from diffuapriel.model.layers import FREQUENCIES

# FLOP/s of dense bfloat16 products, from NVIDIA's data sheets (half the figure "with sparsity"); the first match counts
PEAKS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def forward_flops(config: ModelConfig, length: int) -> float:
    """FLOPs per token of one forward pass over rows of `length` tokens."""
    d = config.d_model
    mlp = 2 * (2 * d * config.mlp_ratio * d)
    attention = 2 * (4 * d * d) + 4 * length * d
    # z, x, B, C, dt
    per_direction = 2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads
    mamba = 2 * (2 * d * per_direction + 2 * config.d_inner * d) + 2 * (4 * config.d_state * config.d_inner)
    mixers = {"attention": attention, "mamba": mamba}
    blocks = sum(mixers[kind] + mlp for kind in config.layer_kinds)
    head = 2 * d * config.padded_vocab_size
    c = config.cond_dim
    per_row = 2 * (2 * FREQUENCIES * c + c * c + c * (6 * config.depth + 2) * d)
    return blocks + head + per_row / length


def training_flops(config: ModelConfig, length: int) -> float:
    """FLOPs per token of one step, forward and backward."""
    return 3 * forward_flops(config, length)


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of the card in dense bfloat16 products; None for a CPU and for cards missing from the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in PEAKS.items() if card in name), None)


def utilization(config: ModelConfig, length: int, tokens_per_second: float, peak: float, cards: int) -> float:
    """MFU, from 0 to 1, of a run on `cards` cards with that peak each."""
    return training_flops(config, length) * tokens_per_second / (peak * cards)
