"""A model of blocks in a race: the same texts as without a cache, every run from an empty one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.generation import race
from diffuapriel.commands.race import open_entry
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from tests.benchmark.fakes import TOKENIZER
from tests.sampling.models import block_model


@pytest.fixture(scope="module", params=["diffuapriel", "diffuapriel-h", "diffutran"])
def entry(request) -> Entry:
    model = block_model(request.param, TOKENIZER.vocab_size, depth=6).float()
    return Entry.of_model("blocks", model, TOKENIZER)


def test_the_text_is_that_of_the_cached_sampler_and_each_run_begins_with_an_empty_cache(entry, monkeypatch):
    passes: list[CachedDenoiser] = []
    forward = CachedDenoiser.forward
    monkeypatch.setattr(CachedDenoiser, "forward", lambda one, *inputs: (passes.append(one), forward(one, *inputs))[1])
    result = race([entry.in_blocks(4)], 14, 8, repeats=2, warmup_steps=1).entries[0]
    timed = [denoiser for denoiser in dict.fromkeys(passes) if denoiser.passes == 8]
    assert len(timed) == 2 and result.forward_passes == 8
    config = SamplerConfig(steps=8, block_length=4, block_start="zero")
    sampler = Sampler(config, get_schedule("log-linear"), TOKENIZER.mask_id)
    ids = generate(sampler, CachedDenoiser(entry.denoiser, 4), Canvas.masks(14, TOKENIZER))[0]
    assert result.trace is not None and torch.equal(torch.tensor(result.trace.frames[-1].ids), ids)
    assert result.cache_bytes == timed[0].cache_bytes == timed[1].cache_bytes
    cache = entry.denoiser.commit(ids[None, :12], entry.denoiser.empty_cache(1), 4)
    assert result.cache_bytes == cache.bytes
    assert result.peak_memory_bytes >= entry.weight_bytes + result.cache_bytes


def test_block_length_1_takes_a_pass_per_token_and_0_none_of_the_cache(entry):
    one, whole = race([entry.in_blocks(1), entry.in_blocks(0)], 8, 2, repeats=1, warmup_steps=1).entries
    assert (one.forward_passes, whole.forward_passes) == (8, 2)
    assert one.cache_bytes > 0 == whole.cache_bytes
    assert one.name == "blocks, block length 1 (autoregressive)"


def test_a_model_of_blocks_races_in_blocks_unasked(entry):
    result = race([entry], 8, 2, repeats=1, warmup_steps=1, block_length=1)
    assert result.entries[0].block_length == 1
    assert race([entry], 8, 2, repeats=1, warmup_steps=1).entries[0].block_length == 4


def test_in_blocks_names_the_entry_once_and_refuses_what_the_model_does_not_know(entry):
    assert entry.in_blocks(1).in_blocks(4).name == "blocks, block length 4"
    with pytest.raises(ValueError, match="block_length is 3; this model was trained for 1, 4, 0"):
        entry.in_blocks(3)
    with pytest.raises(ValueError, match="full is not a model of blocks"):
        dataclasses.replace(entry, config=None, name="full").in_blocks(1)


def test_the_command_line_takes_a_block_length_behind_the_name(entry, monkeypatch):
    monkeypatch.setattr(Entry, "from_checkpoint", lambda name, device: dataclasses.replace(entry, name=name))
    assert open_entry("runs/mine@1", "cpu").block_length == 1
    assert open_entry("runs/mine", "cpu").block_length is None
