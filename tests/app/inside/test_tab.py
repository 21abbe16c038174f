"""The Inside tab's handlers: what is asked, what streams in, what is drawn, Stop and refusals."""

from __future__ import annotations

import json
import math

import gradio as gr
import pytest
import torch

from app.inside import charts
from app.inside import request as inside_request
from app.inside.closer import CloserPanel
from app.inside.request import load_model, offered, opening, read_models, read_request
from app.inside.tab import InsideTab, picked_position
from app.inside.view import FAR, InspectedModel, entry_note, levels, titles, view_message
from app.server.guard import guarded_stream
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.strings.language import texts
from app.ui.token_rows import LEVELS
from diffuapriel import checkpoint
from diffuapriel.charts.palette import COLORS, faded
from diffuapriel.config import SCHEDULES
from diffuapriel.interpret.half_life import LayerHalfLives
from diffuapriel.interpret.influence import Influence
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
HYBRID = "diffuapriel-h nano, random weights"
TEXT = "Mia found a [MASK:2] and a nut."
ASK = {"text": TEXT, "models": ["toy-diffuapriel", HYBRID], "position": -1, "t": 0, "method": "gradient"}
CLOSER = {
    "text": TEXT,
    "model": HYBRID,
    "position": -1,
    "t": 0,
    "layer": 0,
    "head": 0,
    "part": "mixer",
}
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def models(checkpoints, monkeypatch) -> Models:
    """Two toys and nothing bundled, so that the hybrid is there with random weights alone."""
    monkeypatch.setattr(checkpoint, "bundled", lambda: [])
    return Models(checkpoints)


@pytest.fixture
def tab(models, limits) -> InsideTab:
    return InsideTab(models, limits)


@pytest.fixture
def closer(models, limits) -> CloserPanel:
    return CloserPanel(models, limits)


def question(text=TEXT, position=-1, t=0, limits=None):
    return read_request(limits or Limits(), TOKENIZER, text, position, t)


def influence(*values: float) -> Influence:
    return Influence(torch.tensor(values, dtype=torch.float64), token=7, probability=0.5)


# What is asked


def test_by_default_the_first_mask_is_asked_for_and_the_time_is_that_of_the_masks():
    found = question()
    masked = found.ids == TOKENIZER.mask_id
    assert found.position == int(masked.int().argmax()) and masked.sum() == 2
    assert found.t == pytest.approx(2 / (0.999 * len(found.ids)))
    assert found.sigma == pytest.approx(-math.log(1 - 2 / len(found.ids)))
    assert question(t=0.5).sigma == pytest.approx(-math.log(1 - 0.999 * 0.5))
    assert question("no mask").position == 0


def test_a_chosen_token_is_masked_for_the_question_and_still_named_on_the_page():
    found = question(position=0)
    assert found.ids[0] == TOKENIZER.mask_id and found.tokens[0] == "M"
    assert (found.ids == TOKENIZER.mask_id).sum() == 3


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": 3}, "the text is 3; it must be text"),
        ({"text": "[MASK:x]"}, "is not a hole"),
        ({"text": "[MASK:257]"}, "the text takes 257 tokens; here it may take up to 256"),
        ({"text": "[MASK:9]", "limits": Limits(max_tokens=8)}, "here it may take up to 8"),
        ({"position": 99}, "output position is 99; it must be a whole number from -1 to"),
        ({"position": "0"}, "output position is '0'"),
        ({"t": -0.1}, "t is -0.1; it must be a number from 0 to 1"),
        ({"t": float("nan")}, "t is nan"),
        ({"t": None}, "t is None"),
    ],
)
def test_a_bad_question_is_refused_by_name(changes, names):
    with pytest.raises(ValueError, match=names):
        question(**changes)


def test_one_model_of_each_architecture_stands_side_by_side(models):
    found = [models.find(label).architecture for label in opening(models)]
    assert found == ["diffuapriel", "diffuapriel-h", "diffutran"]
    assert opening(models)[0] == "toy-diffuapriel"


def test_the_page_opens_with_models_of_one_tokenizer(checkpoints, monkeypatch):
    bundled = ["tales-blocks-diffuapriel-h", "tales-diffuapriel-h"]  # the first has one of whole words
    monkeypatch.setattr(checkpoint, "bundled", lambda: bundled)
    models = Models(checkpoints)
    assert bundled[0] in offered(models)
    assert opening(models) == ["toy-diffuapriel", "tales-diffuapriel-h", "toy-diffutran"]
    read_models(models, opening(models))


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ([], "choose one to 3"),
        (["toy-diffuapriel"] * 2, "chosen twice"),
        (["toy-diffuapriel", "toy-diffutran", HYBRID, "tales-diffutran"], "choose one to 3"),
        ("toy-diffuapriel", "choose one to 3"),
        (None, "choose one to 3"),
        (["../../etc"], "model is '../../etc'"),
        (["diffutran 1.3b, random weights"], "model is 'diffutran 1.3b, random weights'"),
        ([["toy-diffuapriel"]], "model is"),
    ],
)
def test_models_that_cannot_be_looked_into_are_refused(models, chosen, names):
    with pytest.raises(Refused, match=names):
        read_models(models, chosen)


def test_models_of_different_tokenizers_are_not_compared(models, monkeypatch):
    other = "diffutran small, random weights"
    monkeypatch.setattr(inside_request, "offered", lambda _: [*offered(models), other])
    with pytest.raises(Refused, match="different tokenizers"):
        read_models(models, ["toy-diffuapriel", other])


def test_an_untrained_model_has_its_gates_opened_and_a_checkpoint_is_left_as_it_is(models):
    d_model = 112
    bias = load_model(models, models.find(HYBRID)).modulation.linear.bias.view(-1, d_model)
    assert (bias[2:36:6] == 1).all() and (bias[5:36:6] == 1).all()
    trained = load_model(models, models.find("toy-diffuapriel"))
    assert (trained.modulation.linear.bias == 0).all()


# What streams in


def test_every_model_s_row_arrives_and_the_last_update_holds_the_numbers(tab, visitor):
    updates = list(tab.look(**ASK, request=visitor))
    rows = [json.loads(update[0]) for update in updates if isinstance(update[0], str)]
    assert [len(row["lanes"]) for row in rows] == [1, 2]
    assert [entry["label"] for entry in rows[-1]["lanes"]] == ASK["models"]
    assert ["untrained" in entry["note"] for entry in rows[-1]["lanes"]] == [False, True]
    numbers, status = updates[-1][3:]
    assert numbers["models"][1]["model"] == HYBRID
    assert len(numbers["models"][1]["influence"]) == len(numbers["tokens"])
    assert all(value > 0 for value in numbers["models"][1]["influence"])
    assert sum(value > 0 for value in numbers["models"][0]["influence"]) == 1, "its gates are shut"
    assert f"Token {numbers['position']} is predicted at t = 0." in status
    assert not tab.models.busy and len(tab.stops) == 0


def test_occlusion_streams_from_near_to_far_with_a_progress_bar(tab, visitor):
    ask = ASK | {"models": [HYBRID], "method": "occlusion", "text": "[MASK] " + "nut " * 40}
    updates = list(tab.look(**ask, request=visitor))
    told = [json.loads(u[0])["lanes"][0]["titles"] for u in updates if isinstance(u[0], str)]
    open_ones = [[p for p, title in enumerate(row) if "not measured" in title] for row in told]
    length = len(told[0])
    assert length > 40 and [len(row) for row in open_ones] == [*range(length - 1, 0, -16), 0]
    assert open_ones[1] == list(range(17, length)), "the nearest sixteen came first"
    assert any("<progress" in u[4] and "one at a time" in u[4] for u in updates)
    assert updates[-1][3]["models"][0]["influence"][0] is None, "a mask tells nothing"


def test_stop_keeps_what_has_been_measured(tab, visitor):
    stream = tab.look(**(ASK | {"method": "occlusion", "text": "nut " * 60}), request=visitor)
    for update in stream:
        if isinstance(update[0], str):
            tab.stops.stop(visitor.session_hash)
    assert texts.INSIDE_STOPPED in update[4]
    assert len(update[3]["models"]) == 1
    assert not tab.models.busy


def test_a_visitor_who_leaves_frees_the_model(tab, visitor):
    stream = tab.look(**ASK, request=visitor)
    next(stream), next(stream)
    assert tab.models.busy
    stream.close()
    assert not tab.models.busy and len(tab.stops) == 0


def test_pressing_look_again_ends_the_run_that_is_under_way_and_not_the_new_one(tab, visitor):
    first = tab.look(**(ASK | {"method": "occlusion", "text": "nut " * 60}), request=visitor)
    next(first), next(first)
    tab.stops.stop(visitor.session_hash)
    tab.stops.arm(visitor.session_hash)  # what pressing does
    *_, last = first
    assert texts.INSIDE_STOPPED in last[4]
    assert tab.stops.armed(visitor.session_hash), "the new run keeps its flag"


def test_a_refusal_stays_on_the_page_as_text(tab, visitor):
    stream = guarded_stream(tab.look, lambda message: message)
    found = []
    with pytest.raises(gr.Error, match="&lt;script") as caught:
        found.extend(stream(**(ASK | {"method": EVIL}), request=visitor))
    assert caught.value.title == "Not possible"
    assert found == [f"method is '{EVIL}'; permitted: gradient, occlusion"], "the page escapes it: render.note"
    assert not tab.models.busy


@pytest.mark.parametrize("index", [-1, 256, "3", None, [1]])
def test_a_choice_that_no_row_offers_is_refused(index):
    event = gr.EventData(None, {"index": index})
    with pytest.raises(Refused, match="output position"):
        picked_position(event)
    assert picked_position(gr.EventData(None, {"index": 3})) == 3


# The rows


def test_colors_fall_by_decades_below_the_strongest():
    found = levels(influence(1.0, 0.1, 0.011, 0.009, 0.0, float("nan"), 5.0), position=6)
    assert found == [LEVELS - 1, LEVELS // 2, 0, -1, -1, -1, -1]
    assert levels(influence(0.0, 0.0), position=0) == [-1, -1]


def test_a_row_says_where_the_answer_comes_from():
    values = [3.0] + [0.0] * FAR + [9.0, 1.0]  # the first stands farther than FAR from position 17
    note = entry_note(InspectedModel("x", influence(*values), "nut"), position=FAR + 1)
    assert "predicts “nut” with 50%" in note
    assert "75% of the influence from the left, 25% from the right, 75% from more than 16 tokens away" in note
    assert entry_note(InspectedModel("x", influence(0.0, 0.0), "nut"), 0) == "predicts “nut” with 50%"
    assert entry_note(InspectedModel("x", influence(0.0, 0.0), "nut", trained=False), 0).startswith("untrained")


def test_a_token_says_its_share_and_a_mask_that_it_is_one():
    found = titles(influence(1.0, 3.0, float("nan")), 1, ["a", "b", "c"], [False, True, True])
    assert found == [
        "“a”, position 0: 25.00% of the influence",
        "position 1: the token that is predicted",
        "a mask, position 2: not measured",
    ]


def test_markup_in_a_text_cannot_leave_the_message():
    asked = question(EVIL)
    message = view_message(asked, TOKENIZER.mask_id, [InspectedModel(EVIL, influence(*[1.0] * len(asked.ids)), EVIL)])
    assert "<" not in message
    assert "".join(json.loads(message)["tokens"]) == EVIL


# A closer look at one model


def test_forward_memory_is_drawn_to_the_left_and_reverse_memory_to_the_right():
    layers = [
        LayerHalfLives(0, torch.tensor([[9.0, 99.0], [0.0, 999.0]])),
        LayerHalfLives(2, torch.ones(2, 2)),
    ]
    figure = charts.half_life_chart(layers, ["mamba", "attention", "mamba"], length=99)
    forward, reverse = figure.data
    assert list(forward.x)[:2] == pytest.approx([-1, -2]) and list(reverse.x)[:2] == pytest.approx([0, 3])
    assert [round(y) for y in forward.y] == [1, 1, 3, 3]
    assert forward.text[1] == "layer 1, head 2: 99.0 tokens"
    assert [note.y for note in figure.layout.annotations] == [2], "the attention layer says what it is"
    assert {shape.x0 for shape in figure.layout.shapes} == {-2.0, 2.0, 0}, "the text's length on both sides"


def test_the_schedule_carries_the_mark_at_the_time_in_use():
    figure = charts.schedule_chart(0.5)
    assert {trace.name for trace in figure.data if trace.name} == set(SCHEDULES)
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert [mark.x[0] for mark in marks] == [0.5, 0.5]
    assert marks[0].y[0] == pytest.approx(0.4995) and marks[1].y[0] == pytest.approx(-math.log(0.5005))
    assert {note.text for note in figure.layout.annotations} == {"50% masked", "σ = 0.69"}


def test_the_influence_chart_leaves_out_the_output_itself_and_what_is_only_rounding():
    asked = question(position=2)
    values = [1.0] * len(asked.ids)
    values[0] = 1e-9
    figure = charts.influence_chart([InspectedModel("m", influence(*values), "")], asked)
    assert figure.data[0].y[2] is None and figure.data[0].y[0] is None
    assert figure.data[0].y[1] == pytest.approx(1 / (len(values) - 1))
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.xaxis.labelalias[figure.data[0].x[0]] == "M"


def test_a_model_has_the_color_of_its_architecture_in_every_chart():
    found = [InspectedModel("m", influence(*[1.0] * len(question(position=2).ids)), "", architecture="diffutran")]
    color = COLORS["diffutran"]
    assert charts.influence_chart(found, question(position=2)).data[0].line.color == color
    maps = charts.attention_chart(torch.eye(2), ["a", "b"], "", "diffutran")
    assert maps.data[0].colorscale[1][1] == faded(color, 1)
    layers = [LayerHalfLives(0, torch.ones(2, 3))]
    assert {trace.marker.color for trace in charts.half_life_chart(layers, ["mamba"], 9, "diffutran").data} == {color}
    assert charts.modulation_chart(torch.ones(2, 3, 4), [0.1] * 4, 0.5, "diffutran").data[0].line.color == color
    others = {trace.line.color for trace in charts.schedule_chart(0.5).data}
    assert not others & set(COLORS.values())


def test_the_hybrid_shows_memory_attention_and_modulation(closer):
    *plots, layers, heads, numbers, status = closer.run(**CLOSER)
    memory, attention, modulation = (plot["value"] for plot in plots)
    assert len(memory.data) == 2
    rows = torch.tensor(attention.data[0].z)
    assert torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-4)
    assert attention.layout.title.text == "layer 6, mean of all"
    assert layers["choices"] == [("first", 0), ("layer 6", 6)]
    assert len(heads["choices"]) == 8
    assert [row["layer"] for row in numbers["half_life_tokens"]] == [1, 2, 3, 4, 5]
    assert len(numbers["modulation"]) == 6 and set(numbers["modulation"][0]) == {"shift", "scale", "gate"}
    assert len(modulation.data) == 18
    assert "5 Mamba, 1 attention" in status
    one = closer.run(**(CLOSER | {"layer": 6, "head": 2}))[1]["value"]
    assert one.layout.title.text == "layer 6, head 2" and one.data[0].z != attention.data[0].z


def test_what_a_model_does_not_have_is_said(closer):
    transformer = closer.run(**(CLOSER | {"model": "toy-diffutran"}))
    assert transformer[0]["value"].layout.annotations[0].text == texts.HALF_LIFE_NONE
    assert "no Mamba layer" in transformer[6]
    mamba = closer.run(**(CLOSER | {"model": "toy-diffuapriel", "part": "mlp"}))
    assert mamba[1]["value"].layout.annotations[0].text == texts.ATTENTION_NONE
    assert mamba[3]["choices"] == [("first", 0)]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"layer": 1}, "layer is 1; permitted: 0, 6"),
        ({"layer": 7}, "layer is 7; it must be a whole number from 0 to 6"),
        ({"model": "toy-diffuapriel", "layer": 1}, "layer is 1; it must be a whole number from 0 to 0"),
        ({"head": 8}, "head is 8; it must be a whole number from 0 to 7"),
        ({"head": None}, "head is None"),
        ({"part": EVIL}, "part is"),
        ({"model": "diffutran 1.3b, random weights"}, "model is"),
    ],
)
def test_what_cannot_be_shown_from_closer_by_is_refused(closer, changes, names):
    with pytest.raises(Refused, match=names):
        closer.run(**(CLOSER | changes))
    assert not closer.models.busy


def test_the_model_from_closer_by_is_one_of_those_looked_at(closer):
    follow, a, b = closer.follow, "toy-diffuapriel", "toy-diffutran"
    update, layer, head = follow([a, b], b)
    assert ([label for _, label in update["choices"]], update["value"], layer, head) == ([a, b], b, 0, 0)
    assert follow([a], b)[0]["value"] == a
    assert follow([], b)[0]["value"] is None and follow(None, None)[0]["choices"] == []
    assert follow(["nobody"], b)[0]["choices"] == []
