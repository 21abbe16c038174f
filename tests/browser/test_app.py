"""The app in a real browser: what a visitor does in each tab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from tests.browser.visiting import entered, keep_picture, serving, type_number

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The app on two untrained nano checkpoints, served on a free port."""
    with serving(tmp_path_factory.mktemp("checkpoints")) as url:
        yield url


@pytest.fixture(params=[("light", 1280), ("dark", 400)], ids=["light-wide", "dark-narrow"])
def visit(request, new_page, address) -> Iterator[Page]:
    """The open page; kept as a picture when the test is over."""
    scheme, width = request.param
    page = entered(new_page, address, scheme, width)
    yield page
    keep_picture(page, f"{request.node.originalname}-{scheme}-{width}")


def scrub(page: Page, name: str, value: float) -> None:
    page.get_by_role("slider", name=name, exact=True).locator("visible=true").last.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )


def test_unmask_type_run_see_the_text_scrub_back_keep_and_open(visit, tmp_path):
    visit.locator("#unmask-more > button").click()
    visit.get_by_label("Text with holes").fill("Rose has a [MASK:9].")
    type_number(visit, "Length in tokens", 24)
    visit.locator("#unmask-run").click()
    player = visit.locator("#unmask-player")
    expect(player.locator(".da-state")).to_contain_text(", 0 masks left")
    expect(visit.locator("#unmask-status")).to_contain_text("tokens/s")
    expect(visit.locator("#unmask-status")).to_contain_text("Not judged: your words are from no story")
    expect(player.locator(".da-token").first).to_have_text("R")
    expect(player.locator(".da-mask")).to_have_count(0)

    scrub(visit, "Step", 0)
    expect(player.locator(".da-state")).to_contain_text("step 0 of")
    expect(player.locator(".da-canvas .da-mask").last).to_be_visible()

    visit.locator("#share").click()
    with visit.expect_download() as download:
        visit.locator("#save-json").click()
    assert download.value.suggested_filename == "toy-diffuapriel-threshold-0.json"
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    visit.keyboard.press("Escape")  # closes the menu
    with visit.expect_file_chooser() as chooser:
        visit.locator("#open-trace").click()
    chooser.value.set_files(saved)
    expect(visit.locator("#unmask-status")).to_contain_text("Opened a trace of")
    expect(player.locator(".da-state")).to_contain_text(", 0 masks left")


def test_unmask_says_what_is_wrong_and_goes_on(visit):
    visit.get_by_label("Text with holes").fill("[MASK:<img src=x onerror=alert(1)>]")
    visit.locator("#unmask-run").click()
    expect(visit.locator("#unmask-status")).to_contain_text("is not a hole")
    assert visit.locator("img[src=x]").count() == 0

    visit.locator("#unmask-more > button").click()
    visit.get_by_role("button", name="from nothing").click()  # runs at once
    expect(visit.locator("#unmask-player .da-state")).to_contain_text(", 0 masks left")


@pytest.mark.parametrize("visit", [("light", 1280)], ids=["light-wide"], indirect=True)
def test_the_keyboard_reaches_the_dice_and_each_throw_is_another_story(visit):
    visit.locator("#unmask-more > button").click()
    stories, seeds = set(), set()
    visit.locator("#unmask-run").focus()
    visit.keyboard.press("Tab")
    for _ in range(3):
        expect(visit.get_by_role("button", name="Another story")).to_be_focused()
        seed = visit.get_by_label("Seed").first
        before = seed.input_value()
        visit.keyboard.press("Enter")
        expect(seed).not_to_have_value(before)
        expect(visit.locator("#unmask-run")).to_be_disabled()
        expect(visit.locator("#unmask-run")).to_be_enabled()
        expect(visit.locator("#unmask-status")).to_contain_text("tokens/s")
        seeds.add(seed.input_value())
        stories.add(visit.locator("#unmask-player .da-canvas").inner_text())
    assert len(seeds) == len(stories) == 3


@pytest.mark.parametrize("visit", [("light", 1280)], ids=["light-wide"], indirect=True)  # more: test_race.py
def test_race_run_see_who_won_scrub_back_and_find_the_crossover(visit):
    visit.get_by_role("tab", name="Race").click()
    type_number(visit, "Length in tokens", 16)
    type_number(visit, "Steps", 4)
    visit.locator("#race-run").click()
    expect(visit.locator("#race-results table tbody tr")).to_have_count(2)
    expect(visit.locator("#race-results")).to_contain_text("Timed one after the other, never together")
    expect(visit.locator("#race-player .da-lane")).to_have_count(2)

    scrub(visit, "Time", 0)
    expect(visit.locator("#race-player .da-mask")).to_have_count(32)

    visit.get_by_label("1,024").check()
    visit.locator("#sweep-run").click()
    expect(visit.locator("#sweep-chart .main-svg").first).to_be_visible()
    expect(visit.locator("#sweep-status")).to_contain_text("faster")
    expect(visit.locator("#sweep-chart .scatterlayer .trace").nth(1)).to_be_attached()
