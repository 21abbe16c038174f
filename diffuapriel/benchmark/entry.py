"""A measured model: one denoiser, and everything about it that a fair result must state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffuapriel.benchmark.memory import estimate_bytes
from diffuapriel.checkpoint import checkpoint_name, inspect_checkpoint, load_checkpoint
from diffuapriel.config import ModelConfig, preset
from diffuapriel.device import resolve_device
from diffuapriel.model.attention import FASTEST_FIRST
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.engine import cast_matrices, compile_denoiser
from diffuapriel.ops import flash_attention
from diffuapriel.ops.ssd import choose_backend
from diffuapriel.sampling import generate
from diffuapriel.sampling.config import resolve_blocks, resolve_options
from diffuapriel.sampling.sampler import DenoiserFunction
from diffuapriel.tokenizer import Tokenizer, get_tokenizer

DTYPES = ("float32", "bfloat16")  # of the matrices


@dataclass(frozen=True)
class Entry:
    """A model to be measured. Make one with `Entry.of_model`, `Entry.from_checkpoint` or `Entry.random`."""

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
    scan: str = "none"  # which backend of the scan
    config: ModelConfig | None = None  # None for a denoiser of another package
    form: str = "plain PyTorch"  # how the denoiser runs, in words
    block_length: int | None = None  # that a model of blocks races at (`in_blocks`); 0: the whole canvas at once
    generation: Mapping[str, Any] = field(default_factory=dict)  # the rule that its checkpoint records, or {}
    rule: dict[str, Any] | None = None  # options of the sampler that it races with instead of the race's

    @classmethod
    def of_model(cls, name: str, model: Denoiser, tokenizer: Tokenizer, *, weights: str = "trained") -> Entry:
        """The entry of a loaded model, on the device where its parameters are."""
        config, first = model.config, next(model.parameters())
        parameters = sum(p.numel() for p in model.parameters())
        facts = {"weights": weights, "config": config, **_in_dtype(model, first.device, first.dtype)}
        return cls(name, model, tokenizer, config.architecture, parameters, **facts)

    @classmethod
    def from_checkpoint(cls, name_or_path: str, *, device: str = "cpu", name: str | None = None) -> Entry:
        """The entry of a checkpoint, named as `checkpoint_name` says; raises as `load_checkpoint` does."""
        resolve_device(device)
        model, tokenizer = load_checkpoint(name_or_path, device=device)
        entry = cls.of_model(name or checkpoint_name(name_or_path), model.eval(), tokenizer)
        return replace(entry, generation=inspect_checkpoint(name_or_path).generation)

    @classmethod
    def random(cls, preset_name: str, architecture: str, *, device: str = "cpu", seed: int = 0) -> Entry:
        """The entry of an untrained preset: it writes nonsense at the speed of a trained one."""
        config = preset(preset_name, architecture)
        resolve_device(device)
        model, tokenizer = random_denoiser(config, device=device, seed=seed), get_tokenizer(config.tokenizer)
        return cls.of_model(f"{architecture} {preset_name}, random weights", model, tokenizer, weights="random")

    def in_blocks(self, block_length: int | None = None) -> Entry:
        """This entry of a model of blocks as it races: with its context cache, in blocks of so many tokens.

        block_length: 1 is autoregressive; 0 is the whole canvas at once, without a cache; None the model's default. The
        entry's name says it. Raises ValueError for a model that was not trained at this block length.
        """
        known = self.config.block_lengths if self.config else ()
        if not known:
            raise ValueError(f"{self.name} is not a model of blocks; it has no block length of its own")
        size = resolve_blocks("", block_length, known=known)["block_length"] or 0
        name = self.name if self.block_length is None else self.name.removesuffix(block_suffix(self.block_length))
        return replace(self, name=name + block_suffix(size), block_length=size)

    def with_own_rule(self) -> Entry:
        """This entry as it races by the rule that its checkpoint records; without a record, by that of the race.

        All fill the whole canvas, also where the rule was measured on texts that stop.
        """
        if not self.generation:
            return self
        known = self.config.block_lengths if self.config else ()
        rule = resolve_options(self.generation, known)
        rule.pop("stop_at_eos", None)
        return replace(self, rule=rule, block_length=(rule["block_length"] or 0) if known else None)

    def tuned(self, dtype: str | None = None) -> Entry:
        """This entry in the fastest form for its device: on CUDA a copy of its model in the engine (model/engine.py).

        dtype: "float32" or "bfloat16", of the matrices; None means bfloat16 on CUDA and float32 elsewhere. Blocks are
        compiled at the first call, in the warm-up of a race or sweep. One with a context cache is cast, not compiled:
        the engine records passes of one shape over whole canvases. Raises ValueError for another dtype, and for
        an entry whose denoiser is not a `Denoiser`.
        """
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; permitted: {', '.join(DTYPES)}")
        on_gpu = self.device.type == "cuda"
        dtype = dtype or (DTYPES[1] if on_gpu else DTYPES[0])
        if not on_gpu and dtype == self.dtype:
            return self
        if not isinstance(self.denoiser, Denoiser):
            raise ValueError(f"{self.name} is not a Denoiser of this package; only those can be tuned")
        if self.block_length:
            model = cast_matrices(copy.deepcopy(self.denoiser), getattr(torch, dtype))
            return replace(self, denoiser=model, **_in_dtype(model, self.device, getattr(torch, dtype)))
        engine = compile_denoiser(copy.deepcopy(self.denoiser), dtype=getattr(torch, dtype))
        form = "compiled blocks, one CUDA graph per shape" if on_gpu else self.form
        facts = _in_dtype(engine.model, self.device, getattr(torch, dtype))
        return replace(self, denoiser=engine, form=form, **facts)

    def needed_bytes(self, length: int, batch: int = 1) -> int:
        """Bytes that one call needs beside the weights, by arithmetic; 0 for a denoiser of another package."""
        size = 2 if self.dtype in ("bfloat16", "float16") else 4
        if not self.config:
            return 0
        kept = 0
        if self.block_length:  # keys and values, and their copy while a block is added
            kept = 4 * self.config.layer_kinds.count("attention") * self.config.d_model * length * batch * size
            length = min(length, 2 * self.block_length)
        return kept + estimate_bytes(self.config, length, batch=batch, bytes_per_value=size)

    def clear_cache(self) -> None:
        """Release the memory that an engine and a recorded generation keep; a plain model on a CPU keeps none."""
        if isinstance(self.denoiser, generate.DeviceDenoiser):
            generate.clear_cache(self.denoiser)
        if clear := getattr(self.denoiser, "clear_cache", None):
            clear()


def _in_dtype(model: Denoiser, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of an entry that depend on where and in which dtype its model computes."""
    return {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "weight_bytes": count_bytes(model),
        "attention": attention_kernel(model.config, device, dtype),
        "scan": scan_backend(model.config, device, dtype),
    }


def block_suffix(block_length: int) -> str:
    """How the name of an entry ends that races in blocks: ', block length 16'."""
    note = {0: " (whole canvas)", 1: " (autoregressive)"}.get(block_length, "")
    return f", block length {block_length}{note}"


def count_bytes(model: Denoiser) -> int:
    """Bytes of the model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def random_denoiser(config: ModelConfig, *, device: torch.device | str = "cpu", seed: int = 0) -> Denoiser:
    """An untrained model that computes as a trained one does: AdaLN, which training starts at zero, is random too.

    With zero gates no block would have an effect, and a GPU multiplies zeros faster than data.
    """
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        model = Denoiser(config).eval()
        torch.nn.init.normal_(model.modulation.linear.weight, std=0.02)
        torch.nn.init.normal_(model.modulation.linear.bias, std=0.2)
    return model


def half_masked(
    vocabulary: ModelConfig | Tokenizer, length: int, batch: int, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """ids (batch, length), sigma (batch,), positions (batch, length): random tokens, every second one masked.

    The tokens are drawn from a seed that depends on the length alone: all entries get the same.
    """
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(vocabulary.eos_id, (batch, length), generator=generator)
    positions = torch.zeros(batch, length, dtype=torch.bool)
    positions[:, ::2] = True
    ids[positions] = vocabulary.mask_id
    sigma = torch.full((batch,), math.log(2.0))  # half of the tokens are masked
    return ids.to(device), sigma.to(device), positions.to(device)


def attention_kernel(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that attention runs with this model's heads; 'none' without attention."""
    if "attention" not in config.layer_kinds:
        return "none"
    heads, headdim = config.d_model // config.attention_headdim, config.attention_headdim
    query = torch.empty(1, heads, config.context_length, headdim, device=device, dtype=dtype)
    if flash_attention.takes(query, None):
        return "flash attention 3"
    order = sdpa_kernel(list(FASTEST_FIRST), set_priority=True) if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), order:
        choice = torch._fused_sdp_choice(query, query, query)
    return SDPBackend(choice).name.lower().replace("_", " ")


def scan_backend(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """The backend of the scan in this model's Mamba blocks; 'none' without any."""
    if "mamba" not in config.layer_kinds:
        return "none"
    probe, packed = torch.empty(0, device=device, dtype=dtype), config.document_boundaries
    return choose_backend("auto", probe, config.headdim, config.d_state, packed=packed)


def check_counts(what: str, entries: Sequence[Entry], **counts: int) -> None:
    """Raises ValueError for no entries at all, and for a count that is not a whole number of 1 or more."""
    if not entries:
        raise ValueError(f"{what} needs at least one entry")
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 or more")


def distinct_names(entries: Sequence[Entry]) -> list[str]:
    """The entries' names, with (2), (3), ... after a repeated one: a model may race itself."""
    names: list[str] = []
    for entry in entries:
        same = sum(other.name == entry.name for other in entries[: len(names)])
        names.append(f"{entry.name} ({same + 1})" if same else entry.name)
    return names
