"""How a denoiser's blocks run: compiled, checkpointed, sharded. What they compute stays the same.

Each is done block by block: blocks of a kind share their code, so it is compiled once, not once per layer; a block's
input is all that is kept when its activations are computed again; and a block is what FSDP2 gathers at a time.
The order matters and is the loop's: checkpointing inside compilation inside sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffuapriel.model.denoiser import Denoiser

# The compiler would widen the rows of in_proj's product to a multiple of 128 bytes, and then copy the whole to have the
# mixer's operator take it as it should lie.
OPTIONS = {"comprehensive_padding": False}


def checkpoint_blocks(model: Denoiser) -> None:
    """Keep each block's input for the backward pass and nothing inside it: less memory, a third more arithmetic."""
    for block in model.blocks:
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def checkpointed(*inputs: Any, **more: Any) -> Tensor:
        # there is no dropout: no random state to bring back for the second run
        return checkpoint(forward, *inputs, **more, use_reentrant=False, preserve_rng_state=False)

    return checkpointed


def shard_blocks(model: Denoiser, mesh: Any) -> Denoiser:
    """Shard `model` in place over the ranks of `mesh` (FSDP2): every parameter becomes a DTensor, split along dim 0.

    Parameters are gathered in float32, not in bfloat16: autocast chooses what is rounded, as in a single process.
    """
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    return model


@contextmanager
def compiled_blocks(
    model: Denoiser, trial: Callable[[], Any], any_rank: Callable[[bool], bool], say: Callable[[str], Any]
) -> Iterator[None]:
    """Within the block the denoiser's blocks run compiled, where the compiler works on every rank.

    `trial` runs the model once, forward and backward; when that fails, the run goes on without and `say` hears why.
    """
    reason = ""
    try:
        for block in model.blocks:
            block.compile(dynamic=False, options=OPTIONS)
        trial()
    except Exception as error:  # compilers fail in many ways, and none of them is worth a run
        reason = (str(error) or repr(error)).splitlines()[0]
        say(f"torch.compile failed, going on without it: {reason}")
    model.zero_grad()
    if any_rank(bool(reason)):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
