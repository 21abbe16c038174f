"""The Quality tab in a real browser: score a text, draw curves live, stop, be refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from tests.browser.visiting import entered, keep_picture, serving

pytestmark = pytest.mark.browser


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
    page.get_by_role("tab", name="Quality").click()
    yield page
    keep_picture(page, f"{request.node.originalname}-{scheme}-{width}")


def test_score_a_text_and_see_where_it_surprises(visit):
    visit.locator("#surprisal-text textarea").fill("Ruth had five nuts, ate three and kept two.")
    visit.locator("#surprisal-run").click()
    table = visit.locator("#surprisal-figures")
    for words in ("NELBO, nats per token", "bits per byte", "known from the grammar", "Consistent"):
        expect(table).to_contain_text(words)
    expect(visit.locator("#surprisal-rows .da-token").first).to_have_text("R")
    expect(visit.locator("#surprisal-rows .da-lane-name")).to_have_text("toy-diffuapriel")
    expect(visit.locator("#surprisal-rows .da-scrubber")).to_have_count(0)
    expect(visit.locator("#surprisal-status")).to_contain_text("64 random masks")
    expect(visit.locator("#surprisal-chart .main-svg").first).to_be_visible()
    tokens = visit.locator("#surprisal-rows .da-canvas").first.locator(".da-token").count()
    expect(visit.locator("#surprisal-chart .barlayer .point")).to_have_count(tokens)


@pytest.mark.parametrize("visit", [("dark", 390)], ids=["dark-narrow"], indirect=True)
def test_curves_arrive_point_by_point_stop_when_told_and_what_is_wrong_is_said(visit):
    run, status = visit.locator("#quality-run"), visit.locator("#quality-status")
    for steps, wanted in (("4", True), ("8", False), ("32", False), ("128", True)):
        visit.locator("#quality-steps").get_by_label(steps, exact=True).set_checked(wanted)
    visit.locator("#quality-strategies").get_by_label("ancestral").uncheck()
    run.click()
    expect(visit.locator("#quality-status progress")).to_be_visible()
    expect(visit.locator("#quality-chart .main-svg").first).to_be_visible()  # the first point is there
    visit.locator("#quality-stop").click()
    expect(status).to_contain_text("Stopped: these are the points measured so far")
    expect(status).to_contain_text("forward passes of 8 × 128 tokens")
    expect(visit.locator("#quality-chart")).to_contain_text("tales of the grammar")
    expect(run).to_be_enabled()

    visit.locator("#quality-strategies").get_by_label("low_confidence").uncheck()
    run.click()
    expect(status).to_contain_text("choose one to 8")
    visit.locator("#surprisal-text textarea").fill("nut " * 300)
    visit.locator("#surprisal-run").click()
    expect(visit.locator("#surprisal-status")).to_contain_text("it may take 1 to 256")
    visit.locator("#surprisal-text textarea").fill("nuts & <img src=x onerror=alert(1)>")
    visit.locator("#surprisal-run").click()
    expect(visit.locator("#surprisal-figures")).to_contain_text("Not judged")
    expect(visit.locator("#surprisal-rows")).to_contain_text("<img")
    assert visit.locator("img[src=x]").count() == 0
    expect(visit.locator("#surprisal-run")).to_be_enabled()
