"""The tools of the MCP server, called with the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mcp", reason="needs the extra mcp: pip install -e '.[mcp]'")
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from app.server.models import Models
from tests.app.server.stranger import finished

TOY = "toy-diffuapriel"


@pytest.fixture(scope="module")
def url(checkpoints) -> Iterator[str]:
    from app.main import build, launch

    page = build(Models(checkpoints))
    yield launch(page, mcp=True)
    page.close(verbose=False)


def calls(url: str, *asked: tuple[str, dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The tools by name, and the texts that answer calls (tool, arguments), in one session."""

    async def session() -> tuple[dict[str, Any], list[str]]:
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as one,
        ):
            await one.initialize()
            tools = {tool.name: tool for tool in (await one.list_tools()).tools}
            return tools, [(await one.call_tool(*call)).content[0].text for call in asked]

    return finished(session())


def test_tools_are_named_as_described_and_their_schemas_can_be_fulfilled(url):
    tools, _ = calls(url)
    names = ("unmask", "open_trace", "trace_gif", "race", "sweep", "results", "models", "inside", "inside_closer")
    assert set(tools) == {*names, "surprisal", "steps_quality"}
    for tool in tools.values():
        assert len(tool.description) > 30
        for parameter in tool.inputSchema["properties"].values():
            values = parameter.get("enum") or parameter.get("items", {}).get("enum") or []
            assert parameter["description"] and all(isinstance(value, str) for value in values)
    assert "`models` lists" in str(tools["race"].inputSchema)
    types = {name: one.get("type") for name, one in tools["inside_closer"].inputSchema["properties"].items()}
    assert types["layer"] == types["head"] == "integer"


def test_a_text_is_answered_as_json_and_its_link_becomes_a_gif(url):
    _, [text] = calls(
        url, ("unmask", {"text": "Mia found a [MASK:3].", "model": TOY, "length": 0, "steps": 2, "strategy": "random"})
    )
    answer = json.loads(text)
    assert answer["text"].startswith("Mia found a ") and answer["steps"] == 2 and len(text) < 2000
    link = {"trace": answer["trace"]}
    _, [opened, gif] = calls(url, ("open_trace", link), ("trace_gif", link))
    assert json.loads(opened)["text"] == answer["text"]
    assert json.loads(gif)["gif"].endswith(".gif")


def test_lists_and_numbers_reach_the_tools_and_refusals_are_plain_text(url):
    points = {"writer": TOY, "strategies": ["random"], "steps": [4], "windows": 4}
    layer = {"text": "a [MASK]", "model": "toy-diffutran", "layer": 2}
    _, [quality, closer, refused] = calls(
        url, ("steps_quality", points), ("inside_closer", layer), ("unmask", {"text": "a", "steps": 0})
    )
    assert json.loads(quality)["points"][0]["steps"] == 4
    assert len(json.loads(closer)["attention"]) == len(json.loads(closer)["attention"][0])
    assert "steps is 0; it must be a whole number from 1 to 256" in refused and "&#" not in refused
