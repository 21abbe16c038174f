"""Windows of whole tales: what is in them, what they cost at least, and that they can be made again."""

import math
import pickle

import pytest
import torch

from diffuapriel.data.registry import open_corpus
from diffuapriel.data.tales import TalesCorpus, fill_window, shortest_window
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer
from tests.tales.exhaustive import entropy_rate

TOKENIZER = get_tokenizer("gpt2-4k")
HOW = {"split": "train", "batch_size": 8, "length": 256, "seed": 0}


def stories_of(ids: list[int]) -> list[str]:
    """The stories of a window, read back from its ids."""
    return [story for story in TOKENIZER.decode(ids).split("<|endoftext|>") if story]


@pytest.mark.parametrize("level", tales.LEVELS)
def test_a_window_holds_whole_stories_and_ends_of_text(level):
    ids = TalesCorpus(TOKENIZER, level).batch(0, **HOW)
    assert ids.shape == (8, 256) and ids.dtype == torch.int64
    for row in ids.tolist():
        assert row[0] != TOKENIZER.eos_id and row[-1] == TOKENIZER.eos_id
        assert all(tales.check(story, level).consistent for story in stories_of(row))


@pytest.mark.parametrize("level", tales.LEVELS)
def test_the_floor_is_the_probability_of_the_stories_in_the_window(level):
    corpus = TalesCorpus(TOKENIZER, level)
    ids, log_prob, tokens = corpus.batch_with_entropy(3, **HOW)
    assert torch.equal(ids, corpus.batch(3, **HOW))
    assert log_prob.dtype == torch.float64 and tokens.dtype == torch.int64
    for row, exact, counted in zip(ids.tolist(), log_prob.tolist(), tokens.tolist(), strict=True):
        stories = stories_of(row)
        assert exact == pytest.approx(sum(tales.log_prob(story, level) for story in stories))
        assert counted == sum(len(TOKENIZER.encode(story)) + 1 for story in stories)
        assert set(row[counted:]) <= {TOKENIZER.eos_id}


def test_the_entropy_is_near_the_entropy_rate():
    _, log_prob, tokens = TalesCorpus(TOKENIZER, 2).batch_with_entropy(0, **HOW | {"batch_size": 64})
    rate = entropy_rate(2, TOKENIZER, stories=2000).nats_per_token
    assert -log_prob.sum().item() / tokens.sum().item() == pytest.approx(rate, rel=0.03)


def test_a_row_depends_on_seed_split_step_and_its_number_alone():
    corpus = TalesCorpus(TOKENIZER, 1)
    whole = corpus.batch(5, **HOW)
    assert torch.equal(whole, corpus.batch(5, **HOW))
    assert torch.equal(whole[:3], corpus.batch(5, **HOW | {"batch_size": 3}))
    assert len({tuple(row) for row in whole.tolist()}) == 8
    for other in ({"seed": 1}, {"split": "validation"}):
        assert not torch.equal(whole, corpus.batch(5, **HOW | other))
    assert not torch.equal(whole, corpus.batch(6, **HOW))


def test_valid_is_another_name_for_the_held_out_part():
    corpus = TalesCorpus(TOKENIZER, 1)
    assert torch.equal(corpus.batch(0, **HOW | {"split": "valid"}), corpus.batch(0, **HOW | {"split": "validation"}))


def test_full_stories_are_hardly_ever_seen_twice():
    corpus = TalesCorpus(TOKENIZER, 3)
    train = {corpus.document(i, split="train", seed=0) for i in range(500)}
    validation = {corpus.document(i, split="validation", seed=0) for i in range(500)}
    assert len(train) == len(validation) == 500 and not train & validation


def test_a_longer_window_begins_like_a_shorter_one():
    corpus = TalesCorpus(TOKENIZER, 2)
    short, long = corpus.batch(0, **HOW | {"length": 128}), corpus.batch(0, **HOW | {"length": 256})
    for a, b in zip(short.tolist(), long.tolist(), strict=True):
        assert stories_of(b)[: len(stories_of(a))] == stories_of(a)


def test_a_window_that_stories_do_not_fit_has_no_floor():
    corpus = TalesCorpus(TOKENIZER, 3)
    least = shortest_window(3, TOKENIZER)
    assert 100 < least < 128
    for length in (64, least - 1):
        with pytest.raises(ValueError, match=f"windows of {least} tokens or more, not {length}"):
            corpus.batch_with_entropy(0, **HOW | {"length": length})
    assert math.isfinite(corpus.batch_with_entropy(0, **HOW | {"length": least})[1].sum().item())


@pytest.mark.parametrize(
    ("ids", "length", "window"),
    [
        ([1, 2], 5, [1, 2, 9, 9, 9]),
        ([1, 9], 3, [1, 9, 9]),
        ([1, 2], 2, [1, 2, 9]),
        ([1, 9], 1, [1, 9]),
        ([], 2, [9, 9]),
    ],
)
def test_stories_are_closed_and_fill_a_window_and_are_never_cut(ids, length, window):
    assert fill_window(ids, length, eos_id=9) == window


def test_a_window_that_no_story_fits_is_refused():
    with pytest.raises(ValueError, match="no story of level 3 fits a window of 20 tokens"):
        TalesCorpus(TOKENIZER, 3).batch(0, **HOW | {"length": 20})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"split": "test"}, "'train' or 'validation'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"length": 1}, "length is 1"),
        ({"length": 12.5}, "length is 12.5"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_permitted(bad, message):
    with pytest.raises(ValueError, match=message):
        TalesCorpus(TOKENIZER, 1).batch(0, **HOW | bad)


def test_no_step_is_before_the_first():
    with pytest.raises(ValueError, match="step is -1"):
        TalesCorpus(TOKENIZER, 1).batch(-1, **HOW)


def test_a_worker_makes_the_same_batches():
    corpus = TalesCorpus(TOKENIZER, 2)
    assert torch.equal(pickle.loads(pickle.dumps(corpus)).batch(1, **HOW), corpus.batch(1, **HOW))


@pytest.mark.parametrize(("spec", "level"), [("tales", 3), ("tales:1", 1), ("tales:2", 2), ("tales:3", 3)])
def test_tales_are_opened_by_level(spec, level):
    corpus = open_corpus(spec, TOKENIZER)
    assert isinstance(corpus, TalesCorpus) and corpus.name == f"tales:{level}"


@pytest.mark.parametrize("spec", ["tales:4", "tales:one", "tales:1:2"])
def test_another_level_is_refused(spec):
    with pytest.raises(ValueError, match="levels 1, 2 and 3"):
        open_corpus(spec, TOKENIZER)


@pytest.mark.parametrize("rows", [range(0, 1), range(1, 3), range(0, 4)])
def test_some_rows_of_a_batch_are_those_rows_of_the_whole(rows):
    corpus = TalesCorpus(TOKENIZER, 1)
    part = corpus.batch(3, **HOW, rows=rows)
    assert torch.equal(part, corpus.batch(3, **HOW)[rows.start : rows.stop])


@pytest.mark.parametrize("rows", [range(0, 0), range(2, 99), range(-1, 1), range(0, 4, 2)])
def test_rows_that_a_batch_does_not_have_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows are range\(.*consecutive ones of range\(0, 8\)"):
        TalesCorpus(TOKENIZER, 1).batch(3, **HOW, rows=rows)
