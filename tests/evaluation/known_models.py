"""Denoisers whose likelihoods are known: random ones that can be enumerated, an even one, and one that knows texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

V = 5  # clean tokens of the enumerated language; [MASK] is the next id
MASK = V


class Letters:
    """A tokenizer of a, b, c, d; then <|endoftext|> and [MASK]."""

    name, vocab_size, eos_id, mask_id = "letters", V + 1, V - 1, MASK

    def encode(self, text: str) -> list[int]:
        return ["abcd".index(letter) for letter in text]

    def decode(self, ids) -> str:
        return "".join("abcd"[i] if i < self.eos_id else "<|endoftext|>" for i in ids)


class Lookup:
    """Random logits for every context and position of texts of `length` tokens: no order agrees with another."""

    def __init__(self, length: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn((V + 1) ** length, length, V + 1, generator=generator)
        self.table[..., MASK] = 9.0  # what an untrained column could say: SUBS must discard it
        self.base = (V + 1) ** torch.arange(length)
        self.batches: list[int] = []

    def logits(self, ids: Tensor) -> Tensor:
        """(batch, length, V + 1)"""
        return self.table[(ids * self.base).sum(1)]

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        assert positions is not None
        assert torch.allclose(1 - (-sigma).exp(), positions.float().mean(1).clamp_max(1 - 1e-3), atol=1e-6)
        self.batches.append(len(ids))
        return self.logits(ids)[positions]

    def log_probs(self, ids: Sequence[int]) -> Tensor:
        """(length, V)"""
        return self.logits(torch.tensor([list(ids)]))[0, :, :V].double().log_softmax(-1)

    def cost_over_all_orders(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """Mean cost in nats of revealing the answer one token at a time, over every order."""
        total = 0.0
        orders = list(itertools.permutations(range(len(answer))))
        for order in orders:
            ids = [*prompt, *[MASK] * len(answer)]
            for i in order:
                at = len(prompt) + i
                total -= self.log_probs(ids)[at, answer[i]].item()
                ids[at] = answer[i]
        return total / len(orders)

    def greedy_answer(self, prompt: Sequence[int], length: int) -> tuple[int, ...]:
        """What revealing the surest token first writes after the prompt."""
        ids = [*prompt, *[MASK] * length]
        for _ in range(length):
            log_probs = self.log_probs(ids)
            best = max((i for i, id in enumerate(ids) if id == MASK), key=lambda i: log_probs[i].max())
            ids[best] = int(log_probs[best].argmax())
        return tuple(ids[len(prompt) :])


class Context:
    """Logits that are a random linear function of every token in sight: cheap, and no order agrees with another."""

    def __init__(self, length: int, seed: int = 0, scale: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = scale * torch.randn(length, V + 1, length, V + 1, generator=generator)

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        assert positions is not None and torch.equal(positions, ids == MASK)
        share = positions.double().mean(1).clamp_max(1 - 1e-3)
        torch.testing.assert_close(sigma.double(), -torch.log1p(-share), atol=1e-5, rtol=0)
        seen = torch.nn.functional.one_hot(ids, V + 1).float()  # (rows, length, V + 1)
        return torch.einsum("blv,lvmw->bmw", seen, self.weight)[positions]

    def cost_over_all_orders(self, text: Sequence[int]) -> float:
        """Mean cost in nats of revealing the text one token at a time, over every order, set by set."""
        length = len(text)
        sets = torch.tensor(list(itertools.product((False, True), repeat=length)))[1:]
        ids = torch.tensor(text).expand(len(sets), -1).masked_fill(sets, MASK)
        sigma = -torch.log1p(-sets.double().mean(1).clamp_max(1 - 1e-3))
        log_probs = self(ids, sigma, sets)[:, :V].double().log_softmax(-1)
        nats = torch.zeros(sets.shape, dtype=torch.float64)
        nats[sets] = -log_probs.gather(1, torch.tensor(text).expand(len(sets), -1)[sets][:, None])[:, 0]
        left = {(False,) * length: 0.0}  # cost of the tokens that are still masked
        for held, costs in zip(sets.tolist(), nats.tolist()):  # every set after its subsets
            members = [i for i in range(length) if held[i]]
            after = [left[tuple(h and j != i for j, h in enumerate(held))] for i in members]
            left[tuple(held)] = sum(costs[i] + rest for i, rest in zip(members, after)) / len(members)
        return left[(True,) * length]


def even(vocab_size: int):
    """A denoiser that spreads evenly over the clean tokens."""

    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        assert positions is not None
        return torch.zeros(int(positions.sum()), vocab_size)

    return denoise


class Knows:
    """Gives the known texts that fit what is not masked nearly all of the probability, as equals.

    A text may be followed by <|endoftext|>s. `wrong` shifts every answer by one id: then none is ever right.
    """

    def __init__(self, texts: Sequence[str], tokenizer, *, wrong: bool = False) -> None:
        self.texts, self.tokenizer, self.wrong = [tokenizer.encode(text) for text in texts], tokenizer, wrong

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor | None = None) -> Tensor:
        assert positions is not None
        logits = torch.zeros(*ids.shape, self.tokenizer.vocab_size)
        for row, found in zip(ids, logits):
            for text in self.texts:
                known = torch.tensor([*text, *[self.tokenizer.eos_id] * (len(row) - len(text))])
                if len(known) == len(row) and bool(((row == known) | (row == self.tokenizer.mask_id)).all()):
                    found[torch.arange(len(row)), (known + self.wrong) % self.tokenizer.mask_id] = 30.0
        return logits[positions]
