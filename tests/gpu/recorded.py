"""Recorded steps beside eager ones, on any device: used on the CPU with a stand-in for the recorder, and on CUDA."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from diffuapriel.config import ModelConfig
from diffuapriel.model.attention import Attention
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import AddGradient, Recorded, max_masked, micro_batch_size
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.loop import add_gradient, backward, draw_block_length
from diffuapriel.training.optimizer import make_optimizer

STEPS = 12
BLOCK_LENGTHS = (1, 4, 16, 0)


def config_of(architecture: str, *, accumulation: int = 1, precision: str = "float32") -> TrainConfig:
    """A small model of blocks, in steps of 8 rows of 32 tokens."""
    shape = ModelConfig(
        architecture,
        d_model=64,
        depth=3,
        vocab_size=301,
        d_state=16,
        headdim=32,
        attention_headdim=32,
        cond_dim=16,
        edge_embedding=True,
        time_conditioning=False,
        block_lengths=BLOCK_LENGTHS,
    )
    options = {"batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation, "precision": precision}
    return TrainConfig(architecture, model=shape, length=32, steps=STEPS, **options)


def train_steps(
    config: TrainConfig, device: torch.device, *, recorded: bool, kernel: object = None
) -> tuple[list[float], torch.Tensor]:
    """The loss of each step and the weights at the end. Eager steps run the head on as many positions as recorded ones.

    kernel: of attention, by default the fastest.
    """
    torch.manual_seed(0)
    model = Denoiser(config.model_config).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape).to(device), alpha=0.02)
    for module in model.modules():
        if kernel is not None and isinstance(module, Attention):
            module.kernels = (kernel,)
    processes, generator = SingleProcess(device), torch.Generator(device)
    plain: AddGradient = partial(add_gradient, model, config, processes)
    add = Recorded(plain, model, config, processes) if recorded else None
    optimizer = make_optimizer(model, learning_rate=3e-3, betas=config.betas, weight_decay=config.weight_decay)
    texts = torch.randint(300, (STEPS, 8, 32), generator=torch.Generator().manual_seed(1)).to(device)
    losses = []
    for step, ids in enumerate(texts):
        generator.manual_seed(step)
        block_length = draw_block_length(config, step)
        most = max_masked(config, micro_batch_size(config, processes), block_length)
        eager = partial(plain, max_masked=most)
        losses.append(backward(model, ids, config, generator, processes, add or eager, block_length).item())
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not recorded)
    return losses, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
