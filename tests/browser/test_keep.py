"""Keep and share in a real browser: save as GIF, open by drop, a page that plays offline, links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from diffuapriel.trace.trace import Trace
from tests.browser.visiting import PATIENCE_MS, keep_picture, serving
from tests.trace.player import example

pytestmark = pytest.mark.browser
DROP = """(stage, [name, text]) => {
  const files = new DataTransfer();
  files.items.add(new File([text], name, { type: "application/json" }));
  for (const type of ["dragover", "drop"]) {
    stage.dispatchEvent(new DragEvent(type, { dataTransfer: files, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The app on two untrained nano checkpoints, served on a free port."""
    with serving(tmp_path_factory.mktemp("checkpoints")) as url:
        yield url


@pytest.fixture
def open_at(new_page, address, request):
    """Opens the app with a query; the page is kept as a picture when the test is over."""
    expect.set_options(timeout=PATIENCE_MS)
    pages: list[Page] = []

    def go(query: str = "", scheme: str = "light", width: int = 1280) -> Page:
        page = new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address + query)
        expect(page.get_by_role("tab", name="Race")).to_be_visible()
        pages.append(page)
        return page

    yield go
    for number, page in enumerate(pages):
        keep_picture(page, f"{request.node.name}-{number}")


@pytest.fixture
def trace() -> Trace:
    return Trace.from_json(json.dumps(example.trace(length=16, steps=4)))


def drop(page: Page, name: str, text: str) -> None:
    expect(page.locator("#open-trace")).to_be_attached()
    page.locator("#unmask-player").evaluate(DROP, [name, text])


def test_a_run_is_saved_as_a_gif_and_as_a_page_that_plays_offline(open_at, new_page, tmp_path):
    from PIL import Image

    page = open_at("?tab=unmask&text=Rose+has+a+[MASK:3].&length=16&steps=4&strategy=random")
    expect(page.get_by_label("Text with holes")).to_have_value("Rose has a [MASK:3].")
    expect(page.locator("#save-gif")).to_be_hidden()
    page.locator("#unmask-run").click()
    expect(page.locator("#unmask-status")).to_contain_text("tokens/s")
    page.locator("#share").click()
    expect(page.locator("#save-gif")).to_be_visible()
    papers = set()
    for theme in ("Dark", "Light"):  # the page's own colors in both
        page.get_by_role("button", name=theme, exact=True).evaluate("button => button.click()")
        expect(page.get_by_role("button", name=theme, exact=True)).to_have_count(0)
        with page.expect_download() as download:
            page.locator("#save-gif").click()
        assert download.value.suggested_filename == "toy-diffuapriel-random-0.gif"
        download.value.save_as(tmp_path / "run.gif")
        paper = page.locator("#unmask-player .da-player").first.evaluate(
            "root => getComputedStyle(root).backgroundColor"
        )
        with Image.open(tmp_path / "run.gif") as picture:
            assert picture.n_frames == 5
            assert paper == "rgb({}, {}, {})".format(*picture.convert("RGB").getpixel((1, 1)))
        papers.add(paper)
        expect(page.locator("#save-gif")).to_be_enabled()
    assert len(papers) == 2
    with page.expect_download() as download:
        page.locator("#save-html").click()
    download.value.save_as(tmp_path / "run.html")
    offline = new_page(offline=True)
    offline.goto((tmp_path / "run.html").as_uri())
    expect(offline.locator(".da-state")).to_contain_text("step 4 of 4, 0 masks left")
    expect(offline.locator("h1")).to_have_text("How a diffusion language model writes")
    page.keyboard.press("Escape")
    drop(page, "run.html", (tmp_path / "run.html").read_text(encoding="utf-8"))
    expect(page.locator("#unmask-status")).to_contain_text("Opened a trace of 5 frames.")


def test_a_trace_that_is_dropped_opens_and_a_foreign_file_is_refused_with_the_reason(open_at, trace):
    page = open_at()
    drop(page, "trace.json", trace.to_json())
    expect(page.locator("#unmask-status")).to_contain_text("Opened a trace of 5 frames.")
    drop(page, "evil.json", '{"schema": "<img src=x onerror=alert(1)>"}')
    expect(page.locator("#unmask-status .da-bad")).to_contain_text("this file cannot be opened as a trace")
    expect(page.locator("#unmask-player .error")).to_have_count(0)
    assert page.locator("img[src=x]").count() == 0
    expect(page.locator("#unmask-player .da-state")).to_contain_text("step 4 of 4")


def test_a_link_restores_the_settings_of_the_unmask_tab(open_at, address):
    page = open_at("?tab=unmask&text=One+day%2C+Sam&length=40&steps=8&strategy=random&top_k=5&seed=3&block=8")
    expect(page.get_by_label("Text with holes")).to_have_value("One day, Sam")
    page.locator("#share").click()
    page.locator("#unmask-link").click()
    box = page.locator("#unmask-link-text textarea")
    expect(box).to_have_value(
        address + "?tab=unmask&text=One+day%2C+Sam&model=toy-diffuapriel&length=40&steps=8&strategy=random"
        "&temperature=1&top_k=5&top_p=0.9&seed=3&block=8&block_start=prompt&threshold=0.97&factor=1&entropy_bound=0.1"
    )
    expect(page).to_have_url(box.input_value())


def test_a_link_opens_the_race_tab_with_its_lanes_and_says_what_cannot_be(open_at):
    page = open_at("?tab=race&b=toy-diffuapriel&c=toy-diffutran&length=99999&steps=7", "dark", 390)
    expect(page.locator("#race-status")).to_contain_text("From the link: length is 99999")
    expect(page.locator("#race-c input")).to_have_value("none")
    page = open_at("?tab=race&b=toy-diffuapriel&c=toy-diffutran&steps=7", "dark", 390)
    expect(page.locator("#race-run")).to_be_visible()
    expect(page.locator("#race-c input")).to_have_value(re.compile("^toy-diffutran · "))
    expect(page.locator("#race-b input")).to_have_value(re.compile("^toy-diffuapriel · "))
    page.locator("#race-link").click()
    wanted = r"\?tab=race&a=toy-diffuapriel&b=toy-diffuapriel&c=toy-diffutran&length=2048&steps=7&"
    expect(page.locator("#race-link-text textarea")).to_have_value(re.compile(wanted))


def test_links_of_inside_and_quality_restore_their_lists(open_at, address):
    page = open_at("?tab=inside&text=Ruth+had+[MASK].&models=toy-diffutran&t=0.5&method=occlusion")
    expect(page.get_by_role("radio", name="occlusion: effect of hiding the token")).to_be_checked()
    page.locator("#inside-link").click()
    expect(page.locator("#inside-link-text textarea")).to_have_value(
        address + "?tab=inside&text=Ruth+had+%5BMASK%5D.&models=toy-diffutran&t=0.5&method=occlusion"
    )
    page = open_at("?tab=quality&strategies=random&strategies=entropy&steps=4&steps=16")
    expect(page.get_by_role("checkbox", name="entropy", exact=True)).to_be_checked()
    expect(page.get_by_role("checkbox", name="low_confidence", exact=True)).not_to_be_checked()
    page.locator("#quality-link").click()
    wanted = re.compile(r"&writer=toy-diffuapriel&strategies=random&strategies=entropy&steps=4&steps=16&")
    expect(page.locator("#quality-link-text textarea")).to_have_value(wanted)
