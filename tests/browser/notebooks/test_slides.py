"""The slides on a projector of 1920 x 1080 pixels: every one fits, and keys, clicks and addresses lead to them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import Page, expect

from tests.notebooks.test_lessons import load

pytestmark = pytest.mark.browser

slides = load("slides")
NAMES = list(slides.SLIDES)
SIZE = {"width": 1920, "height": 1080}
BOXES = """() => [...document.querySelectorAll("section.now > :is(img, ul), nav")].map((part) => {
  const { left, top, right, bottom } = part.getBoundingClientRect();
  return [left, top, right, bottom];
})"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("slides") / "slides.html"
    path.write_text(slides.page(), encoding="utf-8")
    return path.as_uri()


def shown(page: Page) -> str:
    expect(page.locator("section.now")).to_have_count(1)
    return page.locator("section.now").get_attribute("id") or ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_slide_fits_on_the_projector_with_nothing_on_top_of_another(new_page, address: str, scheme: str) -> None:
    page = new_page(viewport=SIZE, color_scheme=scheme)
    page.goto(address)
    for name in NAMES:
        assert shown(page) == name
        picture, points, number = page.evaluate(BOXES)
        for left, top, right, bottom in (picture, points, number):
            assert 0 <= left < right <= SIZE["width"] and 0 <= top < bottom <= SIZE["height"], name
        assert picture[3] <= points[1] and points[3] <= number[1], name
        assert picture[2] - picture[0] >= SIZE["width"] / 2, name
        page.keyboard.press("ArrowRight")
    assert shown(page) == NAMES[-1], "the last slide stays"


def test_clicks_and_addresses_lead_to_slides(new_page, address: str) -> None:
    page = new_page(viewport=SIZE)
    page.goto(f"{address}#{NAMES[3]}")
    assert shown(page) == NAMES[3]
    page.mouse.click(1500, 500)
    assert shown(page) == NAMES[4]
    page.mouse.click(100, 500)
    assert shown(page) == NAMES[3]
