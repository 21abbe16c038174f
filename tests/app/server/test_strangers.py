"""Every endpoint, hostile values: refusals in words, nothing executed, no file read but the app's own. Counted."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.app.server.stranger import CLIENT, call, doors, join, small_values, takes_file

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = Path(tempfile.gettempdir()) / "diffuapriel-forbidden.json"  # beside the app's own files, not one of them
SECRET = "what-no-stranger-may-read"
TRACK = Path(tempfile.gettempdir()) / "diffuapriel-was-here"  # made by whatever executes a value
EVIL = "<img src=x onerror=alert(1)>"
PATHS = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "..\\..\\etc\\passwd",
    "/proc/self/environ",
    "file:///etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc/passwd",
    "/etc/passwd\0.json",
    str(ROOT / "app" / "main.py"),
    str(FORBIDDEN),
    "~/.ssh/id_rsa",
]
FILES = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in PATHS]
CODE = [
    f"__import__('pathlib').Path({str(TRACK)!r}).touch()",
    f"$(touch {TRACK})",
    f"`touch {TRACK}`; touch {TRACK}",
    f"{{{{ cycler.__init__.__globals__.os.popen('touch {TRACK}') }}}}",
    "<script>alert(1)</script>",
    EVIL,
    "[MASK:99999999]",
    "[MASK:-1]",
    f"[MASK:{EVIL}]",
    "{0.__class__.__mro__}",
    "%s%s%s%n",
    "\ud800",
    "\0",
    "\u202e",
]
NUMBERS = [
    float("nan"),
    float("inf"),
    float("-inf"),
    -1,
    -(2**70),
    2**31,
    2**70,
    1e308,
    -0.5,
    0.1 + 0.2,
    10**400,
]
KINDS = [
    None,
    True,
    [],
    {},
    [[[]]],
    {"__type__": "update", "value": EVIL},
    [EVIL] * 9,
    {"a": {"b": [1]}},
    "",
    "8",
]
HOSTILE = st.one_of(
    st.sampled_from([*PATHS, *FILES, *CODE, *NUMBERS, *KINDS]),
    st.text(max_size=40),
    st.integers(min_value=2**31),
    st.lists(st.one_of(st.text(max_size=5), st.integers(max_value=-1), st.none()), max_size=4),
    st.dictionaries(st.sampled_from(["path", "url", "meta", "value", "x"]), st.sampled_from(PATHS), max_size=3),
)
RUN = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def traps():
    """A file that must not be read and a file that must not appear."""
    FORBIDDEN.write_text(f'{{"secret": "{SECRET}"}}', encoding="utf-8")
    TRACK.unlink(missing_ok=True)
    yield
    FORBIDDEN.unlink()
    assert not TRACK.exists(), "a value was executed"


@pytest.fixture(scope="module")
def counts(request):
    """What came of the calls; printed at the end."""
    counted: Counter[str] = Counter()
    yield counted
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nstrangers: " + ", ".join(f"{number} {what}" for what, number in sorted(counted.items())))


def check(answer, counts: Counter[str], what: str) -> None:
    """One answer of the app to a stranger."""
    counts[f"{what} {answer.event}"] += 1
    assert answer.event in ("complete", "error", "http")
    assert answer.event != "http" or answer.said[0] == "4", answer.said
    assert SECRET not in answer.said
    assert "root:x:" not in answer.said
    assert "def main(" not in answer.said
    assert "Traceback" not in answer.said
    assert "<img" not in answer.refusal
    assert "<script" not in answer.refusal
    for note in re.findall(r'<div class=\\?"da-(?:note|story|lead)[^<]*(?:<[^<]*)*?</div>', answer.said):
        assert "<img" not in note and "<script" not in note


@settings(RUN, max_examples=130)
@given(data=st.data())
def test_a_hostile_value_at_any_parameter_of_any_endpoint(served, counts, data):
    """One bad value among good ones: so every check is reached, not only the first."""
    doors_ = _doors(served)
    name = data.draw(st.sampled_from(sorted(doors_)), label="endpoint")
    values = small_values(name, doors_[name])
    if not values:
        return
    position = data.draw(st.integers(0, len(values) - 1), label="parameter")
    values[position] = data.draw(HOSTILE, label="value")
    answer = call(served.url, name, values)
    check(answer, counts, "call:")
    silent = answer.event == "error" and not answer.refusal
    as_file = takes_file(doors_[name][position]) or isinstance(values[position], dict)
    assert not silent or as_file, "a refusal says why; of what looks like a file, Gradio's own has no words"
    assert not served.models.busy


@settings(RUN, max_examples=40)
@given(data=st.data())
def test_hostile_values_in_every_place_of_handlers_without_a_name(served, counts, data):
    config = _config(served)
    handler = data.draw(st.sampled_from(config["dependencies"]), label="handler")
    values = [data.draw(HOSTILE) for _ in handler["inputs"]]
    check(join(served.url, handler["id"], values), counts, "handler:")


@pytest.mark.parametrize("data", [[], [None] * 40, "text", {"a": 1}, None, 7, [[[[[]]]]]], ids=repr)
def test_values_of_a_wrong_shape_are_refused(served, counts, data):
    for name, parameters in _doors(served).items():
        if parameters:
            answer = call(served.url, name, data)
            check(answer, counts, "shape:")
            assert answer.event != "complete"


def test_ten_megabytes_are_refused_in_a_few_words(served, counts):
    large = "<img " + "a" * 10_000_000
    for name, parameters in _doors(served).items():
        for position in range(len(parameters)):
            values = small_values(name, parameters)
            values[position] = large
            answer = call(served.url, name, values)
            check(answer, counts, "10 MB:")
            assert answer.event != "complete", (name, position)
            assert len(answer.said) < 20_000


def test_the_refusals_name_the_value_and_what_is_permitted(served):
    doors_ = _doors(served)
    values = small_values("race", doors_["race"])
    values[0] = EVIL
    answer = call(served.url, "race", values)
    assert answer.refusal.startswith("model is '‹img")
    assert "; permitted: toy-diffuapriel" in answer.refusal


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_no_file_of_the_server_is_handed_out(served, counts, path):
    for route in (
        "file=",
        "file/",
        "stream/",
        "static/",
        "theme.css?file=",
        "custom_component/",
        "download/",
    ):
        try:
            answer = CLIENT.get(f"{served.url}gradio_api/{route}{path}", follow_redirects=False)
        except httpx.InvalidURL:
            continue
        counts["file: refused" if answer.status_code != 200 else "file: 200"] += 1
        assert SECRET not in answer.text and "root:x:" not in answer.text and "def main(" not in answer.text


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_file_of_the_server_cannot_be_sent_as_an_upload(served, counts, path):
    for name, parameters in _doors(served).items():
        for position in filter(lambda p: takes_file(parameters[p]), range(len(parameters))):
            for sent in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path}, path):
                values = small_values(name, parameters)
                values[position] = sent
                answer = call(served.url, name, values)
                check(answer, counts, "file sent:")
                assert answer.event != "complete"


def test_an_upload_stays_in_the_folder_for_uploads(served, counts):
    for name in ("../../evil.json", "/etc/evil.json", "..\\evil.json", "a" * 500 + ".json", f"{EVIL}.json"):
        sent = CLIENT.post(f"{served.url}gradio_api/upload", files={"files": (name, b"{}")})
        counts[f"upload: {sent.status_code}"] += 1
        for kept in sent.json() if sent.status_code == 200 else []:
            assert Path(kept).resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"])
            answer = call(served.url, "open_trace", [{"path": kept, "meta": {"_type": "gradio.FileData"}}])
            check(answer, counts, "upload opened:")
            assert "cannot be opened as a trace" in answer.refusal


def test_after_all_that_it_still_writes(served, counts):
    answer = call(served.url, "unmask", small_values("unmask", _doors(served)["unmask"]))
    assert answer.event == "complete"
    assert not served.models.busy


_KNOWN: dict[str, Any] = {}


def _doors(served) -> dict[str, list[dict[str, Any]]]:
    key = f"doors {served.url}"
    return _KNOWN.get(key) or _KNOWN.setdefault(key, doors(served.url))


def _config(served) -> dict[str, Any]:
    return _KNOWN.setdefault(f"config {served.url}", CLIENT.get(f"{served.url}config").json())
