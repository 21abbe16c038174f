"""The player in a real browser: what a reader sees, hears and can press."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect

from diffuapriel.trace import messages as wire
from diffuapriel.trace.player import read_source
from diffuapriel.trace.player.gradio_host import html_component_arguments
from tests.trace.player.example import WORDS, page_of, trace

pytestmark = pytest.mark.browser

HOSTILE = {
    5: "<script>window.harmed = 1</script>",
    6: ' <img src="x" onerror="window.harmed = 1">',
    7: "</script><b>bold</b>",
}
LOAD = """async (source) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  window.api = await import(url);
}"""


@pytest.fixture
def exported(tmp_path):
    """Writes the exported page of a trace, opens it and ends the replay that it begins with."""

    def open_export(page, data):
        path = tmp_path / "trace.html"
        path.write_text(page_of(data), encoding="utf-8")
        page.goto(path.as_uri())
        slider = page.get_by_role("slider", name="Step")
        if slider.count():  # a trace that is refused has none
            slider.evaluate("(slider) => { slider.value = slider.max; slider.dispatchEvent(new Event('input')); }")
            page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        return page

    return open_export


def with_module(page, body: str = '<div id="here"></div>'):
    """A page that holds the module as window.api, for what a script does with it."""
    page.set_content(f"<!DOCTYPE html><html lang=en><body>{body}<style>{read_source('player.css')}</style></body>")
    page.evaluate(LOAD, read_source("player.js"))
    return page


def scrub(page, step: int) -> None:
    page.get_by_role("slider", name="Step").evaluate(
        "(slider, step) => { slider.value = step; slider.dispatchEvent(new Event('input')); }", step
    )


def masks(page):
    return page.locator(".da-mask")


def state(page):
    return page.locator(".da-state span").first


# ---- what is shown ---------------------------------------------------------------------------------


def test_a_trace_opens_on_its_last_frame(page, exported):
    exported(page, trace(length=24, steps=8))
    expect(page.locator(".da-token")).to_have_count(24)
    expect(masks(page)).to_have_count(0)
    expect(state(page)).to_have_text("step 8 of 8, 0 masks left")


def test_the_tokens_read_as_text(page, exported):
    exported(page, trace(length=len(WORDS) + 2, given=2))
    expect(page.locator(".da-canvas")).to_have_text("".join(WORDS).replace("\n", "↵\n") + "<|endoftext|>" * 2)


def test_scrubbing_back_shows_masks_and_forward_again_the_text(page, exported):
    exported(page, trace(length=24, steps=11))
    text = page.locator(".da-canvas").text_content()
    scrub(page, 5)
    expect(masks(page)).to_have_count(12)
    expect(state(page)).to_have_text("step 5 of 11, 12 masks left")
    scrub(page, 0)
    expect(masks(page)).to_have_count(22)
    scrub(page, 11)
    expect(masks(page)).to_have_count(0)
    assert page.locator(".da-canvas").text_content() == text


def test_no_token_moves_in_a_replay(new_page, exported):
    page = exported(new_page(viewport={"width": 500, "height": 800}), trace(length=60, steps=20))
    boxes = "() => [...document.querySelectorAll('.da-token')].map((t) => Math.round(t.getBoundingClientRect().right))"
    last = page.evaluate(boxes)
    for step in (0, 7, 15):
        scrub(page, step)
        expect(state(page)).to_contain_text(f"step {step} of")
        assert page.evaluate(boxes) == last, step
    assert "box" not in page.locator(".da-mask").all_inner_texts(), "a mask says nothing of what it becomes"


def test_the_pieces_of_a_word_touch(page, exported):
    exported(page, trace(length=24, steps=8, words={4: " bel", 5: "ow", 6: " it"}))
    chips = [page.locator(".da-chip").nth(p).bounding_box() for p in (4, 5, 6)]
    ends = [(chip["x"], chip["x"] + chip["width"]) for chip in chips]
    assert abs(ends[0][1] - ends[1][0]) < 0.1 and ends[2][0] - ends[1][1] > 2
    expect(page.locator(".da-joins")).to_have_count(2)  # laugh and ed as well


def test_the_head_counts_the_steps_that_were_made(page, exported):
    data = trace(length=24, steps=8)
    data["meta"]["steps"] = 128
    exported(page, data)
    expect(page.locator(".da-about").first).to_contain_text("8 steps")


def test_markup_in_tokens_is_text(page, exported):
    data = trace(length=24, words=HOSTILE, model="<img src=x onerror='window.harmed = 1'>")
    exported(page, data)
    for position, text in HOSTILE.items():
        token = page.locator(".da-token").nth(position)
        assert token.text_content() == text
        token.hover()
        expect(page.locator(".da-card-text")).to_have_text(text.replace(" ", "·"))
    assert page.locator(".da-player img, .da-player script, .da-player b").count() == 0
    assert page.evaluate("window.harmed") is None


def test_given_tokens_look_different_and_revealed_ones_flash(page, exported):
    exported(page, trace(length=24, steps=11, given=2))
    scrub(page, 1)
    expect(page.locator(".da-fixed")).to_have_count(2)
    expect(page.locator(".da-new")).to_have_count(2)
    expect(page.locator(".da-new .da-chip").first).to_have_css("animation-name", "da-flash")
    expect(page.locator(".da-fixed .da-chip").first).to_have_css("animation-name", "none")


def test_nothing_moves_for_readers_who_ask_for_reduced_motion(new_page, exported):
    page = exported(new_page(reduced_motion="reduce"), trace(length=24, steps=11))
    scrub(page, 1)
    expect(page.locator(".da-new")).to_have_count(2)
    assert page.locator(".da-player").evaluate("player => player.getAnimations({ subtree: true }).length") == 0


def test_tokens_masked_again_are_marked(page, exported):
    exported(page, trace(length=24, steps=8, remask_at=4))
    scrub(page, 4)
    expect(page.locator(".da-mask.da-again")).not_to_have_count(0)
    expect(page.locator(".da-legend")).to_contain_text("masked again")


def test_special_tokens_are_visible_until_switched_off(page, exported):
    exported(page, trace(length=24))
    special = page.locator(".da-special")
    expect(special).to_have_count(2)
    expect(special.first).to_have_text("<|endoftext|>")
    expect(special.first).to_be_visible()
    page.get_by_label("special tokens").uncheck()
    expect(special.first).to_be_hidden()


def test_colors_follow_confidence_or_step_or_nothing(page, exported):
    exported(page, trace(length=24, steps=8))

    def backgrounds() -> set[str]:
        return set(
            page.locator(".da-chip").evaluate_all("chips => chips.map(c => getComputedStyle(c).backgroundColor)")
        )

    page.add_style_tag(content=".da-chip { transition: none !important; animation: none !important }")
    by_confidence = backgrounds()
    page.get_by_role("radio", name="Step").check()
    by_step = backgrounds()
    page.get_by_role("radio", name="Off").check()
    assert len(by_confidence) > 4 and len(by_step) > 4 and by_confidence != by_step
    assert backgrounds() == {"rgba(0, 0, 0, 0)"}
    expect(page.locator(".da-scale")).to_have_count(0)


def test_a_trace_of_another_version_is_refused_in_words(page, exported):
    exported(page, trace() | {"version": 7})
    expect(page.get_by_role("alert")).to_contain_text("this player reads version 3")


@pytest.mark.parametrize(
    "damage, words",
    [
        ({"length": 10**9}, "length is 1000000000"),
        ({"fixed": [True]}, "fixed must be a list"),
        ({"mask_id": None}, "mask_id"),
    ],
)
def test_a_damaged_trace_is_refused_in_words(page, exported, damage, words):
    exported(page, trace() | damage)
    expect(page.get_by_role("alert")).to_contain_text(words)


@pytest.mark.parametrize(
    "message", [{"schema": "diffuapriel-race", "version": 1}, {"schema": "diffuapriel-race"}, {"a": 1}]
)
def test_a_message_that_is_none_is_refused_in_words(page, message):
    with_module(page).evaluate("message => api.receive(here)(message)", message)
    expect(page.get_by_role("alert")).to_contain_text("cannot be shown")


def test_a_good_trace_after_a_damaged_one_is_shown(page):
    with_module(page).evaluate(
        "data => { window.player = api.mount(here); player.load(data); }", trace() | {"length": 0}
    )
    expect(page.get_by_role("alert")).to_be_visible()
    page.evaluate("data => player.load(data)", trace(length=24))
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator(".da-token")).to_have_count(24)


# ---- the card --------------------------------------------------------------------------------------


def test_hovering_a_token_says_why_it_came(page, exported):
    data = trace(length=24, steps=8)
    exported(page, data)
    frame = next(f for f in data["frames"] if 10 in f["revealed"])
    page.locator(".da-token").nth(10).hover()
    card = page.get_by_role("tooltip")
    expect(card).to_be_visible()
    expect(card).to_contain_text("position 10")
    expect(card).to_contain_text(f"appeared at step{frame['step']} of 8")
    expect(card).to_contain_text(f"{100 * frame['confidence'][10]:.1f} %")
    expect(card).to_contain_text(f"{frame['entropy'][10]:.2f} nats")
    expect(card.locator(".da-other")).to_have_count(5)
    expect(card.locator(".da-chosen")).to_have_count(1)
    page.mouse.move(5, 5)
    expect(card).to_be_hidden()


def test_a_token_that_was_verified_says_so_and_was_compared_with_nothing(page, exported):
    data = trace(length=24, steps=8, strategy="speculative", block_length=16)
    frame = data["frames"][1]
    frame["why"] = {str(p): [1, 0.5] for p in frame["revealed"]}
    exported(page, data)
    count = len(frame["revealed"])
    page.locator(".da-token").nth(frame["revealed"][-1]).hover()
    expect(page.get_by_role("tooltip").locator(".da-why")).to_have_text(
        "what the model writes after the text before it; probability 50.0 %, "
        f"number {count} of the {count} that this step accepted"
    )


def test_drafted_words_are_drawn_on_their_masks_and_are_no_text_yet(page, exported):
    """In the room of the token that comes, whatever the draft is; while a model runs, in their own."""
    data = trace(length=24, steps=8, strategy="speculative", block_length=16)
    left = [p for p in range(24) if p not in data["frames"][1]["revealed"] and p > 1]
    data["frames"][1]["draft"] = [[p, 3] for p in left[:5]]
    exported(page, data)
    expect(page.locator(".da-draft")).to_have_count(0)
    settled = page.locator(".da-token").nth(23).bounding_box()
    scrub(page, 1)
    drafts, first = page.locator(".da-draft"), page.locator(".da-token").nth(left[0])
    expect(drafts).to_have_count(5)
    expect(first).to_have_attribute("aria-label", "draft: small")
    assert page.locator(".da-token").nth(23).bounding_box() == settled  # nothing has moved
    assert not first.locator(".da-chip").text_content()
    drawn = "chip => [getComputedStyle(chip, '::after').content, getComputedStyle(chip).outlineStyle]"
    text, outline = first.locator(".da-chip").evaluate(drawn)
    assert "small".startswith(text.strip('"\u2026')) and outline == "dashed"  # cut: a comma comes there
    expect(page.locator(".da-key-draft")).to_have_text("draft")
    first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text(f"position {left[0]}, id 3")
    expect(page.get_by_role("tooltip")).to_contain_text("A draft: the next step verifies it.")

    message = wire.compact(data) | {"done": False, "live": True}
    message["frames"] = message["frames"][:2]
    with_module(page).evaluate("m => { window.player = api.mount(here); player.load(m); }", message)
    expect(page.locator(".da-draft")).to_have_count(5)
    assert page.locator(".da-draft .da-chip").first.evaluate("chip => chip.dataset.width") == "small"


def test_a_draft_longer_than_the_word_that_comes_is_cut_and_keeps_its_name(page, exported):
    data = trace(length=24, steps=8, strategy="speculative", block_length=16)
    exported(page, data)
    for draft, shown, text in (
        ("red", "blue", "red"),
        ("yellow", "blue", "yellow"),
        ("unhappy", "red", "unh\u2026"),
        ("unhappy", ".", "u"),
    ):
        fitted, scale = with_module(page).evaluate("([draft, shown]) => api.fitted(draft, shown)", [draft, shown])
        assert (fitted, 0.5 <= scale <= 1) == (text, True), draft


def test_the_card_stays_inside_the_window(new_page, exported):
    page = exported(new_page(viewport={"width": 360, "height": 420}), trace(length=120, steps=8))
    for position in (0, 7, 60, 117):
        token = page.locator(".da-token").nth(position)
        token.scroll_into_view_if_needed()
        token.hover()
        box = page.get_by_role("tooltip").bounding_box()
        assert box and box["x"] >= 0 and box["y"] >= 0, position
        assert box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 420, position


def test_the_card_never_covers_its_own_token_on_a_low_screen(new_page, exported):
    page = exported(new_page(viewport={"width": 1000, "height": 300}), trace(length=400, steps=8))
    for position in (60, 90, 130, 180):  # neither above nor below them there is room
        token = page.locator(".da-token").nth(position)
        token.evaluate("token => token.scrollIntoView({ block: 'center' })")
        token.hover()
        over = "chip => { const { x, y, width, height } = chip.getBoundingClientRect(); return chip.contains("
        over += "document.elementFromPoint(x + width / 2, y + height / 2)); }"
        expect(page.get_by_role("tooltip")).to_be_visible()
        assert token.locator(".da-chip").evaluate(over), position


def test_the_card_covers_no_text_where_there_is_room_elsewhere(new_page, exported):
    page = exported(new_page(viewport={"width": 900, "height": 900}), trace(length=60, steps=8))
    for position in (0, 20, 45):
        page.locator(".da-token").nth(position).hover()
        canvas, card = page.locator(".da-canvas").bounding_box(), page.get_by_role("tooltip").bounding_box()
        assert card["y"] >= canvas["y"] + canvas["height"], position


# ---- keyboard and screen reader --------------------------------------------------------------------


def test_the_keyboard_drives_the_player(page, exported):
    exported(page, trace(length=24, steps=8))
    slider = page.get_by_role("slider", name="Step")
    slider.focus()
    for key, step in [("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 8)]:
        page.keyboard.press(key)
        expect(state(page)).to_contain_text(f"step {step} of 8")
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_arrows_walk_over_the_tokens_and_escape_closes_the_card(page, exported):
    exported(page, trace(length=40, steps=8))
    tokens = page.locator(".da-token")
    assert page.locator('.da-token[tabindex="0"]').count() == 1
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(page.get_by_role("tooltip")).to_be_visible()
    expect(tokens.nth(1)).to_have_attribute("aria-describedby", page.get_by_role("tooltip").get_attribute("id") or "")
    page.keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_be_hidden()
    page.keyboard.press("End")
    expect(tokens.nth(39)).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    lower = page.evaluate("document.activeElement.position")
    assert lower > 5
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.position") < lower
    assert page.locator('.da-token[tabindex="0"]').count() == 1
    expect(state(page)).to_contain_text("step 8 of 8")


def test_screen_readers_hear_the_step_when_it_stands_and_nothing_while_it_plays(page, exported):
    exported(page, trace(length=24, steps=11))
    status = page.locator(".da-sr")
    scrub(page, 5)
    expect(status).to_have_text("step 5 of 11, 12 masks left")
    page.get_by_role("button", name="Play").click()
    expect(status).to_have_text("")
    page.get_by_role("button", name="Pause").click()
    expect(status).to_contain_text("masks left")
    scrub(page, 0)
    assert masks(page).first.get_attribute("aria-label") == "masked"


def test_playing_ends_on_the_last_frame_and_starts_over(page, exported):
    exported(page, trace(length=24, steps=4))
    page.get_by_label("Speed").select_option("8")
    page.get_by_role("button", name="Play").click()
    expect(state(page)).to_have_text("step 4 of 4, 0 masks left")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_label("Speed").select_option("real")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    expect(state(page)).to_have_text("step 4 of 4, 0 masks left")


# ---- light and dark --------------------------------------------------------------------------------

CONTRASTS = """() => {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const node of document.querySelectorAll(".da-player *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".da-sr, :disabled, .da-repeat")) continue;
    const layers = [];
    for (let up = node; up; up = up.parentElement) layers.unshift(getComputedStyle(up).backgroundColor);
    const back = luminance(paint(["white", ...layers]));
    const front = luminance(paint(["white", ...layers, getComputedStyle(node).color]));
    const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
    found.push([ratio, node.className, node.textContent.slice(0, 20)]);
  }
  return found;
}"""


@pytest.mark.parametrize(
    "body, scheme, dark",
    [
        ('<div id="here"></div>', "light", False),
        ('<div id="here"></div>', "dark", True),
        ('<div class="dark gradio-container"><div id="here"></div></div>', "light", True),
        ('<div class="gradio-container"><div id="here"></div></div>', "dark", False),
        ('<div data-jp-theme-light="false"><div id="here"></div></div>', "light", True),
        ('<div data-jp-theme-light="true"><div id="here"></div></div>', "dark", False),
    ],
    ids=["light", "dark", "gradio-dark", "gradio-light", "jupyter-dark", "jupyter-light"],
)
def test_all_text_can_be_read_in_light_and_dark(new_page, body, scheme, dark):
    page = with_module(new_page(color_scheme=scheme, reduced_motion="reduce"), body)
    page.evaluate("data => { window.player = api.mount(here, { trace: data }); }", trace(length=120, steps=40))
    expect(page.locator(".da-token").nth(119)).to_contain_text("endoftext")
    page.locator(".da-token").nth(30).hover()
    expect(page.get_by_role("tooltip")).to_be_visible()
    paper = page.locator(".da-player").evaluate("e => getComputedStyle(e).backgroundColor")
    assert paper == ("rgb(22, 25, 31)" if dark else "rgb(255, 255, 255)")
    for color in ("Confidence", "Step", "Off"):
        page.get_by_role("radio", name=color).check()
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 120
        ratio, *where = min(contrasts)
        assert ratio >= 4.5, (color, ratio, where)


# ---- live ------------------------------------------------------------------------------------------


def start_live(page, data, **options) -> None:
    header = {key: data[key] for key in ("meta", "length", "mask_id", "eos_id", "fixed", "vocab")}
    page.evaluate(
        "([header, options]) => { window.player = api.mount(here, options); player.append([], header); }",
        [header, options],
    )


def append(page, frames) -> None:
    page.evaluate("frames => player.append(frames)", frames)


def test_the_canvas_follows_a_running_model(page):
    data = trace(length=24, steps=11)
    start_live(with_module(page), data)
    append(page, data["frames"][:1])
    expect(masks(page)).to_have_count(22)
    expect(page.locator(".da-live")).to_be_visible()
    append(page, data["frames"][1:6])
    expect(state(page)).to_have_text("step 5 of 11, 12 masks left")


def test_frames_that_come_twice_late_or_not_at_all_do_no_harm(page):
    data = trace(length=24, steps=11, remask_at=6)
    frames = data["frames"]
    start_live(with_module(page), data)
    for step in (0, 1, 1, 4, 3, 1, 7, 6, 11, 11):  # 2, 5, 8, 9 and 10 never come
        append(page, [frames[step]])
    expect(state(page)).to_have_text("step 11 of 11, 0 masks left")
    assert page.evaluate("player.recording.frames.map(f => f.step)") == [0, 1, 3, 4, 6, 7, 11]
    whole = page.evaluate(
        "data => { const p = api.mount(here, { trace: data }); return [...p.recording.frames.at(-1).ids]; }",
        data,
    )
    assert page.evaluate("[...player.recording.frames.at(-1).ids]") == whole == frames[-1]["ids"]


def test_differences_wait_for_the_frame_before_them(page):
    data = trace(length=24, steps=11, remask_at=6)
    message = wire.compact(data)
    start_live(with_module(page), data)
    full, rest = message["frames"][:1], message["frames"][1:]
    append(page, list(reversed(rest)))
    assert page.evaluate("player.recording.frames.length") == 0
    append(page, full)
    shown = page.evaluate("player.recording.frames.map(f => [[...f.ids], [...f.born]])")
    expected = page.evaluate(
        "data => api.mount(here, { trace: data }).recording.frames.map(f => [[...f.ids], [...f.born]])", data
    )
    assert shown == expected
    assert [ids for ids, _ in shown] == [frame["ids"] for frame in data["frames"]]


def test_a_reader_who_scrubs_back_is_left_in_peace(page):
    data = trace(length=24, steps=11)
    start_live(with_module(page), data)
    append(page, data["frames"][:6])
    expect(state(page)).to_contain_text("step 5")
    scrub(page, 2)
    append(page, data["frames"][6:9])
    expect(page.get_by_role("button", name="To the newest step")).to_be_visible()
    expect(state(page)).to_contain_text("step 2 of 11")
    page.get_by_role("button", name="To the newest step").click()
    append(page, data["frames"][9:10])
    expect(state(page)).to_contain_text("step 9 of 11")


def test_many_frames_at_once_are_few_redraws(page):
    data = trace(length=64, steps=60)
    start_live(with_module(page), data)
    redraws = page.evaluate(
        """async (frames) => {
          let redraws = 0;
          player.options.onDraw = () => { redraws += 1; };
          const began = performance.now();
          for (const frame of frames) {
            player.append([frame]);
            await new Promise((done) => setTimeout(done, 5));
          }
          await new Promise((done) => setTimeout(done, 150));
          return { redraws, possible: (performance.now() - began) / 48 + 1 };
        }""",
        data["frames"],
    )
    assert 1 <= redraws["redraws"] <= redraws["possible"]
    expect(state(page)).to_contain_text("step 60 of 60")


def test_a_step_touches_only_the_tokens_that_changed(page):
    data = trace(length=200, steps=99, given=2)
    with_module(page).evaluate("data => { window.player = api.mount(here, { trace: data }); player.seek(50); }", data)
    expect(state(page)).to_contain_text("step 50")
    page.evaluate(
        """() => {
          window.touched = new Set();
          new MutationObserver((records) => {
            for (const { target } of records) {
              const token = (target.closest ? target : target.parentElement).closest(".da-token");
              touched.add(token ? token.position : "canvas");
            }
          }).observe(document.querySelector(".da-canvas"),
            { subtree: true, childList: true, attributes: true, characterData: true });
          player.seek(51);
        }"""
    )
    expect(state(page)).to_contain_text("step 51")
    before, after = data["frames"][50], data["frames"][51]
    assert set(page.evaluate("[...touched]")) == {*before["revealed"], *after["revealed"]}


def test_a_long_trace_is_drawn_and_scrubbed(page):
    message = wire.compact(trace(length=1024, steps=256))
    with_module(page).evaluate("message => api.receive(here)(message)", message)
    expect(page.locator(".da-token")).to_have_count(1024)
    for step in (0, 128, 255, 13):
        scrub(page, step)
        expect(state(page)).to_contain_text(f"step {step} of 256")
    expect(masks(page)).not_to_have_count(0)


def test_a_new_run_replaces_the_old_one(page):
    with_module(page).evaluate("() => { window.take = api.receive(here); }")
    for length in (24, 40):
        page.evaluate("message => take(message)", wire.compact(trace(length=length, steps=5)))
        expect(page.locator(".da-token")).to_have_count(length)
    expect(page.locator(".da-player")).to_have_count(1)


def test_two_copies_of_the_module_on_one_page_do_not_disturb_each_other(page):
    with_module(page, '<div id="here"></div><div id="there"></div>')
    page.evaluate("data => { api.mount(here, { trace: data }); }", trace())
    page.evaluate(LOAD, read_source("player.js"))
    page.evaluate("data => { api.mount(there, { trace: data }); }", trace())
    assert page.get_by_role("radio", checked=True).count() == 2
    ids = page.locator("[id^=da-]").evaluate_all("nodes => nodes.map(node => node.id)")
    assert len(set(ids)) == len(ids) == 2


# ---- race ------------------------------------------------------------------------------------------


def race_of(page, slow: float = 1.0, autoplay: bool = False) -> None:
    entries = [
        {"label": "Slow", "note": "two million parameters", "trace": trace(length=24, steps=10, ms=300)},
        {"label": "Fast", "trace": trace(length=24, steps=10, ms=100)},
    ]
    message = wire.race_message(entries, slow=slow)
    page.evaluate(
        "([entries, slow, autoplay]) => { window.race = api.race(here, entries, { slow, autoplay }); }",
        [message["lanes"], message["slow"], autoplay],
    )


def test_two_lanes_run_by_one_clock_at_their_own_speed(page):
    race_of(with_module(page))
    entries = page.locator(".da-lane")
    expect(entries).to_have_count(2)
    for ms, slow_step, fast_step in [
        (0, 0, 0),
        (650, 2, 6),
        (999, 3, 9),
        (1000, 3, 10),
        (2999, 9, 10),
        (3000, 10, 10),
    ]:
        page.evaluate("ms => race.seek(ms)", ms)
        assert page.evaluate("race.players.map(p => p.recording.frames[p.index].step)") == [
            slow_step,
            fast_step,
        ]
    expect(masks(entries.nth(0))).to_have_count(0)


def test_the_race_says_who_finished_when(page):
    race_of(with_module(page))
    page.evaluate("race.seek(1500)")
    expect(page.locator(".da-clock").nth(0)).to_have_text("1.50 s")
    expect(page.locator(".da-clock").nth(1)).to_have_text("first, 1.00 s")
    expect(page.locator(".da-verdict")).to_have_text("")
    page.evaluate("race.seek(3000)")
    expect(page.locator(".da-clock").nth(0)).to_have_text("second, 3.00 s")
    expect(page.locator(".da-verdict")).to_have_text("Fast finished first; Slow took 3.00 times as long")


def test_a_race_that_is_too_close_to_call_has_no_first_lane(page):
    entries = [{"label": name, "trace": trace(length=24, steps=10, ms=ms)} for name, ms in (("A", 100), ("B", 101))]
    message = wire.race_message(entries, verdict="too close to call", tied=True)
    with_module(page)
    page.evaluate("m => { window.race = api.race(here, m.lanes, { ...m, autoplay: false }); }", message)
    page.evaluate("race.seek(5000)")
    expect(page.locator(".da-clock")).to_have_text(["1.00 s", "1.01 s"])
    expect(page.locator(".da-verdict")).to_have_text("too close to call")


def test_a_race_plays_to_its_end(page):
    race_of(with_module(page), slow=0.1, autoplay=True)
    expect(page.locator(".da-verdict")).to_contain_text("Fast finished first")
    expect(page.get_by_label("Speed")).to_have_value("10")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_a_short_race_starts_in_slow_motion(page):
    with_module(page).evaluate(
        "message => { window.take = api.receive(here); take(message); }",
        wire.race_message([{"label": "One", "trace": trace(steps=8, ms=5)}]),
    )
    assert float(page.get_by_label("Speed").input_value()) < 0.05


# ---- hosts -----------------------------------------------------------------------------------------


def test_anywidget_renders_follows_its_model_and_cleans_up(page):
    with_module(page, '<div id="here"></div><p id="picture">a saved picture</p>')
    messages = [wire.compact(trace(length=24, steps=5)), wire.compact(trace(length=12, steps=5))]
    page.evaluate(
        """async ([first]) => {
          const listeners = {};
          window.model = {
            state: { message: first, height: "", snapshot_id: "picture" },
            get(name) { return this.state[name]; },
            on(name, call) { listeners[name] = call; },
            off(name) { delete listeners[name]; },
            set(message) { this.state.message = message; listeners["change:message"]?.(); },
          };
          window.listeners = listeners;
          window.cleanUp = await api.default.render({ model, el: here });
        }""",
        messages,
    )
    expect(page.locator(".da-token")).to_have_count(24)
    expect(page.locator("#picture")).to_be_hidden()
    page.evaluate("message => model.set(message)", messages[1])
    expect(page.locator(".da-token")).to_have_count(12)
    page.evaluate("cleanUp()")
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator(".da-player")).to_have_count(0)
    assert page.evaluate("Object.keys(listeners).length") == 0


def test_gradio_shows_what_a_generator_yields(page):
    gr = pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
    message = wire.compact(trace(length=40, steps=6, words=HOSTILE))

    def generate():
        first = message | {"frames": message["frames"][:3], "done": False}
        rest = {key: message[key] for key in message if key != "header"} | {"frames": message["frames"][3:]}
        yield wire.to_text(first)
        yield wire.to_text(rest)

    with gr.Blocks(analytics_enabled=False) as demo:
        live = gr.HTML(**html_component_arguments())
        gr.HTML(**html_component_arguments() | {"value": json.loads(wire.to_text(message))})  # a dict does too
        gr.Button("Run").click(generate, None, live, show_progress="hidden")
    _, url, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False)
    try:
        page.goto(url)
        players = page.locator(".da-player")
        expect(players).to_have_count(2)
        expect(players.nth(0)).to_contain_text("Nothing has run yet.")
        expect(players.nth(1).locator(".da-token")).to_have_count(40)
        page.get_by_role("button", name="Run").click()
        expect(players.nth(0).locator(".da-state span").first).to_have_text("step 6 of 6, 0 masks left")
        assert players.nth(0).locator(".da-token").nth(5).text_content() == HOSTILE[5]
        assert page.evaluate("window.harmed") is None
        sheets = page.evaluate("[...document.head.querySelectorAll('style')].map(style => style.textContent)")
        assert sum("--da-paper" in sheet for sheet in sheets) == 1
    finally:
        demo.close()
