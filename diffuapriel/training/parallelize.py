"""Compilation, activation checkpointing and sharding of a denoiser's blocks. None of them changes the result.

Each is applied block by block: blocks of one kind share their code, so it is compiled once and not once per layer;
checkpointing keeps only a block's input; and FSDP2 gathers one block at a time. The order matters and is decided by the
loop: checkpointing inside compilation inside sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffuapriel.model.denoiser import Block, Denoiser

# Otherwise the compiler pads the rows of in_proj's product to a multiple of 128 bytes and then copies all of it into
# the layout that the mixer's operator expects.
OPTIONS = {"comprehensive_padding": False}
PASSES = ("forward", "forward_blocks")  # the two ways through a block


def checkpoint_blocks(model: Denoiser) -> None:
    """Keep only each block's input for the backward pass: less memory, a third more arithmetic."""
    for block in model.blocks:
        for name in PASSES:
            setattr(block, name, _recomputed(getattr(block, name)))


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def checkpointed(*inputs: Any, **more: Any) -> Tensor:
        # there is no dropout, hence no random state to restore for the second run
        return checkpoint(forward, *inputs, **more, use_reentrant=False, preserve_rng_state=False)

    return checkpointed


def shard_blocks(model: Denoiser, mesh: Any) -> Denoiser:
    """Shard `model` in place over the ranks of `mesh` (FSDP2): every parameter becomes a DTensor, split along dim 0.

    Parameters are gathered in float32, not in bfloat16: autocast decides what is rounded, as in a single process.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in model.blocks:
        fully_shard(block, mesh=mesh["data_parallel"])
        register_fsdp_forward_method(block, "forward_blocks")
    fully_shard(model, mesh=mesh["data_parallel"])
    return model


@contextmanager
def compiled_blocks(
    model: Denoiser, trial: Callable[[], Any], any_rank: Callable[[bool], bool], say: Callable[[str], Any]
) -> Iterator[None]:
    """Within the context the denoiser's blocks run compiled, if the compiler works on every rank.

    `trial` runs the model, forward and backward, at every block length; if it fails, the run continues uncompiled and
    `say` gets the reason. A Mamba block is compiled once per block length, an attention block once (on a CPU once per
    block length, too), and the last block once more for each, since it returns the corrupted rows only.
    """
    reason, limit = "", torch._dynamo.config.recompile_limit + 2 * len(model.config.block_lengths)
    with torch._dynamo.config.patch(recompile_limit=limit):  # what exceeds it would run uncompiled
        try:
            for block in model.blocks:
                assert isinstance(block, Block)
                block.compile(dynamic=False, options=OPTIONS)
                block.forward_blocks = torch.compile(block.forward_blocks, dynamic=False, options={**OPTIONS})
            trial()
        except Exception as error:  # compilers fail in many ways, none of which should end a run
            reason = (str(error) or repr(error)).splitlines()[0]
            say(f"torch.compile failed, continuing without it: {reason}")
        model.zero_grad()
        if any_rank(bool(reason)):
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
