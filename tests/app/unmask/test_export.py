"""A kept run opens in the notebooks' player and again in the app, and becomes a GIF; a foreign file does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.server.limits import Limits, Refused
from app.unmask import export
from app.unmask.export import GifExport
from diffuapriel.trace.trace import Trace
from tests.trace.player import example

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def trace() -> Trace:
    return Trace.from_json(json.dumps(example.trace()))


@pytest.fixture
def saved(trace, tmp_path) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(trace.to_json(), encoding="utf-8")
    return path


def test_a_trace_saved_by_the_app_opens_in_the_notebooks_player(trace):
    widget = pytest.importorskip("diffuapriel.trace.player.widget", reason="needs anywidget", exc_type=ImportError)
    with export.saved(trace) as (json_file, _):
        opened = Trace.from_json(Path(json_file).read_bytes())
    player = widget.Player.from_trace(opened)
    assert player.message["done"] and len(player.message["frames"]) == len(trace.frames)


def test_a_trace_of_a_notebook_opens_in_the_app(trace, saved):
    assert export.read_trace(str(saved), Limits()) == trace


def test_the_page_plays_offline_with_the_trace_in_it(trace):
    with export.saved(trace) as (_, html_file):
        page = Path(html_file).read_text(encoding="utf-8")
    assert "diffuapriel-trace" in page
    assert "http://" not in page.replace("http://www.w3.org/", "") and "https://" not in page


def test_a_trace_becomes_a_gif_with_every_step(trace, saved):
    from PIL import Image

    for path in GifExport(Limits()).draw_gif(str(saved)):
        with Image.open(path) as picture:
            assert picture.format == "GIF"
            assert picture.n_frames == len(trace.frames)
        assert Path(path).name == f"{export.file_name(trace)}.gif"
    assert not Path(path).exists()  # Gradio has taken its copy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be opened as a trace"),
        (b"\xff\xfe", "cannot be opened as a trace"),
        (b"GIF89a", "cannot be opened as a trace"),
        (b"[" * 100_000, "cannot be opened as a trace"),
        (b'{"schema": "diffuapriel-trace", "version": 99}', "version 99"),
        (json.dumps({"schema": EVIL}).encode(), "no DiffuApriel trace"),
        (b'{"schema": "diffuapriel-results", "version": 1}', "no DiffuApriel trace"),
    ],
)
def test_a_strangers_file_is_refused_with_the_reason(tmp_path, content, said):
    path = tmp_path / "evil.json"
    path.write_bytes(content)
    with pytest.raises(Refused, match=said):
        list(GifExport(Limits()).draw_gif(str(path)))


def test_a_file_that_is_too_large_is_refused_with_the_figure(saved):
    with pytest.raises(Refused, match="a trace may have up to 10"):
        list(GifExport(Limits(max_upload_bytes=10)).draw_gif(str(saved)))


@pytest.mark.parametrize("path", [None, "", "/nowhere", 3, ["/etc/passwd"], "/etc"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(Refused, match="there is no file"):
        list(GifExport(Limits()).draw_gif(path))


def test_a_page_with_the_live_model_says_its_size_and_what_is_missing(saved, tmp_path, monkeypatch):
    """The page begins with the run and the visitor's text; without onnxruntime-web it says where that comes from."""
    from app.server.models import Models
    from diffuapriel.page import runtime

    live = export.LivePageExport(Models(), Limits())
    assert live.label("tales-diffuapriel") == "Save with the live model (19 MB)"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Refused, match=r"onnxruntime-web .* is not in .*; `make page` fetches it once"):
        list(live.write(str(saved), "Mia [MASK:2]", "tales-diffuapriel"))
    folder = runtime.cache_folder() / f"onnxruntime-web-{runtime.VERSION}"
    folder.mkdir(parents=True)
    for name in {name for build in runtime.BUILDS.values() for name in build}:
        (folder / name).write_bytes(b"")
    graphs = []
    monkeypatch.setattr(
        "diffuapriel.page.build.export_onnx", lambda model, file, weights, drafts: graphs.append(file.write_bytes(b""))
    )
    for path in live.write(str(saved), "Mia [MASK:2]", "tales-diffuapriel"):
        page = Path(path).read_text(encoding="utf-8")
        assert Path(path).name == "tales-diffuapriel-live.html" and graphs
    assert '"text": "Mia [MASK:2]"' in page and '"tales-diffuapriel"' in page
    opening = page.partition('<script id="opening" type="application/json">')[2].partition("</script>")[0]
    assert Trace.from_json(opening).text == Trace.from_json(saved.read_text(encoding="utf-8")).text
    with pytest.raises(Refused, match="model"):
        list(live.write(None, "", "tiny / DiffuApriel"))
