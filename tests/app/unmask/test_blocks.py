"""A model of blocks on the page: the block lengths that it takes, and the strip of its cache."""

from __future__ import annotations

import json
from threading import Event
from types import SimpleNamespace

import pytest
import torch

from app.server.limits import Limits, Refused
from app.server.models import ModelEntry, Models
from app.server.room import Room
from app.strings.language import texts
from app.unmask.blocks import MOST_DRAWN, cache_strip
from app.unmask.request import (
    Command,
    UnmaskRequest,
    draft_length,
    first_order,
    known_block_length,
    opening_config,
    read_request,
)
from app.unmask.session import UnmaskSession
from app.unmask.tab import UnmaskTab, cautions, describe_rule, shown
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import SpeculativeDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import ADAPTIVE, SamplerConfig
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.steering import SteeredGeneration
from tests.app.toys import toy_blocks
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


DRAFTS = SamplerConfig("speculative", block_length=4, block_start="zero")
VALUES = ("Mia found", "toy-blocks", 16, 8, "speculative", 1.0, 0, 1.0, 0, 4, "prompt", 0.9, 1.0, 0.1)


@pytest.mark.parametrize(
    ("block", "known", "taken"),
    [(16, (1, 4), 16), (1, (1, 4), 1), (0, (1, 16, 64, 0), 64), (0, (1, 4), 4), (0, (1, 0), 64)],
)
def test_a_draft_has_any_length_and_the_longest_known_where_none_is_given(block: int, known: tuple, taken: int) -> None:
    assert draft_length(block, known) == taken


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory) -> Models:
    folder = tmp_path_factory.mktemp("blocks")
    return Models([toy_blocks(folder), toy_blocks(folder / "long", (4, 0)), *checkpoints])


def test_a_run_that_drafts_writes_the_text_of_blocks_of_one_token(models: Models, visitor) -> None:
    tab = UnmaskTab(models, Limits())
    texts_written = []
    for strategy, block in (("threshold", 1), ("speculative", 1), ("speculative", 4), ("speculative", 0)):
        *_, (message, _, text, *_) = tab.run(*VALUES[:4], strategy, *VALUES[5:9], block, *VALUES[10:], request=visitor)
        texts_written.append(text)
        assert json.loads(message)["done"]
    assert len(set(texts_written)) == 1 and texts_written[0].startswith("Mia found")


@pytest.mark.parametrize(("language", "said"), [("en", "cannot write by speculative"), ("de", "kann nicht mit spec")])
def test_a_model_that_verifies_no_drafts_is_refused_and_others_are_named(models, language: str, said: str) -> None:
    with texts.speaking(language), pytest.raises(Refused, match=f"{said}.*: .*toy-blocks"):
        read_request(models, Limits(), VALUES[0], "toy-diffuapriel", *VALUES[2:])
    long = next(label for label in models.trained if models.find(label).block_lengths == (4, 0))
    tab = UnmaskTab(models, Limits())
    with pytest.raises(Refused, match="another strategy"):
        tab._read(VALUES[0], long, *VALUES[2:])
    message, status, *_ = tab.compose(None, VALUES[0], long, *VALUES[2:])  # the model's own strategy is on its way
    assert "speculative" not in status and json.loads(message)["frames"]


def test_the_slider_says_what_it_is_while_a_strategy_drafts() -> None:
    assert describe_rule("speculative")[0]["info"] == texts.DRAFT_INFO
    assert describe_rule("threshold")[0]["info"] == texts.BLOCK_INFO


def test_the_value_of_a_strategy_is_seen_with_it_alone() -> None:
    seen = {name: [update["visible"] for update in describe_rule(name)[1:]] for name in (*ADAPTIVE, "random")}
    assert list(seen.values()) == [[True, False, False], [False, True, False], [False, False, True], [False] * 3]


def test_what_drafts_settles_token_by_token_and_reads_nothing_behind_a_hole() -> None:
    asked = UnmaskRequest("Mia [MASK:2] ran.", OF_BLOCKS, 0, DRAFTS, TOKENIZER)
    assert cautions(asked) == [texts.END_UNSEEN]
    run = SteeredGeneration(Canvas.from_text("Mia found", TOKENIZER, 100), DRAFTS, get_schedule("log-linear"))
    given = int(run.canvas.fixed.sum())
    strip = cache_strip(run, OF_BLOCKS)
    assert f"{given} of 100 blocks settled" in strip and strip.count("da-block-now") == 1


def test_the_guesses_of_the_page_are_of_masks_and_not_of_a_draft() -> None:
    model = block_model("diffuapriel", TOKENIZER.vocab_size)
    run = SteeredGeneration(Canvas.masks(12, TOKENIZER), DRAFTS, get_schedule("log-linear"))
    run.advance(SpeculativeDenoiser(model, 4))
    seen = []
    with torch.no_grad():
        run.predict(lambda ids, *how: seen.append(ids) or model(ids, *how))
    assert (run.state.drafts >= 0).any() and seen[0].tolist() == run.state.ids.tolist()


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
