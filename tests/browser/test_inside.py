"""The Inside tab in a real browser: look, choose tokens by pointer and by keyboard, look closer, stop, be refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Locator, Page, expect

from tests.browser.visiting import choose, entered, keep_picture, serving

pytestmark = pytest.mark.browser
HYBRID = "diffuapriel-h nano, random weights"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The app on two untrained checkpoints and nothing bundled, served on a free port."""
    with serving(tmp_path_factory.mktemp("checkpoints"), bundled=False) as url:
        yield url


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["light-wide", "dark-narrow"])
def visit(request, new_page, address) -> Iterator[Page]:
    """The open tab; kept as a picture when the test is over."""
    scheme, width = request.param
    page = entered(new_page, address, scheme, width)
    page.get_by_role("tab", name="Inside").click()
    yield page
    keep_picture(page, f"{request.node.originalname}-{scheme}-{width}")


def look(page: Page, text: str, outcome: str | re.Pattern = "the models are told") -> None:
    page.locator("#inside-text textarea").fill(text)
    page.locator("#inside-run").click()
    expect(page.locator("#inside-status")).to_contain_text(outcome)
    expect(page.locator("#inside-run")).to_be_enabled()  # a third question of a visitor who waits is refused


def token(page: Page, entry: int, position: int) -> Locator:
    return page.locator("#inside-rows .da-canvas").nth(entry).locator(".da-token").nth(position)


def test_look_choose_a_token_and_look_closer(visit):
    look(visit, "Mia found a [MASK:2] and a nut.")
    expect(visit.locator("#inside-rows .da-lane")).to_have_count(3)
    expect(visit.locator("#inside-rows .da-lane-note").nth(1)).to_contain_text("from the left")
    expect(visit.locator("#inside-rows .da-mask")).to_have_count(6)
    influence = visit.locator("#inside-influence .main-svg").first
    try:  # Gradio can lose a chart that is set while its chart library is still being loaded
        expect(influence).to_be_visible(timeout=10_000)
    except AssertionError:
        visit.locator("#inside-run").click()
        expect(influence).to_be_visible()
        expect(visit.locator("#inside-run")).to_be_enabled()
    expect(visit.locator("#inside-influence .scatterlayer .trace")).to_have_count(3)  # the last model's line too
    for chart in ("memory", "attention", "schedule", "modulation"):
        expect(visit.locator(f"#inside-{chart} .main-svg").first).to_be_visible()
    expect(visit.locator("#inside-schedule")).to_contain_text("% masked")
    expect(visit.locator("#inside-attention")).to_contain_text("layer 6, mean of all")

    token(visit, 1, 2).click()
    expect(visit.locator("#inside-position input")).to_have_value("2")
    expect(visit.locator("#inside-status")).to_contain_text("Token 2 is predicted")
    expect(token(visit, 0, 2)).to_have_attribute("aria-selected", "true")
    expect(token(visit, 1, 2)).to_be_focused()
    visit.keyboard.press("ArrowRight")
    expect(token(visit, 1, 3)).to_be_focused()
    visit.keyboard.press("Enter")
    expect(visit.locator("#inside-status")).to_contain_text("Token 3 is predicted")
    expect(token(visit, 1, 3)).to_be_focused()
    expect(visit.locator("#inside-run")).to_be_enabled()

    choose(visit, "#inside-closer", "toy-diffuapriel")
    expect(visit.locator("#inside-attention")).to_contain_text("no attention layer")
    choose(visit, "#inside-closer", HYBRID)
    expect(visit.locator("#closer-status")).to_contain_text("5 Mamba, 1 attention")
    expect(visit.locator("#inside-attention .heatmaplayer").first).to_be_attached()
    expect(visit.locator("#inside-attention")).to_contain_text("layer 6, mean of all")
    choose(visit, "#inside-head", "head 2")
    expect(visit.locator("#inside-attention")).to_contain_text("layer 6, head 2")
    visit.get_by_label("MLP").check()
    expect(visit.locator("#inside-modulation .main-svg").first).to_be_visible()
    choose(visit, "#inside-closer", "toy-diffutran")
    expect(visit.locator("#inside-memory")).to_contain_text("no Mamba layer")


ONE_SCREEN = pytest.mark.parametrize("visit", [("light", 1280)], ids=["light-wide"], indirect=True)


@ONE_SCREEN
def test_occlusion_runs_to_its_end_and_stops_when_told(visit):
    visit.get_by_label("occlusion").check()
    look(visit, "a [MASK] b")
    expect(token(visit, 0, 1)).to_have_attribute("aria-label", re.compile("the token that is predicted"))
    expect(token(visit, 0, 0)).to_have_attribute("aria-label", re.compile("of the influence"))

    visit.locator("#inside-text textarea").fill("nut " * 120)
    visit.locator("#inside-run").click()
    expect(visit.locator("#inside-status progress")).to_be_visible()
    visit.locator("#inside-stop").click()
    expect(visit.locator("#inside-status")).to_contain_text("Stopped: the colored tokens have been measured")
    expect(visit.locator("#inside-run")).to_be_enabled()


@ONE_SCREEN
def test_what_is_wrong_is_said_and_the_tab_goes_on(visit):
    look(visit, "[MASK:<img src=x onerror=alert(1)>]", "is not a hole")
    look(visit, "[MASK:300]", "here it may take up to 256")
    look(visit, "<img src=x onerror=alert(1)> &amp; [MASK]")
    assert visit.locator("img[src=x]").count() == 0
    expect(visit.locator("#inside-rows .da-canvas").first).to_contain_text("<img src=x onerror=alert(1)> &amp;")
    visit.locator("#inside-position input").fill("99")
    visit.locator("#inside-run").click()
    expect(visit.locator("#inside-status")).to_contain_text("output position is 99")
    look(visit, "Sam saw a [MASK].")  # typing chooses the first mask again
