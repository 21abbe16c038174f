"""The tabs without a browser: each endpoint of Unmask and Race through gradio_client, and what a tool is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio_client", reason="needs gradio_client: pip install gradio")
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
    "/open_trace": ("path",),
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


def path_of(value) -> str:
    """A file's path: of an endpoint that also shows its button, in an update."""
    return value["value"] if isinstance(value, dict) else value


@pytest.mark.parametrize("door", DOORS)
def test_every_endpoint_says_what_it_does_and_types_what_it_takes(doors, door):
    parameters = doors[door]["parameters"]
    assert [p["parameter_name"] for p in parameters] == list(DOORS[door])
    assert len(doors[door]["description"]) > 30
    assert all(p["python_type"]["type"] != "Any" for p in parameters)


@pytest.mark.parametrize("door", DOORS)
def test_every_parameter_is_described_to_a_tool(door, models, limits):
    from gradio.utils import get_function_description

    from app.race.tab import RaceTab
    from app.unmask.export import GifExport
    from app.unmask.tab import UnmaskTab

    race, unmask = RaceTab(models, limits), UnmaskTab(models, limits)
    handlers = {
        "/unmask": unmask.run,
        "/open_trace": unmask.open_trace,
        "/trace_gif": GifExport(limits).trace_gif,
        "/models": race.names,
        "/race": race.race.race,
        "/sweep": race.sweep.sweep,
        "/results": race.results.results,
    }
    text, parameters, returns = get_function_description(handlers[door])
    assert text and returns
    assert all(parameters[name] for name in DOORS[door])


def test_unmask_writes_a_text_and_its_trace_opens_again_and_becomes_a_gif(client):
    *_, text, json_file, html_file = client.predict(**TEXT, api_name="/unmask")
    assert text.startswith("Mia found a ")
    saved = Path(path_of(json_file)).read_bytes()
    assert Trace.from_json(saved).text == text
    assert "diffuapriel-trace" in Path(path_of(html_file)).read_text(encoding="utf-8")
    sent = handle_file(path_of(json_file))
    message, status, again = client.predict(path=sent, api_name="/open_trace")
    assert again == text and "Opened a trace of 4 frames" in status
    assert json.loads(message)["schema"] == "diffuapriel-feed"
    gif = client.predict(trace=sent, api_name="/trace_gif")
    assert Path(path_of(gif)).read_bytes()[:6] == b"GIF89a"


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
