"""The player as an editor: what the pointer and the keyboard ask of the host, and how edits and reasons are shown."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import Page, expect

from diffuapriel.trace import messages as wire
from diffuapriel.trace.player import read_source
from tests.trace.player.example import MASK, page_of, trace

pytestmark = pytest.mark.browser

LOAD = """async ([source, message]) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  window.api = await import(url);
  window.sent = [];
  window.take = api.receive(here, { steer: (command) => sent.push(command) });
  take(message);
}"""


def reasons(data: dict) -> dict:
    """The trace with a reason for every token: its rank, what was compared, and the best that was passed over."""
    for before, frame in zip(data["frames"], data["frames"][1:]):
        left = [p for p, i in enumerate(before["ids"]) if i == MASK and p not in frame["revealed"]]
        frame["why"] = {str(p): [1, frame["confidence"][p]] for p in frame["revealed"]}
        frame["runner_up"] = 0.125 if left else None
    return data | {"version": 3}


def edited(data: dict, step: int, position: int, kind: str, token: int) -> dict:
    """The trace with a person's turn put in after a step; the steps behind it move on by one."""
    frames = data["frames"]
    turn = json.loads(json.dumps(frames[step])) | {"top_k": {}, "why": {}, "runner_up": None, "ms": 0.0}
    was = turn["ids"][position]
    turn["revealed"] = [] if token == MASK or kind in ("pin", "unpin") else [position]
    turn["remasked"] = [position] if token == MASK and was != MASK else []
    turn["edits"] = {str(position): kind}
    for frame in [turn, *frames[step + 1 :]]:
        if kind not in ("pin", "unpin"):
            frame["ids"][position], frame["confidence"][position], frame["entropy"][position] = (
                token,
                None,
                None,
            )
        frame["step"] += 1
    frames.insert(step + 1, turn)
    return data


def steered(page: Page, data: dict, steps: int | None = None, **aside) -> Page:
    """A page with the player on a run of which so many steps are there; `window.sent` holds what was asked."""
    message = wire.compact(data, run="here")
    message |= {
        "frames": message["frames"][:steps],
        "done": steps is None,
        "live": False,
        "steer": True,
        "turn": 1,
    }
    page.set_content(
        f'<!DOCTYPE html><html lang=en><body><div id="here"></div><style>{read_source("player.css")}</style>'
    )
    page.evaluate(LOAD, [read_source("player.js"), message | aside])
    expect(page.locator(".da-editable .da-token").first).to_be_visible()
    return page


def sent(page: Page) -> list[dict]:
    """What was asked since the last look."""
    return page.evaluate("sent.splice(0).map(({ run, ...rest }) => rest)")


def token(page: Page, position: int):
    return page.locator(".da-token").nth(position)


def drag(page: Page, first: int, last: int) -> None:
    start, end = (token(page, p).locator(".da-chip").bounding_box() for p in (first, last))
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=5)


# ---- the pointer -----------------------------------------------------------------------------------


def test_a_click_opens_a_token_to_pin_clear_or_type_over(page):
    steered(page, trace(length=24, steps=8))
    dialog = page.get_by_role("dialog", name="Token 6")
    for name, command in (
        ("Pin", {"at": None, "first": 6, "last": 6, "do": "pin"}),
        ("Clear to [MASK]", {"at": None, "first": 6, "last": 6, "do": "mask"}),
    ):
        token(page, 6).click()
        dialog.get_by_role("button", name=name).click()
        assert sent(page) == [command]
        expect(dialog).to_be_hidden()
        expect(token(page, 6)).to_be_focused()
    token(page, 6).click()
    field = dialog.get_by_label("Type over it")
    expect(field).to_have_value(" under")
    field.fill(" old car")
    dialog.get_by_role("button", name="Write").click()
    assert sent(page) == [{"at": None, "first": 6, "last": 6, "do": "type", "text": " old car"}]


def test_who_types_at_once_after_a_click_writes_over_the_token(page):
    steered(page, trace(length=24, steps=8))
    token(page, 6).click()
    expect(page.get_by_role("dialog", name="Token 6")).to_be_focused()
    page.keyboard.type("red bell")
    page.keyboard.press("Enter")
    assert sent(page) == [{"at": None, "first": 6, "last": 6, "do": "type", "text": " red bell"}]


def test_another_candidate_is_a_button_with_its_probability(page):
    data = trace(length=24, steps=8)
    steered(page, data)
    frame = next(f for f in data["frames"] if 10 in f["revealed"])
    (_, (other, probability), *_) = frame["top_k"]["10"]
    token(page, 10).click()
    candidates = page.locator("button.da-candidate")
    expect(candidates).to_have_count(5)
    expect(candidates.nth(0)).to_be_disabled()
    expect(candidates.nth(1)).to_have_accessible_name(f"Use Mia, {100 * probability:.1f} %")
    candidates.nth(1).click()
    assert sent(page) == [{"at": None, "first": 10, "last": 10, "do": "choose", "id": other}]


def test_a_drag_masks_what_it_went_over_and_escape_calls_it_off(page):
    steered(page, trace(length=24, steps=8))
    drag(page, 4, 9)
    expect(page.locator("[data-selected]")).to_have_count(6)
    page.mouse.up()
    assert sent(page) == [{"at": None, "do": "mask", "first": 4, "last": 9}]
    expect(page.locator("[data-selected]")).to_have_count(0)
    drag(page, 9, 4)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert sent(page) == []


def test_a_drag_within_one_word_masks_it_and_a_hand_that_trembles_opens_it(page):
    steered(page, trace(length=24, steps=8))
    box = token(page, 6).bounding_box()
    assert box and box["width"] > 24
    for far, masked in ((20, True), (5, False)):
        page.mouse.move(box["x"] + 2, box["y"] + 8)
        page.mouse.down()
        page.mouse.move(box["x"] + 2 + far, box["y"] + 8)
        page.mouse.up()
        assert sent(page) == [{"at": None, "do": "mask", "first": 6, "last": 6}] * masked
        expect(page.get_by_role("dialog")).to_have_count(0 if masked else 1)


def test_shift_and_a_click_select_without_masking(page):
    steered(page, trace(length=24, steps=8))
    token(page, 4).click()
    page.keyboard.press("Escape")
    token(page, 7).click(modifiers=["Shift"])
    expect(page.locator('[aria-selected="true"]')).to_have_count(4)
    token(page, 5).click()
    page.get_by_role("dialog", name="Tokens 4 to 7").get_by_role("button", name="Clear").click()
    assert sent(page) == [{"at": None, "first": 4, "last": 7, "do": "mask"}]


def test_what_is_outside_the_card_closes_it(page):
    steered(page, trace(length=24, steps=8))
    token(page, 6).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.mouse.click(500, 780)
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert sent(page) == []


def test_the_text_of_the_selection_or_of_all_can_be_copied(page):
    steered(page, trace(length=24, steps=8))
    copy = """() => {
      const event = new ClipboardEvent("copy", { clipboardData: new DataTransfer(), bubbles: true, cancelable: true });
      document.activeElement.dispatchEvent(event);
      return event.clipboardData.getData("text/plain");
    }"""
    token(page, 2).focus()
    assert page.evaluate(copy).startswith(" Mia found a small green box under the table.")
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(copy) == " a small"


# ---- the keyboard ----------------------------------------------------------------------------------


def test_every_edit_has_a_key(page):
    data = trace(length=24, steps=8)
    steered(page, data)
    token(page, 6).focus()
    frame = next(f for f in data["frames"] if 6 in f["revealed"])
    at = {"at": None, "first": 6, "last": 6}
    for key, command in (
        ("p", {"do": "pin", **at}),
        ("Delete", {"do": "mask", **at}),
        ("Backspace", {"do": "mask", **at}),
        ("3", {"do": "choose", "id": frame["top_k"]["6"][2][0], **at}),
        ("u", {"do": "undo", "at": None}),
        (".", {"do": "step", "at": None}),
        ("r", {"do": "go", "at": None}),
    ):
        page.keyboard.press(key)
        assert sent(page) == [command], key
        expect(token(page, 6)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Type over it")).to_be_focused()
    page.keyboard.type("house")  # over the word; the space before it stays
    page.keyboard.press("Enter")
    assert sent(page) == [{"do": "type", "text": " house", **at}]
    expect(token(page, 6)).to_be_focused()


def test_shift_and_arrows_select_and_delete_masks_the_selection(page):
    steered(page, trace(length=24, steps=8))
    token(page, 6).focus()
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft", "Shift+ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator('[aria-selected="true"]')).to_have_count(3)
    page.keyboard.press("Delete")
    assert sent(page) == [{"do": "mask", "first": 6, "last": 8, "at": None}]
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Escape")
    expect(page.locator('[aria-selected="true"]')).to_have_count(0)


def test_a_mask_is_typed_over_with_the_space_that_a_word_needs(page):
    steered(page, trace(length=24, steps=8), steps=1)
    token(page, 6).focus()
    page.keyboard.press("Enter")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    assert [c["text"] for c in sent(page) if "text" in c] == [" red"]


def test_what_is_edited_at_an_earlier_step_says_so(page):
    steered(page, trace(length=24, steps=8))
    slider = page.get_by_role("slider", name="Step")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Go on from step 5")).to_be_enabled()
    expect(page.locator(".da-hint")).to_contain_text("branches off at step 5")
    expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    page.get_by_role("button", name="Go on from step 5").click()
    page.get_by_role("button", name="One step", exact=True).click()
    token(page, 2).focus()
    page.keyboard.press("Delete")
    assert [(c["do"], c["at"]) for c in sent(page)] == [("go", 5), ("step", 5), ("mask", 5)]


def test_a_model_that_writes_is_stopped_with_the_space_bar_and_not_started_again(page):
    data = trace(length=24, steps=8)
    steered(page, data, steps=4, live=True)
    expect(page.locator(".da-steer button:visible")).to_have_count(0)
    token(page, 3).focus()
    page.keyboard.press("r")
    page.keyboard.press(" ")
    assert [c["do"] for c in sent(page)] == ["pause"]


def test_before_the_first_step_there_is_nothing_to_go_on_with(page):
    steered(page, trace(length=24, steps=8), steps=1)
    expect(page.locator(".da-hint")).to_be_visible()
    expect(page.locator(".da-steer button:visible")).to_have_count(0)


def test_the_model_is_asked_about_a_mask_once_and_its_answer_can_be_taken(page):
    steered(page, trace(length=24, steps=8), steps=4)
    masked = page.locator(".da-mask").first
    position = masked.evaluate("token => token.position")
    masked.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("Click to see what the model would put here")
    masked.click()
    expect(page.get_by_role("dialog")).to_contain_text("Asking the model")
    assert [c["do"] for c in sent(page)] == ["guess"]
    page.get_by_label("Type over it").fill(" half")
    answer = {"schema": "diffuapriel-feed", "version": 3, "run": "here", "frames": [], "vocab": {}, "done": False}
    guesses = {"step": 3, "at": {str(position): [[5, 0.75], [2, 0.125]]}}
    page.evaluate("message => take(message)", answer | {"live": False, "steer": True, "guesses": guesses})
    expect(page.get_by_role("button", name="Use box, 75.0 %")).to_be_visible()
    expect(page.get_by_label("Type over it")).to_have_value(" half")
    page.get_by_role("button", name="Use box, 75.0 %").click()
    assert [(c["do"], c["first"], c["id"]) for c in sent(page)] == [("choose", position, 5)]


def test_a_canvas_without_a_host_that_steers_is_not_editable(page, tmp_path):
    file = tmp_path / "trace.html"
    file.write_text(page_of(trace()), encoding="utf-8")
    page.goto(file.as_uri())
    token(page, 6).click()
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".da-steer, .da-help, .da-editable")).to_have_count(0)
    assert page.get_by_role("listbox").get_attribute("aria-multiselectable") is None


def test_the_field_and_its_button_lie_within_the_card(page):
    steered(page, trace(length=24, steps=8))
    token(page, 5).click()
    page.add_style_tag(content=".da-field { font-size: 40px !important }")  # as wide as any font may make it
    card, button = page.get_by_role("dialog").bounding_box(), page.get_by_role("button", name="Write").bounding_box()
    assert button["x"] + button["width"] <= card["x"] + card["width"]


# ---- why, whose, where it breaks -------------------------------------------------------------------


def why(page: Page, data: dict, position: int, strategy: str = "low_confidence") -> str:
    data["meta"]["strategy"] = strategy
    page.evaluate("data => { document.activeElement.blur(); take(data); }", data)
    page.wait_for_function("document.querySelector('.da-token').canvas.frame")  # it is drawn
    token(page, position).focus()
    return page.locator(".da-why").inner_text()


def test_the_card_says_what_the_strategy_compared(page):
    steered(page, trace(length=10, steps=8, given=2))
    one = reasons(trace(length=10, steps=8, given=2))
    position = one["frames"][3]["revealed"][0]
    score = one["frames"][3]["confidence"][position]
    assert (
        why(page, one, position)
        == f"confidence {score:.2f} was the highest of 6 masked positions; the runner-up had 0.13"
    )
    expect(page.get_by_role("tooltip")).to_contain_text("rankthe most probable")
    assert "lowest of 6" in why(page, one, position, "entropy")
    assert "margin over the second-best token" in why(page, one, position, "margin")
    assert "random number" in why(page, one, position, "random")
    assert "came first of 6" in why(page, one, position, "first_hitting")
    one["frames"][3]["threshold"] = 0.0
    assert "reached the threshold 0" in why(page, one, position, "threshold")
    one["frames"][3]["threshold"] = 1.0
    assert "no position reached the threshold 1" in why(page, one, position, "threshold")
    assert "a chance of 100 %" in why(page, one, position, "ancestral")
    assert "a chance of 100 %" in why(page, one, position, "remdm_conf")
    assert "was the highest of 6" in why(page, one, position, "factor")
    assert "was the lowest of 6" in why(page, one, position, "entropy_bound")
    one["meta"]["alg_temp"] = 0.5
    assert "drawn among 6 masked positions, weighted by entropy" in why(page, one, position, "entropy")
    one["meta"]["alg_temp"] = 0.0
    last = one["frames"][8]["revealed"][0]
    assert why(page, one, last).endswith("; it was the last one")


def test_only_the_masks_of_the_open_block_were_compared(page):
    data = reasons(trace(length=24, steps=8, given=2))
    data["meta"] |= {"block_length": 6, "block_start": "prompt"}  # 2 to 7, 8 to 13, ...
    steered(page, data)
    for frame, before in zip(data["frames"][1:], data["frames"]):
        masked = [p for p in range(24) if before["ids"][p] == MASK]
        among = sum((p - 2) // 6 == (masked[0] - 2) // 6 for p in masked)
        said = (
            f"of the {among} masked positions of its block of 6" if among > 1 else "of 1 masked position of its block"
        )
        assert said in why(page, data, frame["revealed"][0])


def test_of_several_tokens_at_once_each_has_its_place(page):
    data = reasons(trace(length=24, steps=4, given=4))
    steered(page, data)
    frame = data["frames"][1]
    confidence = frame["confidence"]
    ordered = sorted(frame["revealed"], key=lambda p: -confidence[p])
    assert why(page, data, ordered[1]).startswith(
        f"confidence {confidence[ordered[1]]:.2f} was number 2 of 20 masked positions; 5 were revealed together"
    )


def test_what_a_person_did_is_theirs_on_the_canvas_in_the_card_and_in_the_strip(page, tmp_path):
    data = reasons(trace(length=24, steps=8))
    cleared = data["frames"][2]["revealed"][0]
    data = edited(edited(data, 4, 6, "type", 3), 6, cleared, "mask", MASK)
    file = tmp_path / "trace.html"
    file.write_text(page_of(data), encoding="utf-8")
    page.goto(file.as_uri())
    expect(page.locator(".da-mine")).to_have_count(1)
    expect(token(page, 6)).to_have_accessible_name("small, yours")
    token(page, 6).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("written by you atstep 5")
    token(page, cleared).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("cleared by you atstep 7")
    expect(page.locator(".da-legend")).to_contain_text("yours")
    assert page.locator(".da-edits").get_attribute("d").count("M") == 2
    expect(page.locator(".da-key-stripEdits")).to_be_visible()


def test_a_remark_marks_its_token_and_is_read_out(page):
    steered(page, trace(length=24, steps=8), remarks={"step": 8, "at": {"5": "'a' does not fit here"}})
    expect(page.locator(".da-breaks")).to_have_count(1)
    expect(token(page, 5)).to_have_accessible_name("box, breaks the story: 'a' does not fit here")
    token(page, 5).hover()
    expect(page.locator(".da-remark")).to_have_text("'a' does not fit here")
    page.get_by_role("slider", name="Step").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".da-breaks")).to_have_count(0)


def test_colors_by_entropy_have_a_legend_in_nats(page):
    steered(page, trace(length=24, steps=8))
    page.add_style_tag(content=".da-chip { transition: none !important; animation: none !important }")
    page.get_by_role("radio", name="Entropy").check()
    expect(page.locator(".da-scale")).to_have_text("entropy 04 nats")
    shown = page.locator(".da-chip").evaluate_all("chips => chips.map(c => getComputedStyle(c).backgroundColor)")
    assert len(set(shown)) > 3


def test_the_strip_shows_masks_confidence_and_tokens_and_is_dragged(page):
    steered(page, reasons(trace(length=24, steps=11)))
    for part in (".da-area", ".da-curve", ".da-sure", ".da-bars"):
        assert page.locator(part).get_attribute("d"), part
    assert page.locator(".da-bars").get_attribute("d").count("M") == 11
    box = page.locator(".da-strip").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.down()
    expect(page.locator(".da-state")).to_contain_text("step 6 of 11")
    page.mouse.move(box["x"] + box["width"] * 2 / 11, box["y"] + 30)
    page.mouse.up()
    expect(page.locator(".da-state")).to_contain_text("step 2 of 11")
    expect(page.locator(".da-state")).to_contain_text("2 revealed · mean confidence")
    slider = page.get_by_role("slider", name="Step")
    assert "2 revealed, mean confidence" in slider.get_attribute("aria-valuetext")


# ---- two endings -----------------------------------------------------------------------------------


def test_two_endings_stand_side_by_side_with_what_differs_marked(new_page):
    ours, theirs = trace(length=24, steps=8), trace(length=24, steps=8)
    for frame in theirs["frames"]:
        for p in (5, 9):
            if frame["ids"][p] != MASK:
                frame["ids"][p] = 1
    page = steered(new_page(viewport={"width": 1100, "height": 800}), ours, other=wire.compact(theirs))
    first, second = (
        page.get_by_role("region", name="This one"),
        page.get_by_role("region", name="The other ending"),
    )
    expect(page.locator(".da-differ")).to_have_text("2 of 24 tokens differ")
    for region in (first, second):
        expect(region.locator(".da-differs")).to_have_count(2)
    expect(first.locator(".da-token").nth(5)).to_have_accessible_name("box, differs")
    assert abs(first.bounding_box()["y"] - second.bounding_box()["y"]) < 2
    page.get_by_role("slider", name="Step").focus()
    page.keyboard.press("Home")
    expect(page.locator(".da-differ")).to_have_text("no token differs so far")
    expect(page.locator(".da-differs")).to_have_count(0)
    page.keyboard.press("End")
    second.locator(".da-token").nth(5).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("found")
    second.locator(".da-token").nth(5).click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Continue with this one").click()
    assert [c["do"] for c in sent(page)] == ["swap"]
    page.set_viewport_size({"width": 500, "height": 900})
    assert second.bounding_box()["y"] > first.bounding_box()["y"] + 50
    page.evaluate("message => take(message)", wire.compact(ours) | {"turn": 2, "steer": True})
    expect(second).to_have_count(0)


def test_a_message_of_a_former_turn_comes_too_late(page):
    steered(page, trace(length=24, steps=8), turn=5)
    old, new = (wire.compact(trace(length=n, steps=4)) for n in (12, 40))
    page.evaluate("message => take(message)", old | {"turn": 4})
    page.evaluate("message => take(message)", new | {"turn": 6})
    expect(page.locator(".da-token")).to_have_count(40)
