"""A denoiser prepared for speed on a GPU, in the same way for all three architectures.

    * linear layers and the embedding in bfloat16; norms, convolutions, decay rates and step sizes keep their dtype
    * the weight of each mixer's norm folded into the product that follows it: the same function
    * every block and the final norm compiled: norm and modulation become one kernel, so do gate and residual. A pass
      in place consists of products and our own kernels instead (ops/residual.py)
    * the forward pass recorded as one CUDA graph per shape: one launch instead of hundreds

Blocks are compiled individually, for any batch and length. Blocks of one kind share their code, so a model costs two
compilations at most. On a CPU nothing is recorded, and compilation is left to the caller, because it takes longer
there than most generations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffuapriel.model.denoiser import Block, Denoiser
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops.cudagraph import record

# As in training/parallelize.py: the mixer's operator would copy rows that the compiler pads.
OPTIONS = {"comprehensive_padding": False}


def compile_denoiser(model: Denoiser, *, dtype: torch.dtype | None = torch.bfloat16) -> Engine:
    """An engine around `model`, which is changed: put in evaluation mode, its matrices cast to `dtype` (None keeps
    theirs), and on a CUDA device its blocks compiled."""
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, BidirectionalMamba2):
            module.fold_norm()
    if dtype is not None:
        cast_matrices(model, dtype)
    if next(model.parameters()).is_cuda:
        for block in model.blocks:
            assert isinstance(block, Block)
            block.compile(dynamic=True)
            if model.config.block_lengths:  # an attention block serves every number of cached tokens
                dynamic = True if block.attends else None
                block.forward_blocks = torch.compile(block.forward_blocks, dynamic=dynamic, options={**OPTIONS})
        model._embed = torch.compile(model._embed, dynamic=True)  # else some thirty small launches
        model.time_embedding.compile(dynamic=True)
        model.final_norm = torch.compile(model.final_norm, dynamic=True)
    return Engine(model)


def cast_matrices(model: Denoiser, dtype: torch.dtype) -> Denoiser:
    """The model itself, its linear layers and its embedding in `dtype`."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.to(dtype)
    return model


class Engine:
    """Called like the denoiser: `engine(ids, sigma, positions)` returns logits."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.config = model.config
        self.head = model.head
        # Of a model of blocks; a pass in place is launched kernel by kernel, for a caller that records it.
        self.empty_cache, self.hidden_in_place, self.levels = model.empty_cache, model.hidden_in_place, model.levels
        self.commit, self.commit_and_denoise = model.commit, model.commit_and_denoise
        self.verify_and_draft = model.verify_and_draft
        self._graphs: dict[tuple[int, ...], tuple[Tensor, Tensor, Callable[[], None], Tensor]] = {}  # by shape

    @torch.inference_mode()
    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits (batch, length, vocab_size), or (chosen, vocab_size) in row-major order, as `Denoiser.forward`."""
        x = self.replay(ids, sigma)
        if positions is not None:
            x = x[positions]
        return self.head(x)[..., : self.config.vocab_size]

    @torch.inference_mode()
    def hidden(self, ids: Tensor, sigma: Tensor) -> Tensor:
        """`Denoiser.hidden`, (batch, length, d_model), launched kernel by kernel: for a caller that records it."""
        return self.model.hidden(ids, sigma)

    @torch.inference_mode()
    def replay(self, ids: Tensor, sigma: Tensor) -> Tensor:
        """As `hidden`, but on CUDA by a graph, recorded at the first call with a shape.

        The next call with the same shape overwrites the returned tensor.
        """
        if not ids.is_cuda:
            return self.hidden(ids, sigma)
        if ids.shape not in self._graphs:
            inputs = ids.clone(), sigma.clone()
            self._graphs[ids.shape] = *inputs, *record(lambda: self.model.hidden(*inputs), ids.device)
        graph_ids, graph_sigma, replay, states = self._graphs[ids.shape]
        graph_ids.copy_(ids)
        graph_sigma.copy_(sigma)
        replay()
        return states

    def clear_cache(self) -> None:
        """Drop the recorded graphs and free the memory of their activations."""
        self._graphs.clear()
