"""The Unmask tab in a visitor's hands: edits between steps, branches, files, and commands that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.server.limits import Limits, Refused
from app.unmask.request import COMMANDS, read_command
from app.unmask.session import OPENING, UnmaskSession, canvas_text
from app.unmask.tab import UnmaskTab
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.trace.trace import Trace
from tests.app.unmask.toys import IDS, LABEL, LENGTH, OTHERS, TALE, TOKENIZER, HeartModels, sure

SETTINGS = ["", LABEL, LENGTH, LENGTH, "low_confidence", 0.0, 0, 1.0, 0, 0, "prompt", 0.9, 1.0, 0.1]
RED, BOX, CAT, _ = OTHERS
MASK = TOKENIZER.mask_id


@pytest.fixture
def tab() -> UnmaskTab:
    return UnmaskTab(HeartModels(), Limits())


@pytest.fixture
def visit(tab) -> UnmaskSession:
    return tab.new_session()


def event(visit: UnmaskSession, do: str, **more) -> SimpleNamespace:
    return SimpleNamespace(_data={"run": visit.name or OPENING, "do": do, "at": None, **more})


def run(tab, visitor, visit, command=None, **_):
    """A run of the model, as Run ("do" is None), Resume or One step start it: the last message and all updates."""
    if command is not None:
        tab.ask(command, visit)
    updates = list(tab.run(*SETTINGS, request=visitor, session=visit))
    return json.loads(updates[-1][0]), updates


def edit(tab, visitor, visit, do, *, settings=SETTINGS, **more):
    message, status, text, length, _ = tab.edit(event(visit, do, **more), visitor, visit, *settings)
    return (json.loads(message) if isinstance(message, str) else None), status, text, length


def ids(visit: UnmaskSession) -> list[int]:
    return visit.run.state.ids[0].tolist()


def test_resume_and_one_step_go_on_with_the_canvas_on_the_screen(tab, visitor, visit):
    message, _ = run(tab, visitor, visit, event(visit, "step"))
    assert len(message["frames"]) == 2 and not message["done"] and not message["live"] and message["steer"]
    message, updates = run(tab, visitor, visit, event(visit, "step"))
    assert len(message["frames"]) == 3 and "Stopped after step 2" in updates[-1][1]
    message, updates = run(tab, visitor, visit, event(visit, "go"))
    assert message["done"] and ids(visit) == IDS
    assert "Consistent" in updates[-1][1] and f"{LENGTH} tokens in {LENGTH} steps" in updates[-1][1]


def test_the_most_probable_token_comes_first_and_says_why(tab, visitor, visit):
    message, _ = run(tab, visitor, visit, event(visit, "step"))
    best, second = sorted(map(sure, range(LENGTH)), reverse=True)[:2]
    frame = message["frames"][1]
    ((_, (rank, score)),) = frame["why"].items()
    assert (rank, score, frame["runner_up"]) == (
        1,
        pytest.approx(best, abs=1e-3),
        pytest.approx(second, abs=1e-3),
    )


def test_an_edit_of_the_canvas_that_the_page_opened_with(tab, visitor, visit):
    message, _, text, length = edit(tab, visitor, visit, "type", first=0, last=0, text="Mark")
    assert text == "Mark" and length == LENGTH
    assert message["header"]["fixed"].count(True) == len(TOKENIZER.encode("Mark"))
    assert [frame["step"] for frame in message["frames"]] == [0]
    list(tab.run(text, LABEL, length, *SETTINGS[3:], request=visitor, session=visit))
    assert TOKENIZER.decode(ids(visit)).startswith("Mark")


def test_run_starts_over_with_what_is_fixed(tab, visitor, visit):
    run(tab, visitor, visit)
    _, _, text, length = edit(tab, visitor, visit, "pin", first=3, last=3)
    assert text == "[MASK:3] five" and length == LENGTH
    settings = [text, LABEL, length, *SETTINGS[3:]]
    message = json.loads(list(tab.run(*settings, request=visitor, session=visit))[-1][0])
    assert message["header"]["fixed"] == [p == 3 for p in range(LENGTH)]
    assert message["frames"][0]["ids"].count(MASK) == LENGTH - 1


def test_run_takes_the_text_where_it_was_changed_since(tab, visitor, visit):
    run(tab, visitor, visit)
    edit(tab, visitor, visit, "pin", first=3, last=3)
    settings = ["Ruth had", *SETTINGS[1:]]
    message = json.loads(list(tab.run(*settings, request=visitor, session=visit))[-1][0])
    assert message["header"]["fixed"][:4] == [True, True, True, False]


def test_clearing_and_choosing_are_the_visitors_in_the_trace(tab, visitor, visit):
    run(tab, visitor, visit)
    message, status, *_ = edit(tab, visitor, visit, "choose", first=7, last=7, id=BOX)
    assert message["frames"][-1]["edits"] == {"7": "choose"} and ids(visit)[7] == BOX
    assert "Does not fit the story grammar" in status
    assert message["remarks"]["at"].keys() == {"7"} and message["remarks"]["step"] == LENGTH + 1
    message, status, *_ = edit(tab, visitor, visit, "mask", first=7, last=9)
    assert message["frames"][-1]["remasked"] == [7, 8, 9] and "3 masks left" in status
    assert "Fits the story grammar so far" in status
    run(tab, visitor, visit, event(visit, "go"))
    assert ids(visit) == IDS
    trace = Trace.from_json(visit.trace().to_json())
    assert [f.edits for f in trace.frames if f.edits] == [{7: "choose"}, {7: "mask", 8: "mask", 9: "mask"}]


def test_an_edit_at_an_earlier_step_branches_and_keeps_the_other_ending(tab, visitor, visit):
    run(tab, visitor, visit)
    last = next(p for p in range(LENGTH) if sure(p) == min(map(sure, range(LENGTH))))
    message, *_ = edit(tab, visitor, visit, "type", first=last, last=last, text=" red", at=5)
    assert len(message["frames"]) == 7 and len(message["other"]["frames"]) == LENGTH + 1
    message, _ = run(tab, visitor, visit, event(visit, "go"))
    assert "other" not in message, "the page has it already"
    ending = ids(visit)
    assert ending != IDS and visit.other.state.ids[0].tolist() == IDS
    assert sum(a != b for a, b in zip(ending, IDS)) == LENGTH - 5
    message, *_ = edit(tab, visitor, visit, "swap")
    assert ids(visit) == IDS and message["other"]["frames"][-1]["step"] == LENGTH


def test_going_on_from_an_earlier_step_draws_another_ending_each_time(tab, visitor, visit):
    visitor_settings = [*SETTINGS[:4], "random", 5.0, *SETTINGS[6:]]
    endings = []
    for _ in range(3):
        command = {} if not endings else {"command": event(visit, "go", at=4)}
        tab.ask(command["command"], visit) if command else None
        list(tab.run(*visitor_settings, request=visitor, session=visit))
        endings.append(tuple(ids(visit)))
    assert len(set(endings)) == 3
    start = [row[:] for row in ([*f.ids] for f in visit.run.frames())][4]
    assert all(a in (b, MASK) for a, b in zip(start, endings[0])), "what was written by step 4 stays"


def test_going_on_takes_the_settings_on_the_page(tab, visitor, visit):
    run(tab, visitor, visit)
    tab.edit(event(visit, "mask", first=0, last=8), visitor, visit, *SETTINGS)
    tab.ask(event(visit, "go"), visit)
    settings = [*SETTINGS[:3], 3, *SETTINGS[4:]]
    message = json.loads(list(tab.run(*settings, request=visitor, session=visit))[-1][0])
    meta, frames = message["header"]["meta"], message["frames"]
    assert meta["steps"] == 3 and meta["options_since"] == LENGTH + 1
    assert len(frames) - 1 - meta["options_since"] == 2, "as many at a time as a whole canvas in three steps"


def test_a_mask_says_what_the_model_would_put_there_and_takes_it(tab, visitor, visit):
    run(tab, visitor, visit)
    edit(tab, visitor, visit, "mask", first=3, last=4)
    message = json.loads(tab.guess(event(visit, "guess"), visit, *SETTINGS)[0])
    assert message["run"] == visit.name and message["frames"] == []
    guesses = message["guesses"]
    assert guesses["step"] == LENGTH + 1 and guesses["at"].keys() == {"3", "4"}
    assert [i for i, _ in guesses["at"]["3"]] == [IDS[3], *OTHERS]
    assert guesses["at"]["3"][0][1] == pytest.approx(sure(3), abs=1e-3)
    edit(tab, visitor, visit, "choose", first=3, last=3, id=CAT)
    assert ids(visit)[3:5] == [CAT, MASK] and visit.run.state.fixed[0, 3]
    _, status, *_ = edit(tab, visitor, visit, "choose", first=4, last=4, id=CAT)
    assert "not among the candidates" in status, "the canvas has changed since"
    with pytest.raises(Refused, match="the canvas has changed"):
        tab.guess(SimpleNamespace(_data={"run": "nobody", "do": "guess"}), visit, *SETTINGS)


def test_a_model_that_is_sure_repeats_its_ending(tab, visitor, visit):
    run(tab, visitor, visit)
    name = visit.name
    message, _ = run(tab, visitor, visit, event(visit, "go", at=4))
    assert visit.name != name and ids(visit) == IDS and visit.other is not None
    assert len(message["frames"]) == LENGTH + 1


def test_undo_takes_back_edits_and_no_steps(tab, visitor, visit):
    run(tab, visitor, visit, event(visit, "step"))
    before = ids(visit)
    edit(tab, visitor, visit, "type", first=1, last=2, text=" red box")
    assert ids(visit)[1:3] == [RED, BOX]
    message, *_ = edit(tab, visitor, visit, "undo")
    assert ids(visit) == before and len(message["frames"]) == 2
    _, status, *_ = edit(tab, visitor, visit, "undo")
    assert "no edit to undo" in status


def test_an_edit_while_the_model_writes_is_done_between_two_steps(tab, visitor, visit):
    stream = tab.run(*SETTINGS, request=visitor, session=visit)
    for _ in range(2):
        next(stream)
    assert visit.running
    seen = edit(tab, visitor, visit, "type", first=9, last=9, text=" red")
    assert seen[0] is None and len(visit.waiting) == 1
    message = json.loads(list(stream)[-1][0])
    assert any(frame.get("edits") == {"9": "type"} for frame in message["frames"])
    assert not visit.running and ids(visit)[9] == RED and CAT in ids(visit)


def test_what_cannot_be_done_while_the_model_writes_is_said_and_the_run_goes_on(tab, visitor, visit):
    stream = tab.run(*SETTINGS, request=visitor, session=visit)
    for _ in range(2):
        next(stream)
    edit(tab, visitor, visit, "choose", first=0, last=0, id=CAT)
    rest = list(stream)
    assert any(isinstance(u[1], str) and "not among the candidates" in u[1] for u in rest)
    assert ids(visit) == IDS


def test_pause_ends_the_run_after_the_step_under_way(tab, visitor, visit):
    stream = tab.run(*SETTINGS, request=visitor, session=visit)
    for _ in range(2):
        next(stream)
    edit(tab, visitor, visit, "pause")
    message = json.loads(list(stream)[-1][0])
    assert not message["done"] and len(message["frames"]) < LENGTH and not tab.models.busy


def test_the_same_seed_and_the_same_edits_write_the_same_text(tab, visitor):
    def story() -> list[int]:
        visit = tab.new_session()
        settings = [*SETTINGS[:4], "random", 1.0, 0, 1.0, 7, 0, "prompt", 0.9, 1.0, 0.1]
        tab.edit(event(visit, "type", first=2, last=2, text=" dog"), visitor, visit, *settings)
        for _ in range(4):
            tab.ask(event(visit, "step"), visit)
            list(tab.run(*settings, request=visitor, session=visit))
        edit(tab, visitor, visit, "mask", first=0, last=LENGTH - 1)
        run(tab, visitor, visit, event(visit, "go"))
        return ids(visit)

    assert story() == story()


def test_text_over_tokens_of_a_run_stays_in_its_place_or_is_refused(tab, visitor, visit):
    run(tab, visitor, visit)
    before = ids(visit)
    _, status, *_ = edit(tab, visitor, visit, "type", first=2, last=2, text=" red box")
    assert "needs room for 1 more, and 0 masked positions follow it" in status and ids(visit) == before
    edit(tab, visitor, visit, "type", first=2, last=4, text=" red [MASK]")
    assert ids(visit)[2:5] == [RED, MASK, MASK]


def test_a_text_that_is_being_written_appears_on_the_canvas(tab, visit):
    message, *_ = tab.compose(visit, "Ruth had", *SETTINGS[1:])
    assert json.loads(message)["frames"][0]["ids"][:3] == IDS[:3]
    name = visit.name
    tab.compose(visit, "Ruth had", *SETTINGS[1:])
    assert visit.name == name, "the same text again changes nothing"
    message, status, *_ = tab.compose(visit, "[MASK:", *SETTINGS[1:])
    assert not isinstance(message, str) and "write [MASK] or [MASK:8]" in status and visit.name == name


@pytest.mark.parametrize(("text", "room"), [("nut " * 60, 32), ("nut " * 60 + "[MASK:5]", 0)])
def test_the_length_grows_with_the_text_and_the_page_says_so(tab, visit, text, room):
    needed = len(Canvas.from_text(text, TOKENIZER))
    message, status, length, _ = tab.compose(visit, text, *SETTINGS[1:])
    assert json.loads(message)["header"]["length"] == length == needed + room
    assert f"the length is now {length} tokens" in status
    again, *_ = tab.compose(visit, text, SETTINGS[1], length, *SETTINGS[3:])
    assert not isinstance(again, str), "the slider follows, and nothing changes"


def test_a_model_that_does_not_know_the_length_says_so_also_for_the_same_text(tab, visit, monkeypatch):
    entry = tab.models.find(SETTINGS[1])
    tab.compose(visit, "Ruth had", *SETTINGS[1:])
    monkeypatch.setattr(tab.models, "find", lambda name: replace(entry, window=4))
    message, status, *_ = tab.compose(visit, "Ruth had", *SETTINGS[1:])
    assert not isinstance(message, str) and "was trained on texts of 4 tokens" in status


def test_a_text_beyond_the_limit_is_refused_and_the_reason_stays(tab, visit):
    message, status, *_ = tab.compose(visit, "nut " * 2000, *SETTINGS[1:])
    assert not isinstance(message, str) and "it may take up to 1,024" in status


def test_a_saved_trace_is_opened_and_gone_on_with(tab, visitor, visit, tmp_path):
    run(tab, visitor, visit)
    edit(tab, visitor, visit, "mask", first=3, last=4)
    file = tmp_path / "trace.json"
    (files,) = [[Path(part["value"]).read_text(encoding="utf-8") for part in pair] for pair in tab.save(visit)]
    file.write_text(files[0], encoding="utf-8")
    assert "<script" in files[1]
    other = tab.new_session()
    message, status, _ = tab.show_trace(str(file), other)
    assert json.loads(message)["steer"] and f"{LENGTH + 2} frames" in status
    assert tab.read_back(other) == ("", LENGTH)
    run(tab, visitor, other, event(other, "go"))
    assert ids(other) == IDS


def test_a_trace_of_another_tokenizer_is_shown_but_not_steered(tab, visitor, visit, tmp_path):
    run(tab, visitor, visit)
    data = visit.trace().to_dict()
    data["meta"]["tokenizer"] = "klingon"
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(data))
    fresh = tab.new_session()
    message, _, _ = tab.show_trace(str(file), fresh)
    assert "steer" not in json.loads(message) and fresh.run is None


def test_a_command_about_a_run_of_the_past_is_refused(tab, visitor, visit):
    run(tab, visitor, visit)
    old = event(visit, "mask", first=0, last=0)
    run(tab, visitor, visit)
    message, status, *_ = tab.edit(old, visitor, visit, *SETTINGS)
    assert not isinstance(message, str) and "the canvas has changed" in status
    with pytest.raises(Refused, match="the canvas has changed"):
        run(tab, visitor, tab.new_session(), SimpleNamespace(_data={"run": "nobody", "do": "go", "at": None}))
    assert not tab.models.busy


def test_a_visit_is_copied_empty_and_lets_go_of_its_runs(tab, visitor, visit):
    import copy

    run(tab, visitor, visit)
    assert copy.deepcopy(visit).run is None
    visit.close()
    assert visit.run is None and visit.other is None


@pytest.mark.parametrize(
    "text",
    [
        "Mia found a [MASK:6].",
        "[MASK:3] five nuts",
        "Ruth had five",
        "a [MASK] b [MASK:2] c",
        "",
        "Hi  there",
    ],
)
def test_what_is_fixed_on_a_canvas_reads_as_its_text(text):
    canvas = Canvas.from_text(text, TOKENIZER, 40)
    back = canvas_text(canvas.ids.tolist(), canvas.fixed.tolist(), TOKENIZER)
    again = Canvas.from_text(back, TOKENIZER, 40)
    assert again.ids.tolist() == canvas.ids.tolist()
    assert back.replace("[MASK:1]", "[MASK]") == text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELD = st.sampled_from(["run", "do", "at", "first", "last", "text", "id"])
LIKELY = st.sampled_from([*COMMANDS, 0, 3, -1, 10**30, float("nan"), "<img src=x onerror=alert(1)>", OPENING])


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(data=st.dictionaries(FIELD, LIKELY | ANYTHING) | ANYTHING)
def test_a_command_is_read_or_refused_whatever_it_is(data):
    try:
        command = read_command(data, Limits())
    except Refused as refusal:
        assert len(str(refusal)) < 200
    else:
        assert command.do in COMMANDS and 0 <= command.first <= command.last < 1024


def test_hostile_commands_change_nothing(tab, visitor, visit):
    run(tab, visitor, visit)
    before = ids(visit)
    for more in (
        {"do": "type", "first": 0, "last": 0, "text": "a" * 3000},
        {"do": "type", "first": 0, "last": 0, "text": ""},
        {"do": "mask", "first": 5, "last": 2},
        {"do": "mask", "first": 0, "last": 1023},
        {"do": "choose", "first": 1, "last": 1, "id": MASK},
        {"do": "mask", "first": float("nan"), "last": 1},
        {"do": "<img>", "first": 0, "last": 0},
    ):
        message, status, *_ = tab.edit(
            SimpleNamespace(_data={"run": visit.name, "at": None, **more}), visitor, visit, *SETTINGS
        )
        assert not isinstance(message, str) and "da-bad" in status and "<img" not in status
    assert ids(visit) == before
    assert TOKENIZER.decode(before[:-1]) == TALE
