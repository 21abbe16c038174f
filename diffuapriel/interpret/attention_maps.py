"""Attention maps: softmax(q k^T / sqrt(headdim)), one map per head.

The fused kernels never materialize this matrix. The queries and keys are therefore intercepted at the model's own call
of `scaled_dot_product_attention`, and the map is computed here, for one layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffuapriel.model.denoiser import Denoiser


def attention_layers(denoiser: Denoiser) -> list[int]:
    """Indices of the attention layers."""
    return [layer for layer, kind in enumerate(denoiser.config.layer_kinds) if kind == "attention"]


@torch.no_grad()
def attention_map(denoiser: Denoiser, ids: Tensor, sigma: float, layer: int) -> Tensor:
    """(heads, length, length) on `ids` (length,): row i holds the weights of position i and sums to one.

    Raises ValueError for a layer that has no attention.
    """
    layers = attention_layers(denoiser)
    if layer not in layers:
        known = ", ".join(map(str, layers)) or "none"
        raise ValueError(f"layer {layer} has no attention; attention layers of this model: {known}")
    with _Listener(layers.index(layer)) as listener:
        denoiser.hidden(ids[None], torch.tensor([sigma], device=ids.device))
    assert listener.map is not None, "every attention layer calls scaled_dot_product_attention"
    return listener.map.cpu()


class _Listener(TorchFunctionMode):
    """Computes the map of the `number`-th call of attention; changes no call."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.calls = number, 0
        self.map: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            if self.calls == self.number:
                q, k = args[0][0].float(), args[1][0].float()  # (heads, length, headdim)
                scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
                mask = (kwargs or {}).get("attn_mask")  # (1, 1, length, length), where documents are kept apart
                self.map = torch.softmax(scores if mask is None else scores.where(mask[0], -torch.inf), dim=-1)
            self.calls += 1
        return func(*args, **(kwargs or {}))
