"""Model FLOPs and how much of a card they use: the MFU of the progress line (PaLM, arXiv:2204.02311, appendix B).

    forward    2 a weight and token in every linear layer, the head at every position
               attention   4 L d a token: every token sees every other, there is no causal half to leave out
               scan        the recurrence: 4 N a channel, token and direction (state update and reading)
    update     three times the forward pass: the backward pass takes two products for one

This is the arithmetic that the model asks for, whatever computes it. Not counted: what activation checkpointing
computes again, what the chunked form of the scan adds, and norms, convolutions and gates, which are no matrix products.
MFU is model FLOPs per second over the card's peak for dense bfloat16 products, in float32 too.
"""

from __future__ import annotations

import torch

from diffuapriel.config import ModelConfig
from diffuapriel.model.layers import FREQUENCIES

# FLOP/s of dense bfloat16 products, from NVIDIA's data sheets (half the figure "with sparsity"); first match counts
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
    """FLOPs per token of one forward pass over texts of `length` tokens."""
    d = config.d_model
    mlp = 2 * (2 * d * config.mlp_ratio * d)
    attention = 2 * (4 * d * d) + 4 * length * d
    per_direction = (
        2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads
    )  # z, x, B, C, dt
    mamba = 2 * (2 * d * per_direction + 2 * config.d_inner * d) + 2 * (4 * config.d_state * config.d_inner)
    mixers = {"attention": attention, "mamba": mamba}
    blocks = sum(mixers[kind] + mlp for kind in config.layer_kinds)
    head = 2 * d * config.padded_vocab_size
    c = config.cond_dim
    once_a_text = 2 * (2 * FREQUENCIES * c + c * c + c * (6 * config.depth + 2) * d)
    return blocks + head + once_a_text / length


def training_flops(config: ModelConfig, length: int) -> float:
    """FLOPs per token of one update, forward and backward."""
    return 3 * forward_flops(config, length)


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of the card in dense bfloat16 products; None for a CPU and for cards that are not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in PEAKS.items() if card in name), None)


def utilisation(config: ModelConfig, length: int, tokens_per_second: float, peak: float, cards: int) -> float:
    """MFU, from 0 to 1, of a run that reads so many tokens per second on so many cards."""
    return training_flops(config, length) * tokens_per_second / (peak * cards)
