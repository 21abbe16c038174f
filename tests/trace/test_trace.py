"""A recorded run: the same after JSON, harmless in a page, and nothing foreign or damaged is read."""

import copy
import dataclasses
import html.parser
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.frames import frame_to_dict
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace import format as schema
from diffuapriel.trace.trace import Trace, embeddable
from tests.sampling.models import Letters, fixed_logits

TOKENIZER = get_tokenizer("gpt2-4k")
EVIL = "</script><script>alert(1)</script><!--<style>\u2028\u2029<!--DATA--><!--TITLE-->&amp;"


def record(text: str = "Mia found a[MASK:6].", strategy: str = "remdm", **options) -> Trace:
    canvas = Canvas.from_text(text, TOKENIZER)
    sampler = Sampler(SamplerConfig(strategy, **{"steps": 5, **options}), get_schedule("log-linear"), canvas.mask_id)
    denoiser = fixed_logits(len(canvas), TOKENIZER.vocab_size)
    return Trace.record(sampler, denoiser, canvas, TOKENIZER, model="toy", architecture="none")


TRACE = record()
DATA = json.loads(TRACE.to_json())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_json_round_trip(strategy):
    trace = record(strategy=strategy, remask_cap=0.5)
    again = Trace.from_json(trace.to_json())
    assert again == trace and again.to_json() == trace.to_json()
    assert Trace.from_json(trace.to_json().encode()) == trace


@given(
    st.lists(st.integers(0, 4095), min_size=1, max_size=6),
    st.text(max_size=20).filter(lambda s: "[MASK" not in s),
)
@settings(max_examples=40, deadline=None)
def test_json_round_trip_of_any_tokens_and_names(ids, name):
    ids = torch.tensor([*ids, TOKENIZER.mask_id])
    canvas = Canvas(ids, ids != TOKENIZER.mask_id, TOKENIZER.mask_id)
    sampler = Sampler(SamplerConfig(), get_schedule("cosine"), TOKENIZER.mask_id)
    name = name.encode("utf-8", "replace").decode()
    trace = Trace.record(sampler, fixed_logits(len(ids), TOKENIZER.vocab_size), canvas, TOKENIZER, model=name)
    assert Trace.from_json(trace.to_json()) == trace


def test_the_file_is_what_the_player_was_promised():
    assert {k: DATA[k] for k in ("schema", "version", "length", "mask_id", "eos_id")} == {
        "schema": "diffuapriel-trace", "version": 3, "length": len(TRACE.fixed), "mask_id": 4097, "eos_id": 4096,
    }  # fmt: skip
    expected = {"model": "toy", "architecture": "none", "tokenizer": "gpt2-4k", "strategy": "remdm", "steps": 5,
                "temperature": 1.0, "seed": 0, "created": ""}  # fmt: skip
    assert DATA["meta"].items() >= expected.items()
    assert DATA["meta"].items() >= {"remask_cap": 0.04, "top_k": None, "schedule": "log-linear"}.items()
    assert DATA["frames"] == [json.loads(json.dumps(frame_to_dict(f))) for f in TRACE.frames]
    used = {i for f in DATA["frames"] for i in f["ids"]} | {
        i for f in DATA["frames"] for pairs in f["top_k"].values() for i, _ in pairs
    }
    assert {int(i) for i in DATA["vocab"]} == used
    assert all(len(pairs) == 5 for f in DATA["frames"] for pairs in f["top_k"].values())


def test_final_and_text_are_those_of_the_last_frame():
    assert TRACE.final == TRACE.frames[-1].ids
    assert TRACE.text == TOKENIZER.decode(TRACE.final) and TRACE.text.startswith("Mia found a")


def test_the_text_of_an_unknown_tokenizer_is_its_display_strings():
    letters = Letters()
    canvas = Canvas.from_text("ab", letters, length=3)
    sampler = Sampler(SamplerConfig(temperature=0.0), get_schedule("log-linear"), letters.mask_id)
    trace = Trace.record(sampler, fixed_logits(3, letters.vocab_size), canvas, letters)
    assert trace.text == letters.decode(trace.final)
    lying = dataclasses.replace(trace, meta={**trace.meta, "tokenizer": "gpt2"})
    assert lying.text == trace.text


def test_frames_may_be_recorded_apart_from_the_sampler():
    canvas = Canvas.from_text("Mia[MASK:3]", TOKENIZER)
    sampler = Sampler(SamplerConfig(), get_schedule("log-linear"), canvas.mask_id)
    frames = list(sampler.stream(fixed_logits(len(canvas), TOKENIZER.vocab_size), canvas))
    trace = Trace.of(frames, canvas, TOKENIZER, sampler.config, model="m", created="2025-11-20T10:00:00Z")
    assert trace.frames == tuple(frames) and trace.meta["created"] == "2025-11-20T10:00:00Z"
    assert Trace.from_json(trace.to_json()) == trace
    with pytest.raises(ValueError, match="no frames"):
        Trace.of([], canvas, TOKENIZER, sampler.config)


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 4, "1", None, True, 1.0])
def test_another_version_is_refused(version):
    with pytest.raises(ValueError, match="this program reads the versions 1 to 3"):
        Trace.from_json(json.dumps({**DATA, "version": version}))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"schema": "other"}', "[" * 100_000, '{"schema":NaN}', b"\xff\xfe\x00", "9" * 5000,
     TRACE.to_json()[:-40]],
)  # fmt: skip
def test_what_is_no_trace_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"trace: this is (not JSON|no DiffuApriel trace)") as error:
        Trace.from_json(text)
    assert len(str(error.value)) < 300


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match="not dict"):
        Trace.from_json(DATA)


def test_a_file_that_is_too_large_is_refused():
    text = TRACE.to_json()
    assert Trace.from_json(text, max_bytes=len(text)) == TRACE
    with pytest.raises(ValueError, match="permitted: up to 1,000"):
        Trace.from_json(text, max_bytes=1000)
    with pytest.raises(ValueError, match="permitted: up to 10,000,000"):
        Trace.from_json("[" + "[]," * 17_000_000 + "[]]")


def test_a_trace_has_as_many_frames_as_a_run_can_have_steps_and_edits(monkeypatch):
    monkeypatch.setattr(schema, "MAX_FRAMES", len(TRACE.frames))
    assert Trace.from_json(TRACE.to_json()) == TRACE
    monkeypatch.setattr(schema, "MAX_FRAMES", len(TRACE.frames) - 1)
    with pytest.raises(ValueError, match=f"frames is .*up to {len(TRACE.frames) - 1}"):
        Trace.from_json(TRACE.to_json())


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 65 + "]" * 65], ids=["lists", "objects", "65"]
)
def test_json_nested_too_deeply_is_refused(text):
    with pytest.raises(ValueError, match="trace: this is not JSON"):
        Trace.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["length"], 12, "fixed is a list of 11"),
        (["length"], 0, "length is 0; permitted"),
        (["mask_id"], True, "mask_id is True"),
        (["eos_id"], 4097, "eos_id is 4097"),
        (["fixed", 2], 1, r"fixed\[2\] is 1"),
        (["extra"], 1, "unknown fields"),
        (["vocab", "01"], "x", "key '01'"),
        (["vocab", "99999"], "x", "key '99999'"),
        (["vocab", "4097"], "\ud800", r"vocab\[4097\]"),
        (["vocab", "4097"], "x" * 5000, r"vocab\[4097\]"),
        (["meta", "strategy"], "magic", "meta.strategy is 'magic'"),
        (["meta", "temperature"], -1, "meta.temperature is -1"),
        (["meta", "steps"], 2.5, "meta.steps is 2.5"),
        (["meta", "model"], None, "meta.model is None"),
        (["meta", "note"], {"deep": 1}, "meta"),
        (["frames"], [], "one frame or more"),
        (["frames", 1, "step"], 0, r"frames\[1\].step is 0"),
        (["frames", 1, "t"], 1.5, r"frames\[1\].t is 1.5; permitted: 0 to 1"),
        (["frames", 1, "ids", 3], 17, r"frames\[1\].ids\[3\] is 17"),
        (["frames", 1, "ids"], [1], r"frames\[1\].ids is a list of 1"),
        (["frames", 1, "revealed"], [4, 3], "not ascending"),
        (["frames", 1, "revealed"], [11], r"frames\[1\].revealed\[0\] is 11"),
        (["frames", 1, "confidence", 0], 1.01, r"frames\[1\].confidence\[0\] is 1.01"),
        (["frames", 1, "entropy", 0], -0.1, r"frames\[1\].entropy\[0\] is -0.1"),
        (["frames", 1, "top_k"], [], r"frames\[1\].top_k is \[\]"),
        (["frames", 1, "top_k", "x"], [], "key 'x'"),
        (["frames", 1, "top_k", "4"], [[17, 0.5]], r"top_k\[4\]\[0\]"),
        (["frames", 1, "top_k", "4"], [[4097, 2]], "is 2; permitted: 0 to 1"),
        (["frames", 1, "top_k", "4"], [[4097, 0.0]] * 65, "65 alternatives"),
        (["frames", 2, "nfe"], 0, r"frames\[2\].nfe is 0"),
        (["frames", 1, "ms"], -1, r"frames\[1\].ms"),
        (["frames", 1, "color"], 1, "unknown fields"),
    ],
)
def test_a_damaged_field_is_refused_by_name(path, value, message):
    data = copy.deepcopy(DATA)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Trace.from_json(json.dumps(data))


def test_the_time_in_the_denoiser_may_be_missing():
    data = copy.deepcopy(DATA)
    for frame in data["frames"]:
        del frame["denoiser_ms"]
    assert all(frame.denoiser_ms == 0 for frame in Trace.from_json(json.dumps(data)).frames)


# As written by version 2; version 1 had no frame field after denoiser_ms.
OLD = {
    "schema": "diffuapriel-trace", "version": 2,
    "meta": {"model": "toy", "architecture": "none", "tokenizer": "gpt2-4k", "strategy": "confidence", "steps": 2,
             "block_length": None, "temperature": 1.0, "top_k": None, "top_p": None, "repetition_penalty": 1.0,
             "threshold": 0.9, "remask_cap": 0.04, "seed": 0, "schedule": "log-linear", "created": ""},
    "length": 2, "mask_id": 4097, "eos_id": 4096, "fixed": [False, False],
    "vocab": {"12": " a", "13": " b", "4097": "[MASK]"},
    "frames": [
        {"step": 0, "t": 1.0, "ids": [4097, 4097], "revealed": [], "remasked": [], "confidence": [None, None],
         "entropy": [None, None], "top_k": {}, "nfe": 0, "ms": 0.0, "denoiser_ms": 0.0, "why": {}, "rival": None,
         "bar": None, "edits": {}},
        {"step": 1, "t": 0.5, "ids": [4097, 12], "revealed": [1], "remasked": [], "confidence": [None, 0.75],
         "entropy": [None, 0.5], "top_k": {"1": [[12, 0.75], [13, 0.25]]}, "nfe": 1, "ms": 2.0, "denoiser_ms": 1.5,
         "why": {"1": [1, 0.75]}, "rival": 0.625, "bar": 0.875, "edits": {}},
    ],
}  # fmt: skip


def test_a_trace_of_version_2_is_read_and_written_as_version_3():
    trace = Trace.from_json(json.dumps(OLD))
    assert trace.meta["strategy"] == "low_confidence" and trace.final == (4097, 12)
    assert (trace.frames[1].runner_up, trace.frames[1].threshold) == (0.625, 0.875)
    assert trace.frames[1].why == {1: (1, 0.75)} and trace.frames[0].runner_up is None
    written = json.loads(trace.to_json())
    assert written["version"] == 3 and Trace.from_json(json.dumps(written)) == trace
    remasking = {**OLD, "meta": {**OLD["meta"], "strategy": "remask"}}
    assert Trace.from_json(json.dumps(remasking)).meta["strategy"] == "remdm"


def test_a_trace_of_version_1_is_read():
    later = ("denoiser_ms", "why", "rival", "bar", "edits")
    frames = [{name: value for name, value in frame.items() if name not in later} for frame in OLD["frames"]]
    trace = Trace.from_json(json.dumps({**OLD, "version": 1, "frames": frames}))
    assert trace.frames[1].confidence == (None, 0.75) and trace.frames[1].why == {}
    assert trace.frames[1].runner_up is trace.frames[1].threshold is None


def test_a_draft_is_kept_and_a_trace_without_one_has_no_such_field():
    frame = {**OLD["frames"][0], "draft": [[0, 12], [1, 13]]}
    data = {**OLD, "frames": [frame, OLD["frames"][1]]}
    trace = Trace.from_json(json.dumps(data))
    assert trace.frames[0].draft == ((0, 12), (1, 13)) and trace.frames[1].draft == ()
    first, second = json.loads(trace.to_json())["frames"]
    assert first["draft"] == [[0, 12], [1, 13]] and "draft" not in second
    assert Trace.from_json(trace.to_json()) == trace
    for bad in ([[2, 12]], [[0, 14]], [[0]], {"0": 12}):
        with pytest.raises(ValueError, match="draft"):
            Trace.from_json(json.dumps({**OLD, "frames": [{**frame, "draft": bad}]}))


def places(value, path=()):
    """The paths of everything inside a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


PLACES = [path for path in places(DATA) if path]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK | st.just(...)), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_is_refused_or_read_and_never_crashes(damages):
    data = copy.deepcopy(DATA)
    for path, junk in damages:
        place = data
        try:
            for key in path[:-1]:
                place = place[key]
            if junk is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = junk
        except (KeyError, IndexError, TypeError):
            continue  # an earlier damage took this place away
    text = json.dumps(data)
    try:
        trace = Trace.from_json(text)
    except ValueError as error:
        assert str(error).startswith("trace: ") and len(str(error)) < 600
        return
    again = Trace.from_json(trace.to_json())
    assert again == trace and isinstance(trace.text, str) and "</main>" in trace.to_html()


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_refused_by_name(junk):
    with pytest.raises(ValueError, match="trace: "):
        Trace.from_json(junk)


@given(st.integers(0, len(TRACE.to_json()) - 1))
@settings(max_examples=50, deadline=None)
def test_a_truncated_file_is_refused(end):
    with pytest.raises(ValueError, match="trace: this is not JSON"):
        Trace.from_json(TRACE.to_json()[:end])


# ---- the page --------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Which elements a page has, what is inside scripts and the title, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.inside: dict[str, str] = {}
        self.comments = 0
        self.fetched: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._open = values.get("id", tag) if tag == "script" else tag
        self.elements.append(tag)
        for name in ("src", "href"):
            if not (values.get(name) or "data:").startswith("data:"):
                self.fetched.append(values[name])

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open:
            self.inside[self._open] = self.inside.get(self._open, "") + data

    def handle_comment(self, data):
        self.comments += 1


def evil_trace() -> Trace:
    return dataclasses.replace(
        TRACE, vocab={i: EVIL for i in TRACE.vocab}, meta={**TRACE.meta, "model": EVIL, "created": EVIL}
    )


def test_hostile_tokens_are_text_in_the_page():
    plain, evil = Page(TRACE.to_html()), Page(evil_trace().to_html())
    assert evil.elements == plain.elements  # not one element more
    assert evil.comments == plain.comments == 0
    assert json.loads(evil.inside["trace"]) == evil_trace().to_dict()
    assert set(json.loads(evil.inside["trace"])["vocab"].values()) == {EVIL}
    assert "<" not in evil.inside["trace"] and "\u2028" not in evil.inside["trace"]


def test_the_page_holds_the_player_and_asks_for_nothing():
    page = Page(TRACE.to_html("A <b>title</b>"))
    folder = Path(schema.__file__).parent / "player"
    assert page.inside["script"] == (folder / "player.js").read_text(encoding="utf-8")
    assert (folder / "player.css").read_text(encoding="utf-8") in page.inside["style"]
    assert page.inside["title"] == "A <b>title</b>"
    assert page.elements.count("script") == 3 and not page.fetched
    assert json.loads(page.inside["trace"]) == DATA


def test_a_player_that_would_end_its_own_element_is_refused(monkeypatch):
    from diffuapriel.trace import trace as module

    for name in ("player.js", "player.css"):
        bad = "/* </script></style> */"
        monkeypatch.setattr(module, "read_source", lambda asked, name=name, bad=bad: bad if asked == name else "")
        with pytest.raises(RuntimeError, match="end its element"):
            TRACE.to_html()


@given(st.text(alphabet='</script!->\u2028\u2029\\"&x'))
def test_embedded_json_reads_the_same_and_has_no_tag(text):
    code = embeddable(json.dumps({"t": text}, ensure_ascii=False))
    assert "<" not in code and json.loads(code) == {"t": text}


def test_a_saved_page_and_a_saved_json_file_open_again():
    for text in (TRACE.to_html(), TRACE.to_json()):
        assert Trace.from_file(text) == TRACE and Trace.from_file(text.encode()) == TRACE
    with pytest.raises(ValueError, match="not JSON"):
        Trace.from_file("<html><p>no trace</p></html>")


def test_a_saved_page_says_what_it_shows_and_in_which_language():
    page = TRACE.to_html()
    assert "How a diffusion language model writes" in page and "toy · none · DiffuApriel" in page
    page = TRACE.to_html(words={"pageTitle": "Ein <b>Titel</b>", "play": "Abspielen"}, language="de")
    assert '<html lang="de">' in page and "Ein &lt;b&gt;Titel&lt;/b&gt;" in page and "Abspielen" in page
