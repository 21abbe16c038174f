"""The first minute of a visitor: the page plays by itself, the tour leads through five steps, the text box has keys."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from app.strings.language import TABLES
from tests.browser.test_unmask import serious
from tests.browser.visiting import entered, in_language, keep_picture

pytestmark = pytest.mark.browser
# Every width and both schemes: no rule of app/ui/style.css is for one scheme at some widths alone.
LOOKS = [("light", 1280), ("dark", 390), ("light", 1920)]
PLAYED = """document.addEventListener("da-draw", ({ detail: { player, frame } }) => {
  if (player.playing && frame.step > 0) window.moved = true;
})"""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, object]]:
    """The app on the bundled checkpoints, and its models."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from app.main import build, launch
    from app.server.models import Models

    models = Models()
    page = build(models)
    yield launch(page), models
    page.close(verbose=False)


def tour(page: Page):
    return page.locator(".da-tour")


def token(page: Page, text: str):
    return page.locator("#unmask-player .da-token").filter(has_text=text)


def test_the_page_plays_before_a_model_is_loaded(new_page, served):
    address, models = served
    page = new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(PLAYED)
    page.goto(address)
    page.wait_for_function("window.moved")
    assert not models._loaded
    expect(page.locator("#unmask-player .da-state")).to_contain_text(", 0 masks left")
    expect(page.locator("#unmask-player .da-canvas")).to_contain_text("Mia lost her white key")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_tour_is_taken_with_the_keyboard_alone(new_page, served, scheme, width):
    page = entered(new_page, served[0], scheme, width, reduced_motion="reduce")
    expect(page.locator("#unmask-player .da-state")).to_contain_text(", 0 masks left")  # nothing moves
    keys = page.keyboard
    expect(tour(page)).to_contain_text("1 of 5")
    for _ in range(30):
        if page.evaluate("document.activeElement.classList.contains('da-token')"):
            break
        keys.press("Tab")
    white = token(page, "white").first.evaluate("token => token.position")
    for _ in range(white):
        keys.press("ArrowRight")
    keys.press("Enter")
    keys.press("Control+a")
    keys.type(" red")
    keys.press("Enter")

    expect(tour(page)).to_contain_text("2 of 5")
    expect(page.locator("#unmask-status")).to_contain_text("expected 'red'")
    broken = page.locator(".da-breaks").first.evaluate("token => token.position")
    page.locator(".da-fold > summary").press("Enter")
    assert serious(page) == []
    page.locator("#unmask-player .da-token").nth(white).focus()
    for _ in range(broken - white):
        keys.press("ArrowRight")
    keys.press("Delete")

    expect(tour(page)).to_contain_text("3 of 5")
    keys.press("r")
    expect(tour(page)).to_contain_text("4 of 5")
    expect(token(page, "red")).to_have_count(2)
    expect(page.locator("#unmask-status")).to_contain_text("Consistent")
    keep_picture(page, f"tour-{scheme}-{width}")

    page.get_by_role("button", name="Do it for me").focus()
    keys.press("Enter")
    expect(tour(page)).to_contain_text("5 of 5")
    expect(page.get_by_label("One after the other")).to_be_checked()
    page.get_by_role("button", name="Do it for me").focus()
    keys.press("Enter")
    expect(page.locator("#race-run")).to_be_visible()
    page.reload()
    expect(tour(page)).to_contain_text("Take the tour again")


@pytest.mark.parametrize("language", TABLES)
def test_no_label_is_wider_than_its_button_on_a_narrow_screen(new_page, served, language):
    page = entered(new_page, served[0], "light", 390, reduced_motion="reduce", **in_language(language))
    expect(page.locator("#unmask-dice")).to_be_visible()
    wide = "buttons => buttons.filter(one => one.scrollWidth > one.clientWidth).map(one => one.textContent)"
    assert page.locator(".da-actions button:visible").evaluate_all(wide) == []


def test_the_text_box_makes_holes_and_runs_by_keys(new_page, served):
    page = entered(new_page, served[0], "light", 1280, reduced_motion="reduce")
    page.get_by_role("button", name="Skip the tour").click()
    box = page.locator("#unmask-text textarea")
    box.fill("Mia found a white bell.")
    box.evaluate("box => box.setSelectionRange(12, 17)")
    box.press("Control+m")
    expect(box).to_have_value("Mia found a [MASK:1] bell.")
    box.press("Control+Enter")
    expect(page.locator("#unmask-status")).to_contain_text(" steps and")
    first = page.locator("#unmask-player .da-canvas").inner_text()
    page.get_by_label("One after the other").check()
    page.locator("#unmask-more > button").click()
    expect(page.get_by_label("Block length").first).to_have_value("1")
    page.get_by_role("button", name="a beginning and an end").click()  # an example runs
    expect(page.locator("#unmask-player .da-canvas")).to_contain_text("Mia and Max played with")
    assert first.startswith("Mia found a")
