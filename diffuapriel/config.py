"""The configuration of a denoiser, one frozen dataclass, and a table of presets. Imports no PyTorch.

Three architectures share it (arXiv:2511.15927, section 3):

    diffuapriel     bidirectional Mamba-2 in every block, MLP 2x
    diffuapriel-h   one attention block after every `attention_every` Mamba blocks, MLP 2x
    diffutran       bidirectional attention with RoPE in every block, MLP 4x

At equal d_model a Mamba block has about 16 d_model^2 parameters and a Transformer block 12 d_model^2. At every preset
each architecture therefore has its own depth and d_model, and the three match in parameters within 2 %.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from diffuapriel.options import check_fields, option, shown

ARCHITECTURES = ("diffuapriel", "diffuapriel-h", "diffutran")
PLACEMENTS = ("spread", "early", "late")  # of the hybrid's attention blocks
RENAMED = {"width": "d_model"}  # keys of an older config.json: old name -> field
SCHEDULES = (
    "log-linear",
    "cosine",
    "maskgit",
    "polynomial",
    "quadratic",
)  # noise schedules, in diffusion/schedule.py
ESTIMATORS = ("counts", "mdlm")  # of the NELBO, in evaluation/nelbo.py
RENAMED_SCHEDULES = {"squared": "quadratic"}  # old name -> name; still accepted
MAX_PARAMETERS = 10**11
DEFAULT_CHECKPOINT = "tales-diffuapriel"  # the bundled model that is used unless another one is named
WRITERS = ("stories-diffuapriel-small", "stories-diffuapriel")  # have read real English; the better one comes first
TOKENIZER_SIZES = {"gpt2": 50_258, "gpt2-4k": 4_098, "tales-words": 1_018}  # ranks + <|endoftext|> + [MASK]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a `Denoiser`. In the papers `d_model` is D, `d_state` N and `headdim` P.

    Raises ValueError, naming the field, its value and what is permitted, for a shape that cannot be built.
    """

    architecture: str = option(dataclasses.MISSING, choices=ARCHITECTURES)
    d_model: int = option(dataclasses.MISSING, least=1, most=65_536)
    depth: int = option(dataclasses.MISSING, least=1, most=1_000)
    vocab_size: int = option(TOKENIZER_SIZES["gpt2"], least=1, most=2**20)  # with both special tokens, before padding
    tokenizer: str = option("gpt2", choices=tuple(TOKENIZER_SIZES))
    context_length: int = option(1024, least=1, most=2**20)
    d_state: int = option(128, least=1, most=4_096)
    headdim: int = option(64, least=1, most=4_096)
    n_groups: int = option(1, least=1, most=1_024)
    d_conv: int = option(4, least=1, most=64)
    expand: int = option(2, least=1, most=64)
    attention_every: int = option(5, least=1, most=1_000)  # hybrid: Mamba blocks before each attention block
    attention_placement: str = option("spread", choices=PLACEMENTS)  # "early" and "late" exist for comparison
    attention_headdim: int = option(64, least=1, most=4_096)
    cond_dim: int = option(128, least=1, most=65_536)  # size of the noise-level embedding
    time_conditioning: bool = option(True)
    # A learned vector at the first and the last position of a text. Without it attention cannot tell the positions of
    # a canvas of [MASK]s apart; a scan sees the edges by itself. Configurations written before the field have none.
    edge_embedding: bool = option(False)
    # Block diffusion: the block lengths that the model is trained for, 0 being the whole window. () is a model of full
    # sequences.
    block_lengths: tuple[int, ...] = ()
    # Whether Mamba scans in reverse inside a block. Without it only attention looks ahead, and the parameters of the
    # reverse half, nearly half of a mixer, have no effect; it exists for comparison.
    block_reverse: bool = option(True)
    document_boundaries: bool = option(False)  # packed documents are kept apart; see model/denoiser.py

    def __post_init__(self) -> None:
        try:
            check_fields(self)
        except TypeError as error:
            raise ValueError(str(error)) from None
        object.__setattr__(self, "block_lengths", check_block_lengths(self.block_lengths))
        if self.block_lengths and self.document_boundaries:
            raise ValueError("document_boundaries and block_lengths exclude each other: blocks cross documents")
        if not self.block_reverse and not self.block_lengths:
            raise ValueError("block_reverse is False; that is permitted with block_lengths only")
        if self.vocab_size < 3:
            raise ValueError(f"vocab_size is {self.vocab_size}; it needs one token, <|endoftext|> and [MASK]: 3")
        if self.attention_headdim % 2:
            raise ValueError(f"attention_headdim is {self.attention_headdim}; RoPE rotates pairs, so it must be even")
        if "attention" in self.layer_kinds and self.d_model % self.attention_headdim:
            raise ValueError(f"d_model {self.d_model} is not a multiple of attention_headdim {self.attention_headdim}")
        if "mamba" in self.layer_kinds:
            if self.d_inner % self.headdim:
                raise ValueError(f"d_model x expand = {self.d_inner} is not a multiple of headdim {self.headdim}")
            if self.n_heads % self.n_groups:
                raise ValueError(f"{self.n_heads} Mamba heads do not split into n_groups = {self.n_groups}")
        if self.parameters > MAX_PARAMETERS:
            raise ValueError(
                f"d_model {self.d_model} and depth {self.depth} make {self.parameters:,} parameters; "
                f"permitted: up to {MAX_PARAMETERS:,}"
            )

    @property
    def d_inner(self) -> int:
        """Channels of one scan direction."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """Mamba heads of one direction."""
        return self.d_inner // self.headdim

    @property
    def mlp_ratio(self) -> int:
        """Hidden width of the MLP over d_model."""
        return 4 if self.architecture == "diffutran" else 2

    @property
    def mask_id(self) -> int:
        """Id of [MASK]: the last of the vocabulary."""
        return self.vocab_size - 1

    @property
    def eos_id(self) -> int:
        """Id of <|endoftext|>: the one before [MASK]."""
        return self.vocab_size - 2

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head: the next multiple of 64."""
        return -(-self.vocab_size // 64) * 64

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """'mamba' or 'attention' for every block, first to last.

        In the hybrid an attention block ends each run of `attention_every` Mamba blocks. Blocks left over after whole
        runs are distributed evenly, so that attention is spread over the depth. A hybrid too shallow for one run has
        one attention block, its last. "early" and "late" put the same number of attention blocks first or last.
        """
        if self.architecture != "diffuapriel-h":
            return ("attention" if self.architecture == "diffutran" else "mamba",) * self.depth
        n_attention = max(1, self.depth // (self.attention_every + 1))
        attends = {
            "spread": {(i + 1) * self.depth // n_attention - 1 for i in range(n_attention)},
            "early": set(range(n_attention)),
            "late": set(range(self.depth - n_attention, self.depth)),
        }[self.attention_placement]
        return tuple("attention" if i in attends else "mamba" for i in range(self.depth))

    @property
    def parameters(self) -> int:
        """Number of parameters, embeddings included, by arithmetic."""
        d, d_inner, cond = self.d_model, self.d_inner, self.cond_dim
        channels = d_inner + 2 * self.n_groups * self.d_state  # of the short convolution of one direction
        in_proj = d * (d_inner + channels + self.n_heads)
        mamba = 2 * (in_proj + (self.d_conv + 1) * channels + 3 * self.n_heads + d_inner + d_inner * d)
        attention = 4 * d * d + 2 * self.attention_headdim
        attends = self.layer_kinds.count("attention")
        mixers = attends * attention + (self.depth - attends) * mamba
        mlps = self.depth * 2 * self.mlp_ratio * d * d
        norms = (2 * self.depth + 1) * d
        conditioning = (256 + 1) * cond + (cond + 1) * (cond + (6 * self.depth + 2) * d)  # from 256 sinusoids
        embeddings = 2 * (self.padded_vocab_size + self.edge_embedding) * d  # with head and edges
        return embeddings + mixers + mlps + norms + conditioning

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`. Raises ValueError, naming every unknown or missing field."""
        if not isinstance(values, dict):
            raise ValueError(f"a model configuration is a JSON object, not {type(values).__name__}")
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        missing = sorted(n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values)
        if unknown or missing:
            raise ValueError(f"model configuration: unknown fields {shown(unknown)}, missing fields {missing}")
        return cls(**values)


def check_block_lengths(values: Any) -> tuple[int, ...]:
    """The block lengths as a tuple. Raises ValueError unless they are different whole numbers, 0 or more."""
    plain = isinstance(values, tuple | list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not plain or len(set(values)) < len(values) or any(not 0 <= value <= 2**20 for value in values):
        raise ValueError(
            f"block_lengths is {shown(values)}; permitted: different whole numbers, 0 (the whole window) to 1,048,576"
        )
    return tuple(values)


_LAPTOP: dict[str, Any] = {"tokenizer": "gpt2-4k", "d_state": 64, "headdim": 32}
_LARGE: dict[str, Any] = {"attention_headdim": 128}
_NANO: dict[str, Any] = {**_LAPTOP, "attention_headdim": 16, "cond_dim": 64}

# preset: (fields shared by all architectures, architecture: (d_model, depth)); `diffuapriel params` counts them
PRESETS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, int]]]] = {
    "nano": (
        _NANO,
        {"diffuapriel": (128, 4), "diffuapriel-h": (112, 6), "diffutran": (112, 8)},
    ),
    "tiny": (
        {**_LAPTOP, "attention_headdim": 32, "cond_dim": 32},
        {"diffuapriel": (160, 11), "diffuapriel-h": (160, 12), "diffutran": (160, 16)},
    ),
    "small": ({}, {"diffuapriel": (384, 11), "diffuapriel-h": (384, 12), "diffutran": (384, 15)}),
    "240m": ({}, {"diffuapriel": (768, 16), "diffuapriel-h": (896, 12), "diffutran": (768, 22)}),
    "0.5b": (_LARGE, {"diffuapriel": (1024, 22), "diffuapriel-h": (1024, 24), "diffutran": (1024, 30)}),
    "1.3b": (_LARGE, {"diffuapriel": (2048, 16), "diffuapriel-h": (1920, 20), "diffutran": (1920, 25)}),
}
# With the 1,018 tokens of tales-words the embedding is so small that other shapes match.
WORD_PRESETS = {
    "nano": ({**_NANO, "cond_dim": 48}, {"diffuapriel": (96, 6), "diffuapriel-h": (112, 5), "diffutran": (96, 9)}),
    "small": ({"cond_dim": 192}, PRESETS["small"][1]),
}


def default_tokenizer(corpus: str, preset: str) -> str:
    """The tokenizer of a model of `corpus`: whole words for the tales, else the preset's."""
    if corpus.partition(":")[0] == "tales":
        return "tales-words"
    return PRESETS[preset][0].get("tokenizer", "gpt2")


def preset(name: str, architecture: str, **overrides: Any) -> ModelConfig:
    """The configuration of preset `name` for `architecture`; `overrides` replace single fields.

    Raises ValueError for an unknown preset, architecture or field.
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}; permitted: {', '.join(PRESETS)}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {architecture!r}; permitted: {', '.join(ARCHITECTURES)}")
    presets = {**PRESETS, **WORD_PRESETS} if overrides.get("tokenizer") == "tales-words" else PRESETS
    shared, shapes = presets[name]
    d_model, depth = shapes[architecture]
    fields = {"architecture": architecture, "d_model": d_model, "depth": depth, "edge_embedding": True, **shared}
    fields |= overrides
    fields.setdefault("vocab_size", TOKENIZER_SIZES.get(fields.get("tokenizer", "gpt2"), 0))
    return ModelConfig.from_dict(fields)
