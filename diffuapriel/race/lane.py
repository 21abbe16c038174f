"""A lane of the race: one denoiser, and everything about it that a fair result must state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffuapriel.config import ModelConfig, preset
from diffuapriel.text.tokenizer import Tokenizer, get_tokenizer

if TYPE_CHECKING:
    from diffuapriel.model.denoiser import Denoiser

# ids (1, length) int64, sigma (1,) float32, positions (1, length) bool -> logits (chosen, vocab)
DenoiserFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lane:
    """What races. Make one with `Lane.of_model`, `Lane.from_checkpoint` or `Lane.random`."""

    name: str
    denoiser: DenoiserFunction = field(repr=False)
    tokenizer: Tokenizer
    architecture: str
    parameters: int
    weight_bytes: int = 0
    weights: str = "trained"  # "trained" or "random"
    dtype: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    attention: str = "none"  # which attention kernel runs, in words
    config: ModelConfig | None = None  # None for a denoiser that is not one of ours

    @classmethod
    def of_model(cls, name: str, model: Denoiser, tokenizer: Tokenizer, *, weights: str = "trained") -> Lane:
        """The lane of a loaded model, on the device where its parameters are."""
        first = next(model.parameters())
        return cls(
            name=name,
            denoiser=model,
            tokenizer=tokenizer,
            architecture=model.config.architecture,
            parameters=sum(p.numel() for p in model.parameters()),
            weight_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
            weights=weights,
            dtype=str(first.dtype).removeprefix("torch."),
            device=first.device,
            attention=attention_kernel(model.config, first.device, first.dtype),
            config=model.config,
        )

    @classmethod
    def from_checkpoint(cls, name_or_path: str, *, device: str = "cpu", name: str | None = None) -> Lane:
        """The lane of a bundled checkpoint or of a checkpoint folder."""
        from diffuapriel.checkpoint import load_checkpoint

        model, tokenizer = load_checkpoint(name_or_path, device=device)
        return cls.of_model(name or str(name_or_path), model.eval(), tokenizer)

    @classmethod
    def random(cls, preset_name: str, architecture: str, *, device: str = "cpu", seed: int = 0) -> Lane:
        """The lane of an untrained preset: it writes nonsense at the speed of a trained one."""
        from diffuapriel.model.denoiser import Denoiser

        config = preset(preset_name, architecture)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            model = Denoiser(config).eval()
        name = f"{architecture} {preset_name}, random weights"
        return cls.of_model(name, model, get_tokenizer(config.tokenizer), weights="random")


def attention_kernel(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Which kernel `scaled_dot_product_attention` picks for this model's heads, or 'none' without attention."""
    if "attention" not in config.layer_kinds:
        return "none"
    query = torch.empty(
        1, config.width // config.attention_headdim, 16, config.attention_headdim, device=device, dtype=dtype
    )
    with torch.inference_mode():
        choice = torch._fused_sdp_choice(query, query, query)
    return torch.nn.attention.SDPBackend(choice).name.lower().replace("_", " ")


def distinct_names(lanes: list[Lane]) -> list[str]:
    """The lanes' names, with (2), (3) behind a name that comes again: a model may race itself."""
    names: list[str] = []
    for lane in lanes:
        same = sum(other.name == lane.name for other in lanes[: len(names)])
        names.append(f"{lane.name} ({same + 1})" if same else lane.name)
    return names
