"""Small denoisers whose behavior is known exactly, for the tests of sampling."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.config import ADAPTIVE, STRATEGIES

# Every strategy, and the options that change how one of them selects positions.
VARIANTS = [
    *((strategy, {}) for strategy in STRATEGIES),
    *((strategy, {"confidence": "drawn", "threshold": 0.3}) for strategy in ("low_confidence", "threshold", "factor")),
    *((strategy, {"alg_temp": 0.3}) for strategy in ("low_confidence", "entropy", "margin")),
    ("low_confidence", {"confidence": "drawn", "alg_temp": 0.3}),
    *((strategy, {"threshold": 0.9, "remask_below": 0.6}) for strategy in ADAPTIVE),
    ("remdm", {"remask_cap": 0.9}),
    ("remdm_rescale", {"remask_rescale": 0.9}),
    ("remdm_loop", {"remask_cap": 0.9, "t_on": 0.8, "alpha_on": 0.5}),
]


def block_model(
    architecture: str, vocab_size: int = 12, block_lengths: tuple[int, ...] = (1, 4, 0), **changes
) -> Denoiser:
    """A small model of blocks in float64 with weights drawn at random, also those that begin as 0."""
    torch.manual_seed(0)
    shape = {"d_model": 16, "depth": 2, "d_state": 4, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    fields = {"block_lengths": block_lengths, "time_conditioning": False, "edge_embedding": True, **shape, **changes}
    model = Denoiser(ModelConfig(architecture, vocab_size=vocab_size, **fields))
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return model.double().eval()


class Letters:
    """A tokenizer of single letters: 'a' is 0, 'b' is 1, ...; then <|endoftext|>, then [MASK]."""

    name = "letters"

    def __init__(self, letters: int = 6) -> None:
        self.eos_id, self.mask_id, self.vocab_size = letters, letters + 1, letters + 2

    def encode(self, text: str) -> list[int]:
        return [ord(c) - ord("a") for c in text]

    def token_strings(self, ids) -> list[str]:
        special = {self.eos_id: "<|endoftext|>", self.mask_id: "[MASK]"}
        return [special.get(i) or chr(ord("a") + i) for i in ids]

    def decode(self, ids) -> str:
        return "".join(self.token_strings(ids))


class Recorded:
    """Wraps a function (ids) -> (batch, length, vocabulary) into a denoiser; remembers what it was asked."""

    def __init__(self, logits_of) -> None:
        self.logits_of = logits_of
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        self.asked.append((ids.clone(), sigma.clone(), positions.clone()))
        return self.logits_of(ids)[positions]


def fixed_logits(length: int, vocab_size: int, seed: int = 0, scale: float = 3.0) -> Recorded:
    """Every position has one distribution, whatever the rest of the canvas says."""
    table = torch.randn(length, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale
    return Recorded(lambda ids: table.expand(len(ids), -1, -1))


def contextual(length: int, vocab_size: int, seed: int = 0) -> Recorded:
    """The logits at a position depend on all tokens of the row and on nothing else (bit for bit)."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(vocab_size, length, length, vocab_size, generator=generator, dtype=torch.float64)

    def logits_of(ids: Tensor) -> Tensor:
        rows = [sum(table[int(token), p] for p, token in enumerate(row)) for row in ids]
        return torch.stack(rows)

    return Recorded(logits_of)


class Exact:
    """The exact denoiser of a distribution over sequences, given as a tensor `joint` (tokens,) * positions."""

    def __init__(self, joint: Tensor) -> None:
        self.tokens, self.positions = joint.shape[0], joint.dim()
        self.mask_id = self.tokens
        self.joint = (joint / joint.sum()).double().flatten()
        self.sequences = torch.tensor(list(itertools.product(range(self.tokens), repeat=self.positions)))
        self.one_hot = torch.nn.functional.one_hot(self.sequences, self.tokens).double()  # (sequences, L, tokens)

    def marginals(self, ids: Tensor) -> Tensor:
        """(batch, L, tokens): p(x_l = v | the visible tokens)."""
        fits = ((ids[:, None] == self.sequences) | (ids[:, None] == self.mask_id)).all(-1)  # (batch, sequences)
        posterior = fits * self.joint
        posterior = posterior / posterior.sum(-1, keepdim=True)
        return torch.einsum("bs,slv->blv", posterior, self.one_hot)

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        log_p = self.marginals(ids).log()
        # A large logit for [MASK], as an untrained column could have: SUBS must discard it.
        return torch.cat([log_p, torch.full_like(log_p[..., :1], 7.0)], -1)[positions]

    def counts(self, ids: Tensor) -> Tensor:
        """How often each sequence (in the order of `joint`) occurs in ids (batch, L)."""
        code = torch.zeros(len(ids), dtype=torch.int64)
        for column in ids.T:
            code = code * self.tokens + column
        return torch.bincount(code, minlength=len(self.joint))


def random_joint(tokens: int, positions: int, seed: int) -> Tensor:
    """A strongly dependent distribution in which every sequence is possible."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((tokens,) * positions, generator=generator, dtype=torch.float64) ** 3 + 0.02


def untimed(frames) -> list:
    """Frames without their clock times, to be compared."""
    import dataclasses

    return [dataclasses.replace(f, ms=0.0, denoiser_ms=0.0) for f in frames]
