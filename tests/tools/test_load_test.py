"""The load test's stories: asked for by several visitors at once, they are those that each would get alone."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from tests.app.toys import toy_blocks
from tools import load_test

pytestmark = pytest.mark.slow


def test_three_visitors_at_once_get_the_stories_that_they_get_alone(tmp_path, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    checkpoint = toy_blocks(tmp_path)
    assert load_test.main(["--stories", "--visitors", "3", "--port", str(port), "--checkpoint", str(checkpoint)]) == 0
    said = capsys.readouterr().out
    assert "3 visitors, each asks for a story of 96 tokens at the same moment" in said
    assert "sharing passes, the median wait is" in said
    assert "3 of 3 texts are equal to those written alone" in said
