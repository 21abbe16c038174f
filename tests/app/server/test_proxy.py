"""Behind a proxy that serves the app below a path and strips it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from gradio_client import Client, handle_file

from app.main import build, launch
from app.server.models import Models
from tests.app.server.proxy import proxied

PATH = "/lab/diffuapriel"


@pytest.fixture(scope="module")
def below(checkpoints) -> Iterator[str]:
    """The app's address at the proxy."""
    page = build(Models(checkpoints))
    with proxied(launch(page, root_path=PATH), PATH) as address:
        yield address
    page.close(verbose=False)


def test_the_page_and_its_files_are_found_below_the_path(below):
    page = httpx.get(below)
    assert page.status_code == 200
    config = json.loads(page.text.partition("window.gradio_config = ")[2].partition(";</script>")[0])
    assert config["root"] == below.rstrip("/")
    scripts = re.findall(r'"(\./assets/[^"]+\.js)"', page.text)
    assert scripts and httpx.get(below + scripts[0].removeprefix("./")).status_code == 200


def test_an_event_runs_and_its_files_come_back(below, tmp_path):
    client = Client(below, verbose=False, download_files=str(tmp_path))
    answer = client.predict(text="A [MASK:2] b.", length=8, steps=1, model="toy-diffuapriel", api_name="/unmask")
    assert answer["trace"].startswith(below)
    saved = tmp_path / "trace.json"
    saved.write_bytes(httpx.get(answer["trace"]).content)
    for trace in (answer["trace"], handle_file(str(saved))):
        assert client.predict(trace=trace, api_name="/open_trace")["text"] == answer["text"]
    client.close()


def test_a_page_of_another_site_is_refused_here_too(below):
    own, foreign = httpx.URL(below), "https://evil.example"
    answers = [
        httpx.post(f"{below}gradio_api/call/models", json={"data": []}, headers={"origin": origin}).status_code
        for origin in (f"http://{own.netloc.decode()}", foreign)
    ]
    assert answers == [200, 403]
