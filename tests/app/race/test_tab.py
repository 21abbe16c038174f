"""The Race tab's handlers: the result, what was fair, the replay, the sweep, Stop and refusals."""

from __future__ import annotations

import html
import json
from dataclasses import replace

import gradio as gr
import pytest

from app.race import replay
from app.race.outcome import outcome
from app.race.request import opening, where_it_runs
from app.race.store import SavedResult
from app.race.tab import RaceTab
from app.server.guard import guarded_stream
from app.server.models import ModelEntry
from app.strings.language import texts
from app.ui import render
from diffuapriel.benchmark import memory
from diffuapriel.benchmark import sweep as throughput
from diffuapriel.benchmark.result import EntryResult, RaceResult
from diffuapriel.charts.palette import COLORS
from diffuapriel.trace.recording import Recording

ASK = {
    "a": "toy-diffuapriel",
    "b": "toy-diffutran",
    "c": "",
    "length": 16,
    "steps": 4,
    "strategy": "low_confidence",
    "repeats": 1,
    "seed": 0,
    "block": 0,
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
    *_, (replay, pixels, table, status) = tab.race.run(**ASK, request=visitor)
    assert not pixels["visible"]
    message = json.loads(replay["value"])
    assert message["schema"] == "diffuapriel-race"
    assert [entry["label"] for entry in message["lanes"]] == ["toy-diffuapriel", "toy-diffutran"]
    assert all(len(entry["trace"]["frames"]) == 5 for entry in message["lanes"])
    for words in ("ms per step", "tokens/s", "forward passes", "peak memory", "parameters", "2.5M"):
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
    *_, (*_, status) = tab.race.run(**ASK, request=visitor)
    assert "nothing was measured" in status


def test_a_long_canvas_is_a_picture_with_the_words_that_each_step_wrote(tab, visitor, monkeypatch):
    monkeypatch.setattr(replay, "READABLE", 8)
    *_, (player, pixels, table, _) = tab.race.run(**ASK, request=visitor)
    assert not player["visible"]
    message = json.loads(pixels["value"])
    (known,) = message["vocab"].values()
    for lane in message["lanes"]:
        recording = Recording.from_dict(lane["recording"])
        *_, last = recording.canvases()
        assert recording.counts == (0, 4, 4, 4, 4)
        assert all(str(token) in known for token in last.tolist())
    assert [lane["color"] for lane in message["lanes"]] == [COLORS["diffuapriel"], COLORS["diffutran"]]
    assert message["verdict"] in html.unescape(table)


def test_the_result_says_what_was_measured_at_other_lengths_too(tab, visitor):
    short = tab.store.add(visitor.session_hash, SavedResult(race=raced(length=128, seconds=(3.2, 1.0)))).race
    long = raced(length=2048, seconds=(1.0, 2.1))
    *_, table = tab.race.shown(long, visitor.session_hash)
    assert "At 128 tokens attention wins: Mamba takes 3.2 times as long." in table
    assert "At 2,048 tokens Mamba wins: attention takes 2.1 times as long." in table
    assert "another length" not in table
    assert "another length" in tab.race.shown(short, "somebody else")[-1]


def test_overlapping_or_single_runs_are_too_close_to_call(tab):
    assert outcome(raced(seconds=(1.0, 1.05), repeats=1)).startswith("At 128 tokens it is too close to call")
    overlapping = raced(seconds=(1.0, 1.5), spread=0.3)
    assert "between Mamba and attention" in outcome(overlapping)
    assert "too close to call" in render.results(overlapping, outcome(overlapping))
    assert outcome(raced(seconds=(1.0, 1.05), repeats=3)).startswith("At 128 tokens Mamba wins")


def test_numbers_of_a_race_are_german_on_the_german_page(tab):
    tab.models._entries["trained"] = ModelEntry("trained", "", True, "gpt2-4k", window=1024)
    with texts.speaking("de"):
        assert outcome(raced(length=2048, seconds=(1.0, 2.1))).startswith("Bei 2.048 Tokens gewinnt Mamba")
        assert "Bei 2.048 Tokens ist es zu knapp" in outcome(raced(length=2048, seconds=(1.0, 1.01)))
        assert "Texten von 1.024 Tokens" in tab.race.clock_hint(raced(length=2048, names=("trained", "other")))


def test_two_models_of_one_kind_are_told_apart_by_their_names(tab):
    twins = raced(seconds=(1.0, 2.0), kinds=("diffuapriel", "diffuapriel"))
    assert outcome(twins) == "At 128 tokens diffuapriel 0 wins: diffuapriel 1 takes 2.0 times as long."


def test_the_page_says_when_to_read_the_clock_and_not_the_text(tab):
    assert "random weights" in tab.race.clock_hint(raced(weights="random"))
    assert "as many steps as tokens" in tab.race.clock_hint(raced(steps=8))
    readable = replace(raced(steps=128), block_length=16)
    assert tab.race.clock_hint(readable) == ""
    tab.models._entries["trained"] = ModelEntry("trained", "", True, "gpt2-4k", window=64)
    assert "texts of 64 tokens" in tab.race.clock_hint(raced(steps=128, names=("trained", "other")))


def test_the_tab_opens_with_a_race_that_shows_the_crossover(models, monkeypatch):
    own = opening(models)
    assert own.entries == ("toy-diffuapriel", "toy-diffutran", "")  # those that were given
    models.has_own = False
    on_cpu = opening(models)
    assert on_cpu.entries == tuple(
        f"{kind} nano, random weights" for kind in ("diffuapriel", "diffutran", "diffuapriel-h")
    )
    assert (on_cpu.short.length, on_cpu.long.length) == (128, 2048)
    models.device = "cuda"
    monkeypatch.setattr(memory, "available_bytes", lambda device: 80 * 10**9)
    assert opening(models).entries[0] == "diffuapriel 1.3b, random weights" and opening(models).long.length == 65_536
    monkeypatch.setattr(memory, "available_bytes", lambda device: 8 * 10**9)
    assert opening(models).entries[0] == "diffuapriel small, random weights"


def raced(
    length=128,
    steps=32,
    seconds=(1.0, 2.0),
    spread=0.0,
    repeats=2,
    kinds=("diffuapriel", "diffutran"),
    weights="trained",
    names=(),
):
    """The result of a race with known times."""
    entries = tuple(
        EntryResult(
            name=names[i] if names else f"{kind} {i}",
            architecture=kind,
            tokenizer="gpt2-4k",
            parameters=1000,
            weights=weights,
            dtype="float32",
            device="cpu",
            attention="none",
            seconds=time,
            seconds_min=time * (1 - spread),
            seconds_max=time * (1 + spread),
            step_ms=(1000 * time / steps,) * steps,
            ms_per_step=1000 * time / steps,
            tokens=length,
            tokens_per_second=length / time,
            forward_passes=steps,
            denoiser_share=0.9,
            peak_memory_bytes=0,
        )
        for i, (kind, time) in enumerate(zip(kinds, seconds))
    )
    order = tuple(entry.name for entry in entries)
    about = ("low_confidence", 1.0, 0, repeats, 2, order, (), "a machine", 1, "a clock", "not measured", "2.13")
    return RaceResult(entries, length, steps, *about)


def test_a_model_may_race_random_weights(tab, visitor):
    *_, (*_, table, _) = tab.race.run(**(ASK | {"b": "diffutran nano, random weights"}), request=visitor)
    assert "random" in table


def test_three_lanes_race_and_the_third_may_be_left_out(tab, visitor):
    third = {"c": "diffuapriel-h nano, random weights"}
    *_, (replay, _, table, _) = tab.race.run(**(ASK | third), request=visitor)
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
    assert "toy-diffutran wins against toy-diffuapriel at" in fair  # prose is below the charts
    assert status.count("<div") == 1
    assert "Parameters" in fair and "Attention kernel" in fair and "in an order that is reversed" in fair
    assert any("<progress" in update[-1] for update in updates)


def test_the_papers_figures_are_drawn_and_said_to_be_the_papers(tab, visitor, short_lengths):
    *_, (_, _, ratio, below, _) = tab.sweep.run(**(SWEEP | {"longest": 128}), request=visitor)
    labels = [note.text for note in ratio["value"].layout.annotations]
    assert "the paper, v1: up to 4.4×, diffuapriel" in labels
    assert "the paper, v3: up to 8.2×, diffuapriel" in labels
    assert not any("diffuapriel-h" in label for label in labels)  # no such entry runs
    assert "not measured here" in below and "1.3B on long sequences" in below


def test_without_diffutran_there_is_nothing_to_hold_against_the_paper(tab, visitor, short_lengths):
    same = {"b": "toy-diffuapriel", "longest": 64}
    *_, (latency, _, ratio, below, _) = tab.sweep.run(**(SWEEP | same), request=visitor)
    assert not ratio["visible"]
    assert len(latency.data) >= 2
    assert "the paper" not in below.lower()


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
        ({"block": -1}, "block is -1"),
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
    assert (limits.race_tokens("cpu"), limits.race_tokens("cuda")) == (16_384, 65_536)


def test_both_lanes_run_in_their_best_form(tab, visitor, monkeypatch):
    from diffuapriel.benchmark.entry import Entry

    tuned = []
    monkeypatch.setattr(Entry, "tuned", lambda entry: tuned.append(entry.name) or entry)
    list(tab.race.run(**ASK, request=visitor))
    assert tuned == ["toy-diffuapriel", "toy-diffutran"]
