"""What a teacher does in a room: present, reload, choose the language and the theme on the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from tests.browser.visiting import entered, keep_picture, serving

pytestmark = pytest.mark.browser
STATE = "#unmask-player .da-state"
LINK = "?tab=unmask&text=Rose+has+a+[MASK:3].&length=16&steps=4&strategy=low_confidence"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("checkpoints")) as url:
        yield url


def written(page: Page, address: str) -> None:
    """Run four steps, and go back to the page without the link."""
    page.goto(address + LINK)
    expect(page.get_by_label("Text with holes")).to_have_value("Rose has a [MASK:3].")
    page.locator("#unmask-run").click()
    expect(page.locator(STATE)).to_contain_text("step 4 of 4, 0 masks left")
    page.wait_for_function("sessionStorage.getItem('diffuapriel-run')")
    page.goto(address)


def test_the_canvas_fills_the_window_in_large_type_and_the_keys_play_it(new_page, address):
    page = entered(new_page, address, "light", 1920)
    written(page, address)
    expect(page.locator(STATE)).to_contain_text("step 4 of 4")
    page.locator("#present").click()
    stage = page.locator(".da-presented")
    assert stage.bounding_box() == {"x": 0, "y": 0, "width": 1920, "height": 900}
    expect(stage.locator(".da-canvas")).to_have_css("font-size", "40px")
    page.keyboard.press("Home")
    expect(stage.locator(".da-state")).to_contain_text("step 0 of 4")
    page.keyboard.press("ArrowRight")
    expect(stage.locator(".da-state")).to_contain_text("step 1 of 4")
    page.keyboard.press("+")
    expect(stage.locator(".da-canvas")).to_have_css("font-size", "48px")
    page.keyboard.press("?")
    expect(stage.get_by_text("one step back, one step forward")).to_be_visible()
    page.screenshot(path="test-artifacts/present.png")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(stage).to_have_count(0)
    expect(page.locator("#present")).to_be_focused()


def test_a_run_survives_a_reload_and_a_change_of_the_language(new_page, address):
    page = entered(new_page, address, "light", 390)
    written(page, address)
    expect(page.locator("#unmask-status")).to_contain_text("As you left it.")
    page.get_by_label("Language").select_option("de")
    expect(page.locator("#unmask-status")).to_contain_text("So, wie Sie es verlassen haben.")
    expect(page.locator(STATE)).to_contain_text("Schritt 4 von 4")
    assert page.evaluate("document.documentElement.lang") == "de"
    keep_picture(page, "german")
    page.get_by_label("Text mit Lücken").fill("Tom [MASK:4]")
    page.reload()
    expect(page.get_by_label("Text mit Lücken")).to_have_value("Tom [MASK:4]")


def test_light_and_dark_are_chosen_on_the_page_and_remembered(new_page, address):
    page = entered(new_page, address, "light", 1280)
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("body.dark")).to_have_count(1)
    page.reload()
    expect(page.locator("body.dark")).to_have_count(1)
    expect(page.get_by_text("Progressive Web App")).to_have_count(0)
    page.get_by_role("button", name="Light").click()
    expect(page.locator("body.dark")).to_have_count(0)


def test_a_refusal_stays_readable(new_page, address):
    page = entered(new_page, address, "light", 1280)
    page.get_by_label("Text with holes").fill("[MASK:")
    page.locator("#unmask-run").click()
    line = page.locator("#unmask-status .da-bad")
    expect(line).to_contain_text("write [MASK] or [MASK:8]")
    expect(page.locator("#unmask-run")).to_be_enabled()
    line.scroll_into_view_if_needed()
    box = line.bounding_box()
    assert box
    middle = [box["x"] + 20, box["y"] + box["height"] / 2]
    assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).closest('.da-bad') !== null", middle)
