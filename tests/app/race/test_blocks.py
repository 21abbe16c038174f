"""A model of blocks in the Race tab: its block length, its context cache, and the autoregressive entry."""

from __future__ import annotations

import csv
import io
import json
import re
from types import SimpleNamespace

import pytest

from app.race.export import exported, read_results, to_csv
from app.race.replay import player_message
from app.race.request import racing_models
from app.race.tab import RaceTab
from app.server.limits import Limits
from app.server.models import Models
from diffuapriel.benchmark import sweep as throughput
from diffuapriel.benchmark.result import RaceResult
from tests.app.toys import toy_blocks

ONE, FOUR = "toy-blocks, block length 1 (autoregressive)", "toy-blocks, block length 4"
SIXTEEN, WHOLE = "toy-blocks, block length 16", "toy-blocks, block length 0 (whole canvas)"
ASK = {"a": FOUR, "b": ONE, "c": "toy-diffutran", "length": 16, "steps": 4, "strategy": "low_confidence"}
ASK |= {"repeats": 1, "seed": 0, "block": 0}


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory) -> Models:
    return Models([toy_blocks(tmp_path_factory.mktemp("blocks")), *checkpoints])


@pytest.fixture(scope="module")
def tab(models) -> RaceTab:
    return RaceTab(models, Limits())


@pytest.fixture(scope="module")
def raced(tab, models):
    visitor = SimpleNamespace(session_hash="blocks")
    *_, (replay, _, table, _) = tab.race.run(**ASK, request=visitor)
    (kept,) = tab.store.of("blocks")
    return kept, json.loads(replay["value"]), table


def test_a_model_of_blocks_is_offered_at_each_block_length_the_default_first(tab, models):
    assert tab.names()[:6] == [SIXTEEN, ONE, FOUR, WHOLE, "toy-diffuapriel", "toy-diffutran"]
    assert racing_models(models)[ONE].block_length == 1


def test_the_race_from_autoregression_to_blocks_counts_every_pass(raced):
    kept, replay, table = raced
    four, one, full = kept.race.entries
    assert (four.block_length, one.block_length, full.block_length) == (4, 1, None)
    assert (four.forward_passes, one.forward_passes, full.forward_passes) == (4, 16, 4)
    assert four.cache_bytes == one.cache_bytes > 0 == full.cache_bytes
    assert [lane["label"] for lane in replay["lanes"]] == [FOUR, ONE, "toy-diffutran"]
    assert "context cache" in replay["lanes"][0]["note"] and "cache" not in replay["lanes"][2]["note"]
    assert [lane["trace"]["header"]["meta"]["block_length"] for lane in replay["lanes"]] == [4, 1, None]
    assert "Block lengths: A 4, B 1." in table and "committing to it is on the clock" in table
    assert len(re.findall(r"context cache \d", table)) == 2
    assert ONE in table and " s / " in kept.title  # steps differ: seconds, not milliseconds per step


def test_files_say_block_length_and_cache_and_open_again(raced, tmp_path):
    kept, _, _ = raced
    rows = list(csv.DictReader(io.StringIO(to_csv([kept]))))
    assert [row["block_length"] for row in rows] == ["4", "1", "0"]
    assert [int(row["cache_bytes"]) > 0 for row in rows] == [True, True, False]
    with exported([kept]) as (file, *_):
        (again,) = read_results(file, Limits())
    assert again.race is not None and again.race.entries == kept.race.entries
    lanes = json.loads(player_message(again.race))["lanes"]
    assert [lane["trace"]["header"]["meta"]["block_start"] for lane in lanes] == ["zero", "zero", "prompt"]


def test_the_clock_hint_knows_that_one_token_per_pass_can_be_read(tab, visitor):
    answer = tab.race.race(**(ASK | {"c": "", "length": 8, "steps": 8}), request=None)
    assert [entry["block_length"] for entry in answer["result"]["entries"]] == [4, 1]
    assert tab.race.clock_hint(RaceResult.from_dict(answer["result"])) == ""


def test_a_sweep_measures_passes_over_the_whole_canvas_and_says_so(tab, visitor, monkeypatch):
    monkeypatch.setattr(throughput, "LENGTHS", (32, 64))
    *_, (latency, _, _, below, _) = tab.sweep.run(a=FOUR, b="toy-diffutran", c="", longest=256, request=visitor)
    assert latency.data[0].name.split(" (slope")[0] == "toy-blocks"
    assert "without its context cache" in below


def test_a_block_length_that_the_model_does_not_know_is_refused(tab, visitor):
    with pytest.raises(ValueError, match="model is 'toy-blocks, block length 3'"):
        next(tab.race.run(**(ASK | {"a": "toy-blocks, block length 3"}), request=visitor))
