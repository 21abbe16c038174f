"""The page of a lesson, opened from a file: it plays, draws and sets its formulas.

That it wrote no error to the console and asked nothing of another machine is what `new_page` sees to.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("nbconvert", reason="needs nbconvert: pip install nbconvert")
pytest.importorskip("latex2mathml", reason="needs latex2mathml: pip install latex2mathml")
pytest.importorskip("plotly", reason="needs plotly: pip install plotly")
pytest.importorskip("anywidget", reason="needs anywidget: pip install anywidget")
import plotly
from playwright.sync_api import Page, expect

from tests.browser.visiting import PATIENCE_MS, keep_picture
from tests.notebooks.exporting import example, export

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lessons-html")
    (folder / "09_made_up.html").write_text(export.lesson_page(example(), "09 · Made up"), encoding="utf-8")
    shutil.copy(Path(plotly.__file__).parent / "package_data" / export.PLOTLY, folder)
    return folder


def opened(new_page, folder: Path, **context) -> Page:
    expect.set_options(timeout=PATIENCE_MS)
    page = new_page(**context)
    page.goto((folder / "09_made_up.html").as_uri())
    expect(page.locator(".da-token")).to_have_count(24)
    return page


def test_the_player_plays(new_page, folder) -> None:
    page = opened(new_page, folder)
    expect(page.locator("[id^=da-snapshot]")).to_be_hidden()
    page.get_by_role("button", name="To the start").click()
    expect(page.locator(".da-mask")).to_have_count(22)
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".da-mask")).to_have_count(0)
    assert page.evaluate("window.harmed") is None


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 400)])
def test_figures_are_drawn_and_formulas_set(new_page, folder, scheme: str, width: int) -> None:
    page = opened(new_page, folder, color_scheme=scheme, viewport={"width": width, "height": 900})
    expect(page.locator(".js-plotly-plot .scatterlayer path.js-line")).to_be_visible()
    expect(page.locator(".plain-picture")).to_be_hidden()
    formula = page.locator("math[display=block]")
    expect(formula).to_be_visible()
    assert formula.bounding_box()["height"] > 25, "a sum and a fraction are higher than a line"
    light = scheme == "light"
    paper = page.locator(".da-player").evaluate("player => getComputedStyle(player).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if light else "rgb(22, 25, 31)")
    figure = page.locator(".js-plotly-plot .main-svg").first
    assert (figure.evaluate("svg => svg.style.background") == "white") == light
    keep_picture(page, f"lesson-page-{scheme}-{width}")


def test_guesses_answers_and_solutions_open_without_a_script(new_page, folder) -> None:
    page = opened(new_page, folder)
    page.get_by_label("B", exact=True).check()
    answer = page.get_by_text("The answer is: B.")
    expect(answer).to_be_hidden()
    page.get_by_text("The answer", exact=True).click()
    expect(answer).to_be_visible()
    page.get_by_text("A solution").click()
    expect(page.get_by_text("solved = 1")).to_be_visible()


def test_without_scripts_the_pictures_stand_in(new_page, folder) -> None:
    page = new_page(java_script_enabled=False)
    page.goto((folder / "09_made_up.html").as_uri())
    expect(page.locator(".plain-picture")).to_be_visible()
    expect(page.locator("[id^=da-snapshot]")).to_contain_text("24 tokens, 8 steps")


def test_every_slide_fits_a_projector_and_no_point_breaks_into_two_lines(new_page, tmp_path) -> None:
    (tmp_path / "slides.html").write_text(export.slides.page(), encoding="utf-8")
    page = new_page(viewport={"width": 1920, "height": 1080})
    page.goto((tmp_path / "slides.html").as_uri())
    for name, points in export.slides.SLIDES.items():
        slide = page.locator(f"#{name}")
        expect(slide).to_be_visible()
        assert slide.evaluate("slide => slide.scrollHeight") <= 1080, name
        picture, text = (slide.locator(part).bounding_box() for part in ("img", "ul"))
        assert picture["y"] >= 0 and picture["y"] + picture["height"] <= text["y"] + 1, name
        assert text["y"] + text["height"] <= page.locator("nav").bounding_box()["y"], name
        heights = [point.bounding_box()["height"] for point in slide.locator("li").all()]
        assert len(heights) == len(points) and max(heights) < 70, (name, heights)
        page.keyboard.press("ArrowRight")
