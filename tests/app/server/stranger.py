"""How a stranger speaks to the app: over HTTP, past the page, to every door that it names and to those it does not."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
HEADERS = {"Content-Type": "application/json"}
CLIENT = httpx.Client(timeout=120, verify=False)  # one for all calls: making one takes longer than a call
# What each parameter is sent when another one is tried: small enough that what is accepted is done at once.
SMALL: dict[str, Any] = {
    "model": "toy-diffuapriel",
    "models": ["toy-diffuapriel"],
    "writer": "toy-diffuapriel",
    "a": "toy-diffuapriel",
    "b": "toy-diffutran",
    "longest": 128,
    "text": "A [MASK:2] b.",
    "length": 8,
    "steps": 1,
    "repeats": 1,
    "rounds": 1,
    "windows": 4,
    "strategies": ["low_confidence"],
    "seed": 1,
}


@dataclass(frozen=True)
class Answer:
    """How a call ended: "complete", "error" or "http", and everything that was said until then."""

    event: str
    said: str
    data: Any = None  # the last data

    @property
    def refusal(self) -> str:
        """The message of an error; empty where there is none."""
        return str(self.data.get("error") or "") if isinstance(self.data, dict) else ""


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns. It runs on a thread of its own: after a browser test this one has a loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def doors(url: str) -> dict[str, list[dict[str, Any]]]:
    """The named endpoints and their parameters."""
    named = CLIENT.get(f"{url}gradio_api/info").json()["named_endpoints"]
    return {name.strip("/"): door["parameters"] for name, door in named.items()}


def small_values(name: str, parameters: list[dict[str, Any]]) -> list[Any]:
    """Values that an endpoint accepts, with little work behind them."""
    values = [SMALL.get(p["parameter_name"], p.get("parameter_default")) for p in parameters]
    if name == "steps_quality":  # here the steps are a list
        values[[p["parameter_name"] for p in parameters].index("steps")] = [4]
    return values


def takes_file(parameter: dict[str, Any]) -> bool:
    """Whether a parameter is a file: an upload, or the link to an answer's file."""
    return parameter["parameter_name"] == "trace"


def call(url: str, name: str, data: Any) -> Answer:
    """Call a named endpoint and read its stream to the end."""
    started = CLIENT.post(f"{url}gradio_api/call/{name}", content=json.dumps({"data": data}), headers=HEADERS)
    if started.status_code != 200:  # NaN is no JSON, a wrong shape is no call
        return Answer("http", f"{started.status_code} {started.text}")
    said, event = [], ""
    with CLIENT.stream("GET", f"{url}gradio_api/call/{name}/{started.json()['event_id']}") as stream:
        for line in stream.iter_lines():
            event = line.removeprefix("event: ") if line.startswith("event: ") else event
            if line.startswith("data: "):
                said.append(line.removeprefix("data: "))
                if event in ("complete", "error"):
                    return Answer(event, "\n".join(said), json.loads(said[-1]))
    return Answer("cut", "\n".join(said))


def join(url: str, number: int, data: Any) -> Answer:
    """Call a handler by its number, as the page does; this also reaches those without a name."""
    session = uuid.uuid4().hex
    body = json.dumps({"session_hash": session, "fn_index": number, "data": data})
    started = CLIENT.post(f"{url}gradio_api/queue/join", content=body, headers=HEADERS)
    if started.status_code != 200:
        return Answer("http", f"{started.status_code} {started.text}")
    said = []
    stream_url = f"{url}gradio_api/queue/data?session_hash={session}"
    with CLIENT.stream("GET", stream_url) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            said.append(line.removeprefix("data: "))
            message = json.loads(said[-1])
            if message["msg"] == "process_completed":
                return Answer("complete" if message["success"] else "error", "\n".join(said), message["output"])
    return Answer("cut", "\n".join(said))
