"""The fair protocol: warm up, take turns, never together, count what was asked and nothing else."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
import torch

from diffuapriel.benchmark import generation
from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.generation import race, race_events
from diffuapriel.benchmark.result import RaceResult
from diffuapriel.benchmark.timing import interleaved
from diffuapriel.config import preset
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.tokenizer import get_tokenizer
from tests.benchmark.fakes import TOKENIZER, sleeping_entry

FAST, SLOW = 0.004, 0.012


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return [sleeping_entry("fast", lambda _: FAST), sleeping_entry("slow", lambda _: SLOW)]


@pytest.fixture(scope="module")
def result(entries) -> RaceResult:
    for entry in entries:
        entry.denoiser.calls.clear()
    return race(entries, 16, 4, repeats=2, warmup_steps=3)


def test_a_known_cost_comes_out(result):
    fast, slow = result.entries
    # A sleep is never shorter than asked, and a busy machine makes it longer.
    assert fast.ms_per_step >= 1000 * FAST
    assert slow.ms_per_step >= 1000 * SLOW
    assert (slow.tokens_per_second < fast.tokens_per_second) == (slow.seconds > fast.seconds)


def test_the_order_turns_round_with_every_repeat(result):
    assert interleaved([0, 1], 3) == [0, 1, 1, 0, 0, 1]
    assert interleaved([0, 1, 2], 2) == [0, 1, 2, 2, 1, 0]
    assert result.order == ("fast", "slow", "slow", "fast")
    assert tuple(run.entry for run in result.runs) == result.order


def test_never_two_at_once(entries, result):
    spans = sorted((run.started, run.ended) for run in result.runs)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    calls = sorted(call for entry in entries for call in entry.denoiser.calls)
    assert all(end <= start for (_, end), (start, _) in pairwise(calls))


def test_warm_up_comes_first_and_is_not_counted(entries, result):
    for entry, measured in zip(entries, result.entries):
        assert len(entry.denoiser.calls) == 3 + 2 * 4  # warm-up steps, then two runs of four
        assert len(measured.step_ms) == 4
        assert measured.forward_passes == 4
    last_warm_up = max(entry.denoiser.calls[2][1] for entry in entries)
    assert all(call[0] >= last_warm_up for entry in entries for call in entry.denoiser.calls[3:])


class Hand:
    """A clock whose hand the test moves, and a denoiser that takes 1 second, the first time 500."""

    kind = "by hand"

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def mark(self) -> float:
        return self.now

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def __call__(self, ids, sigma, positions):
        self.calls += 1
        self.now += 500.0 if self.calls == 1 else 1.0
        return torch.zeros(int(positions.sum()), TOKENIZER.vocab_size)


@pytest.fixture
def hand(monkeypatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(generation, "Clock", lambda device: hand)
    return hand


def by_hand(hand: Hand) -> Entry:
    return dataclasses.replace(sleeping_entry("by hand", lambda _: 0), denoiser=hand)


def test_a_slow_first_call_is_in_no_figure(hand):
    assert race([by_hand(hand)], 8, 2, repeats=1, warmup_steps=1).entries[0].seconds == 2.0


def test_what_the_caller_does_between_events_is_in_no_figure(hand):
    for event in race_events([by_hand(hand)], 16, 4, repeats=1, warmup_steps=1):
        hand.now += 100.0  # a progress bar that draws slowly
        if event.result is not None:
            assert event.result.entries[0].step_ms == (1000.0,) * 4


def test_tokens_are_masks_filled(entries):
    text = race([entries[0]], 16, 4, repeats=1, text="Mia found a [MASK:3]").entries[0]
    given = len(TOKENIZER.encode("Mia found a"))
    assert text.tokens == 16 - given
    assert text.tokens_per_second == pytest.approx(text.tokens / text.seconds)


def test_every_entry_gets_the_same_work(result):
    fast, slow = result.entries
    assert fast.tokens == slow.tokens == 16
    assert fast.trace is not None
    assert slow.trace is not None
    assert fast.trace.text == slow.trace.text  # the same logits, the same seed: the same noise


def test_a_replay_runs_on_the_median_times(result):
    for entry in result.entries:
        assert tuple(frame.ms for frame in entry.trace.frames[1:]) == entry.step_ms
        assert entry.trace.frames[0].ms == 0


def test_the_spread_holds_the_median(result):
    for entry in result.entries:
        assert entry.seconds_min <= entry.seconds <= entry.seconds_max
        assert 0 < entry.denoiser_share <= 1


def test_events_run_from_nothing_to_everything(entries):
    events = list(race_events(entries, 8, 2, repeats=1))
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [event.phase for event in events] == ["warm-up"] * 4 + ["timed"] * 4 + ["done"]
    assert [event.result is not None for event in events] == [False] * 8 + [True]


def test_closing_the_events_stops_the_race(entries):
    entries[1].denoiser.calls.clear()
    events = race_events(entries, 8, 8, repeats=1, warmup_steps=1)
    next(events)
    events.close()
    assert not entries[1].denoiser.calls


def test_a_model_may_race_itself(entries):
    result = race([entries[0], entries[0]], 8, 2, repeats=1)
    assert [entry.name for entry in result.entries] == ["fast", "fast (2)"]


def test_json_round_trip(result):
    again = RaceResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert again.fairness() == result.fairness()


def test_a_race_saved_before_entries_had_their_name_still_loads(result):
    values = json.loads(json.dumps(result.to_dict())) | {"version": 1}
    values["lanes"] = values.pop("entries")
    for run in values["runs"]:
        run["lane"] = run.pop("entry")
    assert RaceResult.from_dict(values) == result


def test_another_schema_is_refused():
    with pytest.raises(ValueError, match="diffuapriel-race-result"):
        RaceResult.from_dict({"schema": "something", "version": 1})
    with pytest.raises(ValueError, match=r"version 3; permitted: 'diffuapriel-race-result' version 1 or 2"):
        RaceResult.from_dict({"schema": "diffuapriel-race-result", "version": 3})


def test_what_was_fair_is_said(result):
    said = " ".join(result.fairness())
    assert "16 masks on a canvas of 16 tokens, 4 steps" in said
    assert "A B B A after 3 untimed warm-up steps" in said
    assert "never together" in said
    assert "matched within 2 %" in said


def test_what_was_not_fair_is_said_too(entries):
    large = sleeping_entry("large", lambda _: 0, parameters=2000)
    said = " ".join(race([entries[0], large], 8, 1, repeats=1).fairness())
    assert "NOT matched: 1,000 against 2,000, 100% apart" in said


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"repeats": 0}, "repeats is 0"),
        ({"repeats": 1.5}, "repeats is 1.5"),
        ({"warmup_steps": 0}, "warmup_steps is 0"),
        ({"strategy": "luck"}, "strategy is 'luck'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_options_are_refused_by_name(entries, options, names):
    with pytest.raises(ValueError, match=names):
        race(entries, 8, 2, **options)


def test_no_entry_and_nothing_to_fill_are_refused(entries):
    with pytest.raises(ValueError, match="at least one entry"):
        race([], 8, 2)
    with pytest.raises(ValueError, match="nothing to race for"):
        race(entries, 1, 2, text="a")


def test_entries_on_two_devices_are_refused(entries):
    elsewhere = dataclasses.replace(entries[1], device=torch.device("meta"))
    with pytest.raises(ValueError, match="one device"):
        race([entries[0], elsewhere], 8, 2)


def test_real_models_race():
    entries = [Entry.random("nano", "diffuapriel"), Entry.random("nano", "diffutran")]
    result = race(entries, 8, 2, repeats=1, warmup_steps=1)
    mamba, attention = result.entries
    assert mamba.attention == "none"
    assert "attention" in attention.attention or attention.attention == "math"
    assert abs(mamba.parameters / attention.parameters - 1) < 0.02
    assert mamba.peak_memory_bytes >= 4 * mamba.parameters
    assert mamba.dtype == "float32"


def toy_entry(architecture: str = "diffuapriel", **changes) -> Entry:
    torch.manual_seed(0)
    model = Denoiser(preset("nano", architecture, d_model=32, depth=1, tokenizer="tales-words", **changes))
    with torch.no_grad():
        for parameter in model.parameters():  # at first, blocks change nothing and all masks are alike
            parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return Entry.of_model("toy", model.eval(), get_tokenizer("tales-words"))


@pytest.mark.parametrize("strategy", ["low_confidence", "random"])
def test_steps_that_stay_on_the_device_write_the_same_text(monkeypatch, strategy):
    monkeypatch.setattr(generation, "TRACED", 8)
    monkeypatch.setattr(generation, "MOST_GATHERED", 40)  # read after every third step
    options = {"length": 12, "steps": 6, "strategy": strategy, "repeats": 2}
    plain = race([toy_entry()], **options).entries[0]
    monkeypatch.setattr(generation, "unsupported_reason", lambda *about: None)
    ours = race([toy_entry()], **options).entries[0]
    assert ours.recording.to_dict() | {"ms": []} == plain.recording.to_dict() | {"ms": []}
    assert ours.forward_passes == plain.forward_passes == 6
    assert len(ours.step_ms) == 6 and 0 < ours.denoiser_share <= 1


def test_the_trace_of_a_short_race_on_the_device_has_its_times(monkeypatch):
    monkeypatch.setattr(generation, "unsupported_reason", lambda *about: None)
    events = race_events([toy_entry()], 12, 4, repeats=1, warmup_steps=1)
    assert [event.phase for event in events if event.result is None] == ["warm-up"] + ["timed"] * 4
    entry = race([toy_entry()], 12, 4, repeats=1).entries[0]
    assert tuple(frame.ms for frame in entry.trace.frames) == (0.0, *entry.step_ms)
    assert entry.trace.final == tuple(list(entry.recording.canvases())[-1].tolist())


def test_a_strategy_whose_calls_may_reveal_nothing_has_frames_of_the_host(monkeypatch):
    monkeypatch.setattr(generation, "unsupported_reason", lambda *about: None)
    monkeypatch.setattr(generation, "fill_steps", None)
    assert race([toy_entry()], 12, 4, strategy="ancestral", repeats=1).entries[0].trace is not None


@pytest.mark.parametrize("strategy", ["low_confidence", "threshold"])
@pytest.mark.parametrize("architecture", ["diffuapriel", "diffutran"])
def test_a_model_of_blocks_that_stays_on_the_device_writes_the_same_text(monkeypatch, architecture, strategy):
    """A commit is a pass of its own there, in which no token changes."""
    monkeypatch.setattr(generation, "TRACED", 8)
    options = {"length": 16, "steps": 8, "strategy": strategy, "repeats": 2}
    entry = toy_entry(architecture, block_lengths=(4,))
    plain = race([entry], **options).entries[0]
    monkeypatch.setattr(CachedDenoiser, "unsupported_reason", lambda *about: None)
    ours = race([entry], **options).entries[0]
    changed = [
        tuple(map(tuple, (ids for ids in recording.canvases()))) for recording in (plain.recording, ours.recording)
    ]
    distinct = [[a for a, b in zip(found, [None, *found]) if a != b] for found in changed]
    assert distinct[0] == distinct[1] and len(distinct[0]) > 4
    commits = 3  # one for each block but the last
    assert len(ours.step_ms) == ours.forward_passes >= len(distinct[1]) - 1 + commits
    assert ours.cache_bytes > 0 and 0 < ours.denoiser_share <= 1


def test_an_entry_with_its_own_rule_takes_the_passes_of_that_rule():
    rule = {"strategy": "threshold", "threshold": 0.0, "block_length": 4}
    plain = sleeping_entry("plain", lambda _: 0)
    own = dataclasses.replace(plain, name="own", generation=rule)
    assert plain.with_own_rule() is plain, "without a record it takes the strategy of the race"
    raced = race([plain, own, own.with_own_rule()], 16, 16, repeats=1, warmup_steps=1, temperature=0.5)
    assert [entry.forward_passes for entry in raced.entries] == [16, 16, 4]
    assert [entry.tokens_per_pass for entry in raced.entries] == [1, 1, 4]
    assert raced.own_rules and raced.entries[2].rule == {**rule, "block_start": "prompt"}
    said = (
        "each by its own rule (A low_confidence in 16 steps; B low_confidence in 16 steps; C threshold 0, blocks of 4)"
    )
    assert said in raced.fairness()[0] and "temperature 0.5" in raced.fairness()[0]
    again = RaceResult.from_dict(json.loads(json.dumps(raced.to_dict())))
    assert again.sampler(again.entries[2]) == SamplerConfig(
        "threshold", threshold=0.0, steps=16, temperature=0.5, block_length=4
    )
