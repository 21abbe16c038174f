"""The served app, spoken to as a stranger would: over HTTP, past the page, with whatever values."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app.main import build
from app.server.stops import Stops
from diffuapriel.device import resolve_device

ROOT = Path(__file__).resolve().parents[3]
GOOD = ["Mia found a [MASK:6].", "toy-diffuapriel", 0, 4, "low_confidence", 1.0, 0, 1.0, 0, 0, "prompt", 0.9]
MORE = [1.0, 0.1]  # of the page alone
EVIL = "<img src=x onerror=alert(1)>"


def call(served, name: str, data: list) -> tuple[str, list | str]:
    """Call an endpoint and read its stream to the end: ("complete" or "error", the last data)."""
    url = f"{served.url}gradio_api/call/{name}"
    body = json.dumps({"data": data})  # NaN stays NaN, which is not even JSON
    started = httpx.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=60)
    if started.status_code != 200:
        return "error", started.text
    event = payload = ""
    with httpx.stream("GET", f"{url}/{started.json()['event_id']}", timeout=60) as stream:
        for line in stream.iter_lines():
            event = line.removeprefix("event: ") if line.startswith("event: ") else event
            payload = line.removeprefix("data: ") if line.startswith("data: ") else payload
            if event in ("complete", "error") and line.startswith("data: "):
                return event, json.loads(payload)
    return event, payload


def run_of_the_page(config: dict) -> int:
    """The number of the handler behind the Run button of the Unmask tab: its settings and the visitor's state."""
    return next(d["id"] for d in config["dependencies"] if d["queue"] and len(d["inputs"]) == len(GOOD) + len(MORE) + 1)


def test_the_endpoint_writes_a_text(served):
    event, data = call(served, "unmask", GOOD)
    assert event == "complete"
    assert data[0]["text"].startswith("Mia found a")


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, "[MASK:99999999]"),
        (0, "a" * 100_000),
        (0, {"path": "/etc/passwd"}),
        (1, "/etc"),
        (1, EVIL),
        (2, float("nan")),
        (2, 1e308),
        (3, -5),
        (3, [1, 2]),
        (4, EVIL),
        (5, float("-inf")),
        (6, "3; drop"),
        (7, None),
        (8, 2**70),
    ],
)
def test_hostile_values_are_refused_and_the_app_goes_on(served, position, value):
    data = [*GOOD]
    data[position] = value
    event, answer = call(served, "unmask", data)
    assert event == "error"
    assert "<img" not in json.dumps(answer)
    assert not served.models.busy


@pytest.mark.parametrize("data", [[], GOOD[:3], [None] * 9, "text", {"a": 1}])
def test_a_wrong_number_of_values_is_refused(served, data):
    assert call(served, "unmask", data)[0] == "error"
    assert not served.models.busy


def test_a_file_of_the_server_cannot_be_opened_as_a_trace(served):
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), "../../pyproject.toml"):
        event, answer = call(served, "open_trace", [{"path": path, "meta": {"_type": "gradio.FileData"}}])
        assert event == "error"
        assert "root:" not in json.dumps(answer)
        assert httpx.get(f"{served.url}gradio_api/file={path}").status_code in (403, 404)


def test_race_and_sweep_refuse_too(served):
    assert call(served, "race", ["toy-diffuapriel", EVIL, "", 8, 2, "low_confidence", 1, 0])[0] == "error"
    assert call(served, "sweep", ["toy-diffuapriel", "toy-diffutran", "", float("nan")])[0] == "error"
    assert not served.models.busy


def test_after_all_that_it_still_writes(served):
    assert call(served, "unmask", GOOD)[0] == "complete"


def test_a_visitor_who_leaves_frees_the_model(served):
    config = httpx.get(f"{served.url}config").json()
    number = run_of_the_page(config)
    # None: the page's own state
    data = ["", "toy-diffuapriel", 512, 256, "low_confidence", 1.0, 0, 1.0, 0, 0, "prompt", 0.9, *MORE, None]
    session = {"session_hash": "leaver", "fn_index": number, "data": data}
    assert httpx.post(f"{served.url}gradio_api/queue/join", json=session).status_code == 200
    with httpx.stream("GET", f"{served.url}gradio_api/queue/data?session_hash=leaver", timeout=60) as stream:
        for line in stream.iter_lines():
            if "diffuapriel-feed" in line:
                break
        assert served.page.room.seats
    deadline = time.monotonic() + 120
    while served.page.room.seats and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not served.models.busy


def test_a_visitor_who_closes_the_page_frees_the_model_within_one_step(served, monkeypatch):
    """A page holds two streams open, its heartbeat and its events. When both are gone, no further step begins."""
    passes, told = [], []
    stop = Stops.stop

    def noted(stops: Stops, session: str | None) -> None:
        stop(stops, session)
        told.extend([len(passes)] if session == "closer" and not told else [])

    monkeypatch.setattr(Stops, "stop", noted)
    denoiser = served.models.load(served.models.find("toy-diffuapriel")).denoiser
    hook = denoiser.embedding.register_forward_hook(lambda *_: passes.append(None))
    heartbeat = httpx.stream("GET", f"{served.url}gradio_api/heartbeat/closer", timeout=60)
    with heartbeat as beats, hook:
        alive = beats.iter_raw()  # closes the stream when it is collected
        next(alive)
        number = run_of_the_page(httpx.get(f"{served.url}config").json())
        data = ["", "toy-diffuapriel", 1024, 256, "low_confidence", 1.0, 0, 1.0, 0, 0, "prompt", 0.9, *MORE, None]
        body = {"session_hash": "closer", "fn_index": number, "data": data}
        assert httpx.post(f"{served.url}gradio_api/queue/join", json=body).status_code == 200
        url = f"{served.url}gradio_api/queue/data?session_hash=closer"
        with httpx.stream("GET", url, timeout=60) as stream:
            next(line for line in stream.iter_lines() if "diffuapriel-feed" in line)
        beats.close()
        deadline = time.monotonic() + 120
        while (served.page.room.seats or not told) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not served.models.busy
        assert told, "the app was never told that the visitor left"
        assert len(passes) <= told[0] + 1, "at most the step that was under way ended"
        assert len(passes) < 256


def test_only_the_doors_that_are_meant_are_open(served):
    doors = httpx.get(f"{served.url}gradio_api/info").json()["named_endpoints"]
    written = {"/unmask", "/open_trace", "/race", "/sweep", "/results", "/models", "/trace_gif"}
    measured = {"/inside", "/inside_closer", "/surprisal", "/steps_quality"}
    assert set(doors) == written | measured


def test_a_tool_is_called_what_it_does(models):
    """An MCP server names its tools after the functions."""
    open_ones = [handler for handler in build(models).fns.values() if handler.api_visibility == "public"]
    names = [getattr(handler.fn, "__name__", "") for handler in open_ones]
    assert len(set(names)) == len(names) > 8
    assert not {"run", "look", "wrapper", "<lambda>"} & set(names)


def test_the_page_asks_nothing_of_other_machines_and_keeps_no_history(served):
    config = httpx.get(f"{served.url}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")


def test_a_bad_checkpoint_is_one_line_and_exit_code_2_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "app" / "main.py"), "--checkpoint", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("app: no checkpoint 'nowhere'")
    assert "Traceback" not in done.stderr


def test_an_unknown_device_is_refused():
    assert str(resolve_device("cpu")) == "cpu"
    with pytest.raises(ValueError, match="device is 'abacus', which cannot be used here"):
        resolve_device("abacus")
