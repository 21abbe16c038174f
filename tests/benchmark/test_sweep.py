"""The sweep over length: what comes out of known costs, and what is refused before it starts."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from diffuapriel.benchmark import memory
from diffuapriel.benchmark.entry import Entry
from diffuapriel.benchmark.sweep import SweepResult, extrapolate, sweep, sweep_events
from tests.benchmark.fakes import sleeping_entry

LENGTHS = (64, 128, 256, 512)


def linear(length: int) -> float:
    return 0.008 + length * 1e-5


def quadratic(length: int) -> float:
    return length**2 * 2.5e-7


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return [sleeping_entry("linear", linear), sleeping_entry("quadratic", quadratic)]


@pytest.fixture(scope="module")
def result(entries) -> SweepResult:
    return sweep(entries, lengths=LENGTHS, repeats=2)


def test_every_entry_is_measured_at_every_length(result):
    assert [(p.entry, p.length) for p in result.points] == [(entry, n) for entry in result.entries for n in LENGTHS]
    assert not result.refusals
    for point in result.points:
        assert point.ms >= 1000 * (linear if point.entry == "linear" else quadratic)(point.length)
        assert point.ms_min <= point.ms <= point.ms_max
        assert point.tokens_per_second == pytest.approx(1000 * point.length / point.ms)


def test_the_linear_entry_overtakes(result):
    (cross,) = result.crossovers
    assert cross.faster_above == "linear"
    assert LENGTHS[0] < cross.length < LENGTHS[-1]
    assert result.exponents["linear"] < result.exponents["quadratic"]


def test_entries_take_turns_and_never_run_together(entries):
    for entry in entries:
        entry.denoiser.calls.clear()
    sweep(entries, lengths=(64,), repeats=2)
    calls = sorted((call, name) for name, entry in enumerate(entries) for call in entry.denoiser.calls)
    assert [name for _, name in calls] == [0, 1, 0, 1, 1, 0]  # warm-up, then A B B A
    assert all(end <= start for ((_, end), _), ((start, _), _) in pairwise(calls))


def test_a_sweep_can_be_watched_and_stopped(entries):
    events = sweep_events(entries, lengths=LENGTHS, repeats=1)
    first = next(events)
    assert 0 < first.fraction < 1
    assert "warmed up at 64 tokens" in first.message
    seen = [event.fraction for event, _ in zip(events, range(4))]
    assert seen == sorted(seen)
    events.close()


def test_json_round_trip(result):
    text = json.dumps(result.to_dict())
    assert SweepResult.from_dict(json.loads(text)) == result
    assert json.loads(text)["crossovers"][0]["faster_above"] == "linear"
    with pytest.raises(ValueError, match="diffuapriel-sweep-result"):
        SweepResult.from_dict({"schema": "other"})


def test_a_sweep_saved_before_entries_had_their_name_still_loads(result):
    values = json.loads(json.dumps(result.to_dict())) | {"version": 1}
    values["lanes"] = values.pop("entries")
    for row in values["points"] + values["refusals"]:
        row["lane"] = row.pop("entry")
    assert SweepResult.from_dict(values) == result


def test_a_length_that_does_not_fit_is_refused_with_the_figure(monkeypatch):
    entry = Entry.random("nano", "diffutran")
    monkeypatch.setattr(memory, "available_bytes", lambda device: 40_000_000)
    lengths = (64, 4096)
    result = sweep([entry], lengths=lengths, repeats=1)
    assert [p.length for p in result.points] == [64]
    (refused,) = result.refusals
    assert refused.length == 4096
    assert "at 4,096 tokens needs about" in refused.message
    assert "40.0 MB is available" in refused.message
    assert "shorter length" in refused.message


def test_an_entry_that_was_refused_goes_no_further(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1)
    entry = Entry.random("nano", "diffuapriel")
    result = sweep([entry, sleeping_entry("free", lambda _: 0)], lengths=(64, 128), repeats=1)
    assert [r.length for r in result.refusals if r.entry == entry.name] == [64, 128]
    assert {p.entry for p in result.points} <= {"free"}


def test_what_takes_too_long_is_refused_with_the_seconds():
    # Growth that even the noise of a busy machine cannot make look shorter than the limit, and no call that is long.
    slow = sleeping_entry("slow", lambda length: {64: 0.05, 128: 0.2}.get(length, 0.0))
    result = sweep([slow], lengths=(64, 128, 65_536), repeats=1, max_seconds=5)
    (refused,) = result.refusals
    assert refused.length == 65_536
    assert "would take about" in refused.message
    assert "the limit is 5 s" in refused.message


def test_growth_is_carried_on():
    assert extrapolate({100: 1.0, 200: 2.0}, 400) == pytest.approx(4.0)
    assert extrapolate({100: 1.0, 200: 4.0}, 400) == pytest.approx(16.0)
    assert extrapolate({100: 1.0, 200: 1.0}, 400) == pytest.approx(2.0)  # at least linear
    assert extrapolate({100: 1.0, 200: 64.0}, 400) == pytest.approx(256.0)  # at most quadratic
    assert extrapolate({100: 1.0}, 400) == pytest.approx(16.0)
    assert extrapolate({}, 400) == 0.0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lengths": ()}, "lengths is empty"),
        ({"lengths": (0,)}, "a length is 0"),
        ({"lengths": (2.5,)}, "a length is 2.5"),
        ({"repeats": 0}, "repeats is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
    ],
)
def test_bad_options_are_refused_by_name(entries, options, names):
    with pytest.raises(ValueError, match=names):
        sweep(entries, **options)
    with pytest.raises(ValueError, match="at least one entry"):
        sweep([])
