"""A model of blocks on the page: the block lengths that it takes, and the strip of its cache."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace

import pytest

from app.server.limits import Limits
from app.server.models import ModelEntry
from app.server.room import Room
from app.strings.language import texts
from app.unmask.blocks import MOST_DRAWN, cache_strip
from app.unmask.request import Command, UnmaskRequest, first_order, known_block_length, opening_config
from app.unmask.session import UnmaskSession
from app.unmask.tab import cautions, shown
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.steering import SteeredGeneration
from tests.app.unmask.toys import HeartModels
from tests.sampling.models import block_model

TOKENIZER = get_tokenizer("gpt2-4k")
OF_BLOCKS = ModelEntry("blocks", "blocks", True, "gpt2-4k", block_lengths=(1, 4, 0))
CONFIG = SamplerConfig("threshold", block_length=4, block_start="zero", threshold=0.0)


@pytest.mark.parametrize(
    ("block", "known", "taken"),
    [
        (16, (1, 4, 16, 64, 0), 16),
        (20, (1, 16, 64), 16),
        (3, (4, 0), 4),
        (0, (1, 4, 0), 0),
        (0, (1, 4), 4),
        (9, (0,), 0),
    ],
)
def test_the_slider_takes_the_nearest_length_that_the_model_knows(block: int, known: tuple, taken: int) -> None:
    assert known_block_length(block, known) == taken


def test_the_page_opens_in_blocks_with_a_model_of_blocks_and_anywhere_with_another() -> None:
    known = ModelEntry("b", "b", True, "gpt2-4k", block_lengths=(1, 4, 16, 64, 0))
    assert first_order(known) == "blocks" and opening_config(known).block_length == 16
    assert first_order(ModelEntry("m", "m", True, "gpt2-4k")) == "anywhere"
    own = ModelEntry("o", "o", True, "gpt2-4k", generation={"strategy": "factor", "factor": 1.0, "block_length": 8})
    assert first_order(own) is None


@pytest.mark.parametrize(
    ("text", "warned"), [("Mia [MASK:9] ran.", True), ("Mia [MASK:9]", False), ("Mia ran.", False)]
)
def test_a_text_behind_the_block_of_a_hole_is_not_seen_and_the_page_says_so(text: str, warned: bool) -> None:
    asked = UnmaskRequest(text, OF_BLOCKS, 0, CONFIG, TOKENIZER)
    assert cautions(asked) == [texts.END_UNSEEN] * warned
    anywhere = SamplerConfig("threshold")
    assert not cautions(UnmaskRequest(text, OF_BLOCKS, 0, anywhere, TOKENIZER))


def run_of(length: int) -> SteeredGeneration:
    return SteeredGeneration(Canvas.masks(length, TOKENIZER), CONFIG, get_schedule("log-linear"))


def test_finished_blocks_are_drawn_as_settled() -> None:
    model = block_model("diffuapriel", TOKENIZER.vocab_size)
    models = SimpleNamespace(turn=HeartModels().turn, load=lambda entry: SimpleNamespace(denoiser=model))
    run = run_of(14)
    with Room(models, 4).seat(OF_BLOCKS, Event(), CONFIG) as seat:
        for done in range(4):
            strip = cache_strip(run, OF_BLOCKS, seat.cache_bytes)
            assert strip.count("da-block-done") == done and strip.count("da-block-now") == 1
            assert f"{done} of 4 blocks settled" in strip
            run.advance(seat)
        assert run.done and seat.cache_bytes == model.empty_cache(1).bytes > 0
    assert cache_strip(run, OF_BLOCKS, 2500).count("da-block-done") == 4
    assert "2.5 kB" in cache_strip(run, OF_BLOCKS, 2500)


def test_a_long_text_has_a_short_strip_and_a_full_sequence_model_none() -> None:
    assert cache_strip(run_of(4000), OF_BLOCKS, 0).count("<i ") <= MOST_DRAWN
    assert not cache_strip(run_of(8), ModelEntry("m", "m", True, "gpt2-4k"), 0)


def test_an_edit_of_an_earlier_block_unsettles_the_blocks_behind_it() -> None:
    models = HeartModels()
    session, run = UnmaskSession(models, Limits()), run_of(14)
    while not run.done:
        run.advance(block_model("diffuapriel", TOKENIZER.vocab_size))
    session._set_run(run, OF_BLOCKS)
    models.tokenizer = lambda entry: TOKENIZER
    assert "Context cache: 4 of 4 blocks settled<" in shown(session)[1]
    session.apply(Command(session.name, "mask", None, 5, 5))
    assert "Context cache: 1 of 4 blocks settled<" in shown(session)[1]
    session.apply(Command(session.name, "undo"))
    assert "Context cache: 4 of 4 blocks settled<" in shown(session)[1]
