"""The Race tab's handlers: the result, what was fair, the replay, the sweep, Stop and refusals."""

from __future__ import annotations

import json

import gradio as gr
import pytest

from app.race.request import where_it_runs
from app.race.tab import RaceTab
from app.server.guard import guarded_stream
from diffuapriel.benchmark import memory
from diffuapriel.benchmark import sweep as throughput

ASK = {
    "a": "toy-diffuapriel",
    "b": "toy-diffutran",
    "c": "",
    "length": 16,
    "steps": 4,
    "strategy": "low_confidence",
    "repeats": 1,
    "seed": 0,
}
SWEEP = {"a": "toy-diffuapriel", "b": "toy-diffutran", "c": "", "longest": 256}


@pytest.fixture
def tab(models, limits) -> RaceTab:
    return RaceTab(models, limits)


@pytest.fixture
def short_lengths(monkeypatch):
    """A sweep over lengths that take no time."""
    monkeypatch.setattr(throughput, "LENGTHS", (32, 64, 128))


def test_a_race_ends_with_a_replay_a_table_and_what_was_fair(tab, visitor):
    *_, (replay, table, status) = tab.race.run(**ASK, request=visitor)
    message = json.loads(replay["value"])
    assert message["schema"] == "diffuapriel-race"
    assert [entry["label"] for entry in message["lanes"]] == ["toy-diffuapriel", "toy-diffutran"]
    assert all(len(entry["trace"]["frames"]) == 5 for entry in message["lanes"])
    for words in ("ms per step", "tokens/s", "forward passes", "peak memory", "parameters", "2,508,736"):
        assert words in table
    assert "Timed one after the other, never together: A B" in table
    assert status == ""
    assert not tab.models.busy


def test_a_race_holds_the_machine_alone_until_it_ends(tab, visitor):
    stream = tab.race.run(**ASK, request=visitor)
    next(stream)
    next(stream)
    assert tab.models.busy
    stream.close()
    assert not tab.models.busy
    assert len(tab.race_stops) == 0


def test_stop_measures_nothing(tab, visitor):
    tab.race_stops.arm(visitor.session_hash)
    tab.race_stops.stop(visitor.session_hash)
    *_, (_, _, status) = tab.race.run(**ASK, request=visitor)
    assert "nothing was measured" in status


def test_a_model_may_race_random_weights(tab, visitor):
    *_, (_, table, _) = tab.race.run(**(ASK | {"b": "diffutran nano, random weights"}), request=visitor)
    assert "random" in table


def test_three_lanes_race_and_the_third_may_be_left_out(tab, visitor):
    third = {"c": "diffuapriel-h nano, random weights"}
    *_, (replay, table, _) = tab.race.run(**(ASK | third), request=visitor)
    assert len(json.loads(replay["value"])["lanes"]) == 3
    assert table.count("<tr>") == 4
    assert "A B C" in table


def test_random_weights_that_do_not_fit_together_are_refused_before_any_is_made(tab, visitor, monkeypatch):
    from diffuapriel.benchmark.entry import Entry

    monkeypatch.setattr(memory, "available_bytes", lambda device: 12_000_000_000)
    monkeypatch.setattr(Entry, "random", lambda *_, **__: pytest.fail("a model was made"))
    large = {"a": "diffuapriel 1.3b, random weights", "b": "diffutran 1.3b, random weights"}
    with pytest.raises(ValueError, match=r"needs about 1\d\.\d GB of memory.*a smaller preset"):
        list(tab.race.run(**(ASK | large), request=visitor))
    with pytest.raises(ValueError, match="a smaller preset"):
        list(tab.sweep.run(**(SWEEP | large), request=visitor))
    assert not tab.models.busy


def test_a_sweep_draws_latency_rate_and_the_speed_over_diffutran(tab, visitor, short_lengths):
    updates = list(tab.sweep.run(**(SWEEP | {"longest": 128}), request=visitor))
    latency, rate, ratio, fair, status = updates[-1]
    for figure in (latency, rate, ratio["value"]):
        assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert [trace.name.split(" (slope")[0] for trace in latency.data[:2]] == [
        "toy-diffuapriel",
        "toy-diffutran",
    ]
    assert list(latency.data[0].x) == list(rate.data[0].x) == [32, 64, 128]
    assert [trace.name for trace in ratio["value"].data] == ["toy-diffuapriel"]
    assert "toy-diffutran wins against toy-diffuapriel at" in status
    assert "Parameters" in fair and "Attention kernel" in fair and "in an order that is reversed" in fair
    assert any("<progress" in update[-1] for update in updates)


def test_the_papers_figures_are_drawn_and_said_to_be_the_papers(tab, visitor, short_lengths):
    *_, (_, _, ratio, _, status) = tab.sweep.run(**(SWEEP | {"longest": 128}), request=visitor)
    labels = [note.text for note in ratio["value"].layout.annotations]
    assert "the paper, v1: up to 4.4×, diffuapriel" in labels
    assert "the paper, v3: up to 8.2×, diffuapriel" in labels
    assert not any("diffuapriel-h" in label for label in labels)  # no such entry runs
    assert "not measured here" in status and "1.3B on long sequences" in status


def test_without_diffutran_there_is_nothing_to_hold_against_the_paper(tab, visitor, short_lengths):
    same = {"b": "toy-diffuapriel", "longest": 64}
    *_, (latency, _, ratio, _, status) = tab.sweep.run(**(SWEEP | same), request=visitor)
    assert not ratio["visible"]
    assert len(latency.data) >= 2
    assert "the paper" not in status.lower()


def test_a_sweep_that_is_stopped_keeps_its_points(tab, visitor, short_lengths):
    tab.sweep_stops.arm(visitor.session_hash)
    stream = tab.sweep.run(**(SWEEP | {"longest": 128}), request=visitor)
    updates = []
    for update in stream:
        updates.append(update)
        if getattr(update[0], "data", None):
            tab.sweep_stops.stop(visitor.session_hash)
    assert "Stopped" in updates[-1][-1]
    assert len(tab.store.of(visitor.session_hash)) == 1
    assert not tab.models.busy


def test_results_go_when_their_visitor_leaves(tab, visitor):
    list(tab.race.run(**ASK, request=visitor))
    assert [kept.kind for kept in tab.store.of(visitor.session_hash)] == ["race"]
    tab.leave(visitor.session_hash)
    assert len(tab.store) == 0


def test_what_does_not_fit_is_refused_with_the_figure(tab, visitor, short_lengths, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100_000)
    *_, (*_, status) = tab.sweep.run(**(SWEEP | {"longest": 128}), request=visitor)
    assert "100 kB is available" in status
    assert not tab.store.of(visitor.session_hash)


def test_a_race_that_does_not_fit_is_a_message(tab, visitor, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100_000)
    with pytest.raises(gr.Error, match="100 kB is available") as caught:
        list(guarded_stream(tab.race.run, str)(**ASK, request=visitor))
    assert caught.value.title == "Not enough memory"
    assert not tab.models.busy


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"a": "nobody"}, "model is 'nobody'"),
        ({"b": None}, "model is None"),
        ({"c": "nobody"}, "model is 'nobody'"),
        ({"c": ["toy-diffutran"]}, "model is"),
        ({"length": 0}, "length is 0"),
        ({"length": 10**9}, "length is 1000000000"),
        ({"steps": float("nan")}, "steps is nan"),
        ({"strategy": ""}, "strategy is ''"),
        ({"repeats": 100}, "timed runs is 100"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_values_of_a_race_are_refused_by_name(tab, visitor, changes, names):
    with pytest.raises(ValueError, match=names):
        list(tab.race.run(**(ASK | changes), request=visitor))


@pytest.mark.parametrize("longest", [0, 255, 10**7, "4096", None, float("inf"), [1024]])
def test_a_bad_longest_length_is_refused(tab, visitor, longest):
    with pytest.raises(ValueError, match="longest length is"):
        list(tab.sweep.run(**(SWEEP | {"longest": longest}), request=visitor))


def test_without_a_gpu_the_tab_says_plainly_that_the_race_runs_on_the_cpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert where_it_runs("cpu") == "There is no NVIDIA GPU here: the race runs on the CPU."


def test_on_a_gpu_the_tab_names_the_card_and_allows_longer_canvases(limits, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert where_it_runs("cuda").startswith("The race runs on NVIDIA H200, in bfloat16")
    assert (limits.race_tokens("cpu"), limits.race_tokens("cuda")) == (1024, 8192)


def test_both_lanes_run_in_their_best_form(tab, visitor, monkeypatch):
    from diffuapriel.benchmark.entry import Entry

    tuned = []
    monkeypatch.setattr(Entry, "tuned", lambda entry: tuned.append(entry.name) or entry)
    list(tab.race.run(**ASK, request=visitor))
    assert tuned == ["toy-diffuapriel", "toy-diffutran"]
