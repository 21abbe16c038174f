"""A denoiser made ready for speed on a GPU, by one treatment for all three architectures.

    * linear layers and the embedding in bfloat16; norms, convolutions, decay rates and step sizes stay as they are
    * the weight of a mixer's norm moved into the product after it: the same function
    * every block and the final norm compiled: norm and modulation become one kernel, so do gate, residual and what
      follows them
    * the forward pass recorded once for each shape as a CUDA graph and replayed: one launch instead of hundreds

Blocks are compiled one by one, for any batch and length: those of a kind share their code, so a model costs two
compilations at most. On a CPU nothing is recorded, and compiling is left to the caller: it takes longer there than
most generations do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.mamba2 import BidirectionalMamba2

WARM_UPS = 3  # runs before a recording: compilation, kernel choice and workspaces belong before it


def compile_denoiser(model: Denoiser, *, dtype: torch.dtype | None = torch.bfloat16) -> Engine:
    """`model` itself, in evaluation mode, matrices in `dtype` (None leaves them), blocks compiled on a CUDA device."""
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, BidirectionalMamba2):
            module.fold_norm()
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.to(dtype)
    if next(model.parameters()).is_cuda:
        for block in model.blocks:
            block.compile(dynamic=True)
        model.read = torch.compile(model.read, dynamic=True)
    return Engine(model)


class Engine:
    """Called as the denoiser is: `engine(ids, sigma, positions)` gives logits."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.config = model.config
        self.head = model.head
        self._recordings: dict[tuple[int, int], Recording] = {}

    @torch.inference_mode()
    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits (batch, length, vocab_size), or (chosen, vocab_size) in row-major order, as `Denoiser.forward`."""
        x = self.replay(ids, sigma)
        if positions is not None:
            x = x[positions]
        return self.head(x)[..., : self.config.vocab_size]

    @torch.inference_mode()
    def hidden(self, ids: Tensor, sigma: Tensor) -> Tensor:
        """(batch, length, d_model), as `Denoiser.hidden`, launched kernel by kernel: for a caller who records."""
        return self.model.hidden(ids, sigma)

    @torch.inference_mode()
    def replay(self, ids: Tensor, sigma: Tensor) -> Tensor:
        """What `hidden` gives; on CUDA recorded at a shape's first call, and overwritten by the shape's next call."""
        if not ids.is_cuda:
            return self.hidden(ids, sigma)
        shape = (ids.shape[0], ids.shape[1])
        if shape not in self._recordings:
            self._recordings[shape] = Recording(self.model, ids, sigma)
        return self._recordings[shape].replay(ids, sigma)

    def forget(self) -> None:
        """Drop the recorded graphs, and with them the memory that each keeps for its activations."""
        self._recordings.clear()


class Recording:
    """`model.hidden` for one shape, as a CUDA graph over tensors that stay where they are."""

    def __init__(self, model: Denoiser, ids: Tensor, sigma: Tensor) -> None:
        self.ids, self.sigma = ids.clone(), sigma.clone()
        side = torch.cuda.Stream(ids.device)
        side.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                model.hidden(self.ids, self.sigma)
        torch.cuda.current_stream(ids.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.states = model.hidden(self.ids, self.sigma)

    def replay(self, ids: Tensor, sigma: Tensor) -> Tensor:
        """The states of these inputs; the tensor that is returned is the graph's own."""
        self.ids.copy_(ids)
        self.sigma.copy_(sigma)
        self.graph.replay()
        return self.states
