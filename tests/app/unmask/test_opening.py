"""The recorded run that the page opens with: what it shows, and that the page's own settings made it."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest

from app.server.limits import Limits
from app.server.models import Models
from app.strings.language import texts
from app.unmask import opening
from app.unmask.request import ORDERS, opening_config
from app.unmask.tab import UnmaskTab, outcome
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(scope="module")
def recorded(models) -> Trace:
    trace = opening.recording(models, models.find(opening.MODEL))
    assert trace is not None
    return trace


def test_it_was_recorded_from_the_first_example_with_the_settings_of_the_page(models, recorded):
    names = {field.name for field in dataclasses.fields(SamplerConfig)}
    proposed = opening_config(models.find(opening.MODEL))
    assert SamplerConfig(**{n: v for n, v in recorded.meta.items() if n in names}) == proposed
    tokenizer = get_tokenizer(recorded.meta["tokenizer"])
    _, text, length = texts.EXAMPLES[0]
    canvas = Canvas.from_text(text, tokenizer, length or None)
    assert list(recorded.frames[0].ids) == canvas.ids.tolist()


def is_true_story(text: str) -> bool:
    story, _, rest = text.partition("<|endoftext|>")
    check = tales.check(story, 3)
    return check.grammatical and check.consistent and not rest.replace("<|endoftext|>", "")


def test_it_is_a_true_story_written_block_by_block_and_not_word_by_word(recorded):
    assert is_true_story(recorded.text) and recorded.text.count("white") == 2
    steps = recorded.frames[1:]
    holes = recorded.frames[0].ids.count(recorded.mask_id)
    assert len(steps) < 0.6 * holes, "many tokens at once"
    written = [p for frame in steps for p in frame.revealed]
    assert sum(b < a for a, b in pairwise(written)) > 5, "in any order within a block"
    blocks = [p // recorded.meta["block_length"] for p in written]
    assert blocks == sorted(blocks)


@pytest.mark.slow
def test_the_tour_ends_with_a_true_story_of_one_word_per_pass(models):
    asked = models.find(opening.MODEL)
    _, text, length = texts.EXAMPLES[0]
    config = dataclasses.replace(opening_config(asked), block_length=ORDERS["left"])
    entry = Models().load(asked)
    sampler = Sampler(config, get_schedule("log-linear"), entry.tokenizer.mask_id)
    canvas = Canvas.from_text(text.replace("white", "red"), entry.tokenizer, length)
    *_, last = sampler.stream(denoiser_for(entry.denoiser, config), canvas)
    end = last.ids.index(entry.tokenizer.eos_id) + 1
    assert last.step == int(canvas.masked[:end].sum()), "the text stops with the story"
    assert is_true_story(entry.tokenizer.decode(list(last.ids)))


def test_the_page_opens_with_it_and_no_model_is_loaded(models):
    tab = UnmaskTab(models, Limits())
    message = json.loads(tab.opening_canvas())
    assert message["play"] and message["steer"] and len(message["frames"]) > 10
    assert not models._loaded


def test_other_models_open_with_holes(models, recorded):
    untrained = models.find(models.untrained[0])
    assert opening.recording(models, untrained) is None


def test_a_run_that_goes_on_from_it_claims_no_speed(recorded):
    last = recorded.frames[-1]
    timed = dataclasses.replace(last, step=last.step + 1, ms=5.0)
    assert "tokens/s" not in outcome(dataclasses.replace(recorded, frames=(*recorded.frames, timed)))
    run = [dataclasses.replace(frame, ms=5.0) for frame in recorded.frames]
    assert "tokens/s" in outcome(dataclasses.replace(recorded, frames=tuple(run)))
