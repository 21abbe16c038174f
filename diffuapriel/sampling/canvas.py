"""A canvas: token ids, and which of them are fixed.

A prompt, a suffix, a text with holes and an empty text are the same object: a row of tokens, some of them [MASK] and
the others given. A sampler replaces every [MASK] and never changes a fixed token.

    Canvas.from_text("Mia found a [MASK:8].", tokenizer)          eight holes inside a sentence
    Canvas.from_text("Mia found", tokenizer, length=64)           a prompt; the rest of 64 tokens is masked
    Canvas.masks(64, tokenizer)                                   nothing given
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffuapriel.tokenizer import Tokenizer

MAX_LENGTH = 65_536  # tokens of a text that somebody asks for; the longest sequence of the paper's speed figures

# In lower case only with a number: x[mask] is an index in Python.
_HOLE = re.compile(r"_{3,}|\[MASK(?:\]|:([^\]\n]*)(\])?)|\[(?i:mask):([0-9]+)(\])")


@dataclass(frozen=True, eq=False)
class Canvas:
    """The start of a generation.

    Attributes:
        ids: (length,) int64, each in [0, mask_id], of any length from 1; `from_text` and `masks` make at most 65,536.
        fixed: (length,) bool; True where a token must never change. A [MASK] cannot be fixed. A token that is neither
            [MASK] nor fixed counts as revealed earlier: only ReMDM's strategies may change it.
        mask_id: id of [MASK], the last of the vocabulary.

    The canvas copies the tensors. Raises TypeError for a wrong type, ValueError for a wrong shape, dtype or value.
    """

    ids: Tensor
    fixed: Tensor
    mask_id: int

    def __post_init__(self) -> None:
        if not isinstance(self.ids, Tensor) or not isinstance(self.fixed, Tensor):
            raise TypeError("canvas: ids and fixed must be tensors; Canvas.from_text makes them from a string")
        if self.ids.dtype != torch.int64 or self.ids.dim() != 1:
            raise ValueError(
                f"canvas: ids have shape {tuple(self.ids.shape)} and dtype {self.ids.dtype}; "
                "they must be (length,) and torch.int64"
            )
        if not self.ids.numel():
            raise ValueError("canvas: ids are empty; a canvas has 1 token or more")
        if self.fixed.dtype != torch.bool or self.fixed.shape != self.ids.shape:
            raise ValueError(
                f"canvas: fixed has shape {tuple(self.fixed.shape)} and dtype {self.fixed.dtype}; "
                f"it must be {tuple(self.ids.shape)} and torch.bool"
            )
        if isinstance(self.mask_id, bool) or not isinstance(self.mask_id, int) or self.mask_id < 1:
            raise ValueError(f"canvas: mask_id is {self.mask_id!r}; it must be a whole number, 1 or more")
        low, high = int(self.ids.min()), int(self.ids.max())
        if low < 0 or high > self.mask_id:
            raise ValueError(f"canvas: ids run from {low} to {high}; permitted: 0 to {self.mask_id}, which is [MASK]")
        if (self.fixed & (self.ids == self.mask_id)).any():
            raise ValueError("canvas: a [MASK] is marked as fixed and could never be filled; set fixed to False there")
        object.__setattr__(self, "ids", self.ids.detach().clone())
        object.__setattr__(self, "fixed", self.fixed.detach().to(self.ids.device).clone())

    @classmethod
    def from_text(cls, text: str, tokenizer: Tokenizer, length: int | None = None) -> Canvas:
        """Parse `text`: "[MASK]" is one hole, "[MASK:8]" eight in a row, "___" three, and everything else is fixed.

        Three underscores or more are as many holes, and "[mask:8]" is eight, too. With `length`, [MASK]s fill the end
        up to this number of tokens. The pieces between holes are tokenized separately; a space before a hole belongs
        to the hole, because a GPT-2 token includes its leading space.
        Raises ValueError for a malformed hole, an empty canvas and a text that does not fit.
        """
        if not isinstance(text, str):
            raise TypeError(f"canvas: the text must be a string, not {type(text).__name__}")
        limit = MAX_LENGTH if length is None else check_length(length)
        ids: list[int] = []
        end = 0
        for hole in _HOLE.finditer(text):
            ids += tokenizer.encode(text[end : hole.start()].removesuffix(" "))
            ids += [tokenizer.mask_id] * _hole_size(hole)
            end = hole.end()
            _check_fits(len(ids), limit, length)
        ids += tokenizer.encode(text[end:])
        _check_fits(len(ids), limit, length)
        ids += [tokenizer.mask_id] * ((length or 0) - len(ids))
        if not ids:
            raise ValueError('canvas: the text is empty; write something, or "[MASK:16]", or give a length')
        tensor = torch.tensor(ids, dtype=torch.int64)
        return cls(tensor, tensor != tokenizer.mask_id, tokenizer.mask_id)

    @classmethod
    def masks(cls, length: int, tokenizer: Tokenizer) -> Canvas:
        """A canvas of `length` [MASK]s. Raises ValueError outside 1 to 65,536."""
        ids = torch.full((check_length(length),), tokenizer.mask_id, dtype=torch.int64)
        return cls(ids, torch.zeros_like(ids, dtype=torch.bool), tokenizer.mask_id)

    @property
    def masked(self) -> Tensor:
        """(length,) bool: the masked positions."""
        return self.ids == self.mask_id

    def __len__(self) -> int:
        return self.ids.numel()

    def text(self, tokenizer: Tokenizer) -> str:
        """The canvas as text, with "[MASK]" for a hole. Raises ValueError if `tokenizer` has another [MASK]."""
        if tokenizer.mask_id != self.mask_id:
            raise ValueError(
                f"canvas: [MASK] is {self.mask_id} here and {tokenizer.mask_id} in the tokenizer {tokenizer.name!r}; "
                "use the tokenizer that made the canvas"
            )
        return tokenizer.decode(self.ids.tolist())

    def to(self, device: torch.device | str) -> Canvas:
        """The same canvas on `device`."""
        return Canvas(self.ids.to(device), self.fixed.to(device), self.mask_id)


def check_length(length: int) -> int:
    """`length`, if a canvas can have it; otherwise raises TypeError or ValueError with the range."""
    if isinstance(length, bool) or not isinstance(length, int):
        raise TypeError(f"canvas: the length is {length!r}; it must be a whole number from 1 to {MAX_LENGTH:,}")
    if not 1 <= length <= MAX_LENGTH:
        raise ValueError(f"canvas: the length is {length:,} tokens; permitted: 1 to {MAX_LENGTH:,}")
    return length


def _hole_size(hole: re.Match[str]) -> int:
    if hole.group()[0] == "_":
        return len(hole.group())
    if hole.group() == "[MASK]":
        return 1
    count, closed = hole.group(1) or hole.group(3) or "", hole.group(2) or hole.group(4)
    shown = hole.group() if len(hole.group()) <= 40 else hole.group()[:40] + "..."
    if not closed:
        raise ValueError(f'canvas: "{shown}" has no closing bracket; write [MASK] or [MASK:8]')
    # Nine digits hold every permitted size; int() of a very long string is slow.
    if not re.fullmatch(r"[0-9]{1,9}", count) or not 1 <= int(count) <= MAX_LENGTH:
        raise ValueError(
            f'canvas: "{shown}" is not a hole; write [MASK] for one token or [MASK:n] with n from 1 to {MAX_LENGTH:,}'
        )
    return int(count)


def _check_fits(tokens: int, limit: int, length: int | None) -> None:
    if tokens > limit:
        way_out = "shorten the text or raise the length" if length else "shorten the text"
        raise ValueError(f"canvas: the text takes {tokens:,} tokens or more; permitted: 1 to {limit:,}; {way_out}")
