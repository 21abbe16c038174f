"""The tabs without a browser: each endpoint of Unmask and Race through gradio_client, and what a tool is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("gradio_client", reason="needs gradio_client: pip install gradio")
import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from diffuapriel.benchmark.result import RaceResult
from diffuapriel.trace.trace import Trace

DOORS = {
    "/unmask": (
        "text",
        "model",
        "length",
        "steps",
        "strategy",
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "block",
        "block_start",
        "threshold",
    ),
    "/open_trace": ("trace",),
    "/trace_gif": ("trace",),
    "/models": (),
    "/race": ("a", "b", "c", "length", "steps", "strategy", "repeats", "seed", "block"),
    "/sweep": ("a", "b", "c", "longest"),
    "/results": ("recordings",),
}
TEXT = {"text": "Mia found a [MASK:3].", "length": 0, "steps": 3, "model": "toy-diffuapriel"}
LANES = {"a": "toy-diffuapriel", "b": "toy-diffutran"}


@pytest.fixture(scope="module")
def client(served, tmp_path_factory) -> Iterator[Client]:
    client = Client(served.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


@pytest.fixture(scope="module")
def doors(client) -> dict:
    return client.view_api(return_format="dict")["named_endpoints"]


@pytest.mark.parametrize("door", DOORS)
def test_every_endpoint_says_what_it_does_and_types_what_it_takes(doors, door):
    parameters = doors[door]["parameters"]
    assert [p["parameter_name"] for p in parameters] == list(DOORS[door])
    assert len(doors[door]["description"]) > 30
    assert all(p["python_type"]["type"] != "Any" for p in parameters)


@pytest.mark.parametrize("door", DOORS)
def test_every_parameter_and_the_answer_have_a_name_and_a_description(doors, door):
    assert all(p["python_type"]["description"] for p in doors[door]["parameters"])
    assert [answer["label"] for answer in doors[door]["returns"]] == ["answer"]


def test_what_can_be_chosen_is_listed_and_numbers_are_numbers(doors):
    types = {p["parameter_name"]: p["type"] for p in doors["/unmask"]["parameters"]}
    assert types["model"]["enum"] == ["toy-diffuapriel", "toy-diffutran", *types["model"]["enum"][2:]]
    closer = {p["parameter_name"]: p["type"] for p in doors["/inside_closer"]["parameters"]}
    assert closer["layer"]["type"] == closer["head"]["type"] == "integer"
    quality = {p["parameter_name"]: p["type"] for p in doors["/steps_quality"]["parameters"]}
    assert quality["steps"]["items"]["type"] == "integer"


def test_unmask_writes_a_text_and_its_trace_opens_again_and_becomes_a_gif(client, tmp_path):
    answer = client.predict(**TEXT, api_name="/unmask")
    assert answer["text"].startswith("Mia found a ") and answer["masks_left"] == 0
    assert [set(story) for story in answer["stories"]] == [
        {"story", "complete", "fits_the_story_grammar", "consistent", "reason"}
    ]
    saved = httpx.get(answer["trace"]).content
    assert Trace.from_json(saved).text == answer["text"]
    assert "diffuapriel-trace" in httpx.get(answer["page"]).text
    (tmp_path / "trace.json").write_bytes(saved)
    for trace in (answer["trace"], handle_file(str(tmp_path / "trace.json"))):
        opened = client.predict(trace=trace, api_name="/open_trace")
        assert opened["text"] == answer["text"] and opened["frames"] == 4
        gif = client.predict(trace=trace, api_name="/trace_gif")["gif"]
        assert httpx.get(gif).content[:6] == b"GIF89a"


def test_a_refusal_is_plain_text(client):
    with pytest.raises(AppError) as refused:
        client.predict(**(TEXT | {"model": "<gpt>"}), api_name="/unmask")
    assert str(refused.value).startswith("model is '‹gpt›'; permitted: toy-diffuapriel")


def test_a_race_and_a_sweep_answer_with_figures_and_are_kept_for_the_session(client, monkeypatch):
    from diffuapriel.benchmark import sweep as throughput

    monkeypatch.setattr(throughput, "LENGTHS", (32, 64))
    assert set(LANES.values()) < set(client.predict(api_name="/models"))
    race = client.predict(**LANES, c="toy-diffutran", length=8, steps=2, repeats=1, api_name="/race")
    result = RaceResult.from_dict(race["result"])
    assert [entry.name for entry in result.entries] == [*LANES.values(), "toy-diffutran (2)"]
    assert any("Parameters" in line for line in race["fairness"])
    sweep = client.predict(**LANES, longest=64, api_name="/sweep")
    assert {point["length"] for point in sweep["result"]["points"]} == {32, 64}
    assert any("toy-diffutran wins against toy-diffuapriel" in line for line in sweep["summary"])
    kept = client.predict(api_name="/results")["results"]
    assert [one["kind"] for one in kept] == ["race", "sweep"]


def test_another_visitor_sees_none_of_it(served, client):
    stranger = Client(served.url, verbose=False)
    assert stranger.predict(api_name="/results")["results"] == []
    stranger.close()


@pytest.mark.parametrize(
    ("door", "values", "said"),
    [
        ("/race", LANES | {"a": "nobody"}, "permitted"),
        ("/race", LANES | {"length": 10**9}, "from 1 to"),
        ("/race", LANES | {"steps": "2"}, "whole number"),
        ("/sweep", LANES | {"longest": -1}, "longest length"),
        ("/unmask", TEXT | {"steps": 0}, "from 1 to"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(client, served, door, values, said):
    with pytest.raises(AppError, match=said):
        client.predict(**values, api_name=door)
    assert not served.models.busy
