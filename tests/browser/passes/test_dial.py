"""The dial of passes in a real browser: keys, pointer, a rule set by hand, a link, another language, other models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from tests.app.toys import toy_tuned
from tests.browser.visiting import choose, entered, in_language, keep_picture, serving

axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python: pip install axe-playwright-python"
)
pytestmark = pytest.mark.browser
OWN = "your own rule: not measured"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    with serving(folder, bundled=False, first=[toy_tuned(folder)]) as address:
        yield address


def stands_at(page: Page, words: str) -> None:
    expect(page.locator("#unmask-dial output")).to_have_text(words)
    expect(page.get_by_role("slider", name="Passes")).to_have_attribute("aria-valuetext", words)


def strategy(page: Page, name: str) -> None:
    expect(page.locator("#unmask-strategy input")).to_have_value(name)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_keys_turn_the_dial_and_the_dial_sets_the_rule(new_page, address, scheme, width):
    page = entered(new_page, address, scheme, width)
    slider = page.get_by_role("slider", name="Passes")
    stands_at(page, "2.3 tokens per pass")
    expect(page.locator("#unmask-dial [role=status]")).to_contain_text("Of 512 stories: 98.0 % consistent")
    page.locator("#unmask-more > button").click()
    strategy(page, "factor: the more at once, the surer")
    slider.press("Home")
    slider.press("ArrowRight")
    stands_at(page, "1.9 tokens per pass")
    strategy(page, "threshold: all confident enough")
    expect(page.locator("#unmask-block input[type=number]")).to_have_value("32")
    slider.press("End")
    stands_at(page, "4.0 tokens per pass")
    expect(page.locator("#unmask-dial [role=status]")).to_contain_text("Loses quality.")
    strategy(page, "entropy bound: while their summed entropy is small")
    expect(page.locator("#unmask-entropy_bound input")).to_have_value("0.4")
    slider.press("Home")
    stands_at(page, "0.9 tokens per pass, one at a time")
    strategy(page, "low-confidence: likeliest first")
    keep_picture(page, f"dial-{scheme}-{width}")
    found = axe_playwright.Axe().run(page, context="#unmask-dial")
    assert found.violations_count == 0, found.generate_report()


def test_a_rule_set_by_hand_leaves_the_dial_and_a_press_comes_back(new_page, address):
    page = entered(new_page, address, "light", 1280)
    page.locator("#unmask-order input[value=anywhere]").click()
    stands_at(page, OWN)
    slider = page.get_by_role("slider", name="Passes")
    slider.press("Enter")
    stands_at(page, "2.3 tokens per pass")
    expect(page.locator("#unmask-order input:checked")).to_have_count(0)
    page.locator("#unmask-more > button").click()
    factor = page.locator("#unmask-factor input")
    factor.fill("0.7")
    factor.press("Tab")
    stands_at(page, OWN)
    box = slider.bounding_box()
    assert box is not None
    slider.click(position={"x": box["width"] / 3, "y": box["height"] / 2})
    stands_at(page, "1.9 tokens per pass")
    temperature = page.locator("input[type=number]:visible").and_(page.get_by_label("Temperature")).first
    temperature.fill("1")
    temperature.press("Tab")
    expect(page.locator(".da-dial-note")).to_contain_text("at temperature 0.5 and top-p 0.9, not with your settings")


def test_a_link_sets_the_dial_too_and_the_run_has_the_rule(new_page, address):
    page = entered(new_page, address, "light", 1280)
    page.get_by_role("slider", name="Passes").press("ArrowRight")
    stands_at(page, "4.0 tokens per pass")
    page.locator("#share").click()
    page.locator("#unmask-link").click()
    link = page.locator("#unmask-link-text textarea")
    expect(link).to_have_value(f"{address}?" + link.input_value().partition("?")[2])
    assert "strategy=entropy_bound" in link.input_value() and "entropy_bound=0.4" in link.input_value()
    other = entered(new_page, link.input_value(), "light", 1280)
    stands_at(other, "4.0 tokens per pass")
    other.locator("#unmask-run").click()
    expect(other.locator("#unmask-status")).to_contain_text("tokens/s")


def test_a_model_without_figures_has_no_dial_and_a_german_page_a_german_one(new_page, address):
    page = entered(new_page, address, "light", 1280)
    page.locator("#unmask-more > button").click()
    choose(page, "#unmask-model", "toy-diffutran")
    expect(page.locator("#unmask-dial")).to_be_hidden()
    choose(page, "#unmask-model", "toy-tuned")
    stands_at(page, "2.3 tokens per pass")
    german = entered(new_page, address, "light", 1280, **in_language("de"))
    expect(german.get_by_role("slider", name="Durchläufe")).to_have_attribute(
        "aria-valuetext", "2,3 Tokens je Durchlauf"
    )
