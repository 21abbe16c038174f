"""A race of a model against itself distilled: offered where both are, and each writes by its own recorded rule."""

from __future__ import annotations

import json

import gradio as gr
import pytest

from app.race.export import from_dict, to_dict
from app.race.request import OWN_RULE, distilled_pairs, race_settings, race_strategies, read_race
from app.race.tab import RaceTab
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.strings.language import texts
from app.ui import render
from diffuapriel.trace.player.gradio_host import html_component_arguments
from tests.app.toys import toy_blocks, toy_student

ASK = {"a": "toy-diffuapriel", "b": "toy-student", "c": "", "length": 16, "steps": 16, "strategy": OWN_RULE}
ASK |= {"repeats": 1, "seed": 0, "block": 0}


@pytest.fixture(scope="module")
def student(checkpoints, tmp_path_factory) -> str:
    return toy_student(tmp_path_factory.mktemp("student"), checkpoints[0])


@pytest.fixture(scope="module")
def tab(checkpoints, student) -> RaceTab:
    return RaceTab(Models([*checkpoints, student]), Limits())


def test_a_student_is_offered_against_its_teacher_where_both_are_here(tab, student, checkpoints, tmp_path_factory):
    assert [tuple(map(str, pair)) for pair in distilled_pairs(tab.models)] == [("toy-diffuapriel", "toy-student")]
    assert tab.models.find("toy-student").teacher == "toy-diffuapriel"
    alone = Models([checkpoints[1], student])
    assert distilled_pairs(alone) == [] and OWN_RULE in race_strategies(alone)
    blocks = tmp_path_factory.mktemp("blocks")
    teacher = toy_blocks(blocks)
    found = distilled_pairs(Models([teacher, toy_student(blocks, teacher)]))
    assert [tuple(map(str, pair)) for pair in found] == [("toy-blocks, block length 16", "toy-student, block length 4")]


def test_without_a_recorded_rule_there_is_neither_the_button_nor_the_choice(checkpoints, limits, monkeypatch):
    monkeypatch.setattr("diffuapriel.checkpoint.bundled", lambda: [])
    models = Models(checkpoints)
    assert OWN_RULE not in race_strategies(models) and distilled_pairs(models) == []
    with pytest.raises(Refused, match="strategy is 'own_rule'"):
        read_race(models, limits, *(ASK | {"b": "toy-diffutran"}).values())


def test_the_button_sets_the_pair_its_length_and_their_rules(tab):
    with gr.Blocks() as page:
        tab.build(html_component_arguments())
    (button,) = (b for b in page.blocks.values() if getattr(b, "value", "") == "toy-student against its teacher")
    sets = next(fn for fn in page.fns.values() if (button._id, "click") in fn.targets)
    assert sets.fn() == ("toy-diffuapriel", "toy-student", "", 32, 32, OWN_RULE)
    assert [component.elem_id for component in sets.outputs[:3]] == ["race-a", "race-b", "race-c"]
    assert list(race_settings(tab.models, tab.limits))[:6] == ["a", "b", "c", "length", "steps", "strategy"]
    assert texts.RACE_OF_STUDENTS in str(page.config["components"])


def test_each_writes_by_its_own_rule_and_the_passes_stand_beside_the_time(tab, visitor):
    *_, (replay, _, table, status) = tab.race.run(**ASK, request=visitor)
    teacher, student = json.loads(replay["value"])["lanes"]
    assert status == "" and [len(lane["trace"]["frames"]) - 1 for lane in (teacher, student)] == [16, 4]
    assert teacher["trace"]["header"]["meta"]["strategy"] == "low_confidence"
    assert (
        student["trace"]["header"]["meta"] | {"threshold": 0.0, "block_length": 4} == student["trace"]["header"]["meta"]
    )
    assert "16 passes of 1.0 tokens" in teacher["note"] and "4 passes of 4.0 tokens" in student["note"]
    assert "16<small>1.0 tokens each</small>" in table and "4<small>4.0 tokens each</small>" in table
    assert "Passes: toy-diffuapriel 16, 1.0 tokens per pass; toy-student 4, 4.0 tokens per pass." in table
    assert "each by its own rule (A low_confidence in 16 steps; B threshold 0, blocks of 4), temperature 0.5" in table
    assert "Read the clock" not in table and "another length" not in table


def test_a_saved_race_of_own_rules_is_read_with_them(tab, visitor):
    list(tab.race.run(**ASK, request=visitor))
    kept = tab.store.of(visitor.session_hash)[-1]
    saved = json.loads(json.dumps(to_dict(kept, recordings=True)))
    read = from_dict(saved).race
    assert read is not None and kept.race is not None
    assert [entry.rule for entry in read.entries] == [None, {"strategy": "threshold", "threshold": 0.0, **BLOCKS}]
    assert [read.sampler(e) for e in read.entries] == [kept.race.sampler(e) for e in kept.race.entries]
    with texts.speaking("de"):
        shown = render.results(read, "")
    assert "Strategie und Blocklänge stehen auf der Karte" in shown and "gleichen Strategie" not in shown


BLOCKS = {"block_length": 4, "block_start": "prompt"}
