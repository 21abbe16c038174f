"""DiffuApriel: masked diffusion language models with bidirectional Mamba-2 backbones.

The main names can be imported from here. Each is loaded on first use, so `import diffuapriel` is instant.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# OpenMP threads that wait for others sleep soon instead of spinning. When all cores are busy (a browser next to the
# model, say) spinning makes a forward pass a hundred times slower. Must be set before PyTorch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__version__ = "0.2.0"

_HOMES = {
    "ModelConfig": "diffuapriel.config",
    "preset": "diffuapriel.config",
    "Denoiser": "diffuapriel.model.denoiser",
    "get_tokenizer": "diffuapriel.tokenizer",
    "open_corpus": "diffuapriel.data.registry",
    "get_schedule": "diffuapriel.diffusion.schedule",
    "generate": "diffuapriel.sampling.generate",
    "Canvas": "diffuapriel.sampling.canvas",
    "Sampler": "diffuapriel.sampling.sampler",
    "SamplerConfig": "diffuapriel.sampling.config",
    "Trace": "diffuapriel.trace.trace",
    "load_checkpoint": "diffuapriel.checkpoint",
    "PretrainedDenoiser": "diffuapriel.pretrained",
    "pipeline": "diffuapriel.pipelines",
}
__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffuapriel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
