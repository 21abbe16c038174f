"""Writing without end: each block continues all that was written, and nothing grows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from diffuapriel.config import ARCHITECTURES
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model import Denoiser
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.writer import write_blocks
from tests.sampling.models import block_model

EOS, MASK, S = 10, 11, 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> Denoiser:
    return block_model(request.param, context_length=24)


def sampler(strategy: str = "low_confidence", **options) -> Sampler:
    return Sampler(SamplerConfig(strategy, **{"steps": S, "seed": 3, **options}), get_schedule("log-linear"), MASK)


def written(model: Denoiser, blocks: int, prompt=(), how: Sampler | None = None, **options) -> list:
    return list(itertools.islice(write_blocks(model, how or sampler(), S, prompt, **options), blocks))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_block_is_what_the_model_writes_behind_the_text_so_far(model: Denoiser, strategy: str) -> None:
    """The logits at temperature 0 are those of a canvas that ends with the block. A text ends where padding begins."""
    how = sampler(strategy, temperature=0.0)
    ids: list[int] = []
    for number, block in enumerate(written(model, 5, how=how)):
        state = how.start(Canvas(torch.full((S,), MASK), torch.zeros(S, dtype=torch.bool), MASK), number)
        denoiser = CachedDenoiser(model, S)
        while not how.done(state):
            now = torch.tensor([[*ids, *state.ids[0].tolist()]])
            positions = now == MASK
            state = how.step(state, denoiser(now, torch.zeros(1), positions), how.noise(state))
        assert block.calls == state.nfe[0]
        start, ids = len(ids), ids + state.ids[0].tolist()
        padded = ids[-2:] == [EOS, EOS]
        while ids[-2:] == [EOS, EOS]:
            ids.pop()
        assert block.ids == tuple(ids[start:])
        ids = [] if padded else ids


def test_drafts_change_the_number_of_calls_and_not_the_text(model: Denoiser) -> None:
    """Drafts of one token are one token per pass; what is verified is committed, across blocks and new texts."""
    how = {"temperature": 0.4, "block_length": 1}
    plain, drafted = (
        written(model, 6, (1, 2, 3), sampler("speculative", **{**how, "block_length": n})) for n in (1, S)
    )
    assert [block.ids for block in drafted] == [block.ids for block in plain]
    assert all(a.calls <= b.calls == len(b.ids) - b.given for a, b in zip(drafted, plain) if EOS not in b.ids)
    assert sum(block.calls for block in drafted) < sum(block.calls for block in plain)
    several = written(model, 6, (1, 2, 3), sampler("speculative", **{**how, "block_length": S}, drafts=3))
    assert [block.ids for block in several] == [block.ids for block in plain]


def test_every_call_denoises_and_each_block_has_noise_of_its_own(model: Denoiser) -> None:
    how = sampler(temperature=9.0)
    blocks = written(model, 6, how=how)
    assert [block.calls for block in blocks] == [S] * 6
    assert len({block.ids for block in blocks}) > 1
    assert blocks == written(model, 6, how=how) != written(model, 6, how=how, first_row=1)


@pytest.mark.parametrize("length", [0, 1, 4, 10])
def test_a_prompt_is_continued_within_its_last_block(model: Denoiser, length: int) -> None:
    prompt = [n % 10 for n in range(length)]
    first, second = written(model, 2, prompt)
    assert first.given == length % S and list(first.ids[: first.given]) == prompt[length - length % S :]
    assert first.calls == S - first.given and second.given == 0


@pytest.mark.parametrize("window", [None, 8, 11, 1])
def test_the_cache_has_a_constant_size(model: Denoiser, window: int | None) -> None:
    sizes = [block.cache_bytes for block in written(model, 40, window=window)]
    assert len(set(sizes[10:])) == 1
    if model.config.architecture == "diffuapriel":
        assert len(set(sizes)) == 1
    else:
        tokens = {None: 24, 8: 8, 11: 8, 1: 4}[window]
        attention = model.config.layer_kinds.count("attention")
        states = sizes[0]
        assert sizes[-1] - states == attention * tokens * 2 * 16 * 8  # keys and values of d_model float64 numbers


def test_a_window_that_holds_the_whole_text_changes_nothing(model: Denoiser) -> None:
    assert [b.ids for b in written(model, 6, window=24)] == [b.ids for b in written(model, 6, window=1000)]


class Padding:
    """A model of texts of six tokens, in windows that <|endoftext|> fills; its cache is the text."""

    config = SimpleNamespace(context_length=64, block_lengths=(1, 4))

    def __init__(self) -> None:
        self.texts: list[tuple[int, ...]] = []  # at the first pass of each block

    def empty_cache(self, batch: int) -> KnownText:
        return KnownText(())

    def commit_and_denoise(self, ids, sigma, positions, *, cache, block_length):
        committed = ids.shape[1] - positions.shape[1]
        after = KnownText((*cache.text, *ids[0, :committed].tolist()))
        if (ids[0, committed:] == MASK).all():
            self.texts.append(after.text)
        at = len(after.text) + torch.arange(positions.shape[1])
        logits = torch.nn.functional.one_hot(torch.where(at < 6, at, MASK - 1), MASK + 1)
        return 30.0 * logits[positions[0]], after


@dataclass(frozen=True)
class KnownText:
    text: tuple[int, ...]
    bytes: int = 0

    def last(self, tokens: int) -> KnownText:
        return self


@pytest.mark.parametrize("block_length", [1, 4])
def test_behind_padding_a_new_text_begins(block_length: int) -> None:
    model, eos = Padding(), MASK - 1
    blocks = itertools.islice(write_blocks(model, sampler(), block_length), 48 // block_length)
    written = [i for block in blocks for i in block.ids]
    assert written[:14] == [0, 1, 2, 3, 4, 5, eos] * 2
    assert max(map(len, model.texts)) == (7 if block_length == 1 else 4) and model.texts.count(()) > 4


def test_what_cannot_be_continued_is_refused_at_once(model: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"the prompt of an endless text holds a \[MASK\]"):
        write_blocks(model, sampler(), S, [1, MASK])
    with pytest.raises(ValueError, match="window is 0; it must be 1 or more"):
        write_blocks(model, sampler(), S, window=0)
    with pytest.raises(ValueError, match="block_length is 0"):
        write_blocks(model, sampler(), 0)


def test_a_text_that_was_left_goes_on_as_if_it_had_not_been(model: Denoiser) -> None:
    whole = written(model, 8, [3, 1, 4, 1, 5])
    left = written(model, 3, [3, 1, 4, 1, 5])[-1].so_far
    assert written(model, 5, after=left) == whole[3:]
    assert written(model, 5, after=left) == whole[3:]  # nothing of it is used up
