"""The Race tab in a real browser: three entries, a replay in slow motion, the sweep, results compared and saved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import Page, expect

from app.race import replay, results
from app.strings.language import TABLES
from tests.browser.visiting import PATIENCE_MS, choose, entered, in_language, keep_picture, serving, type_number

pytestmark = pytest.mark.browser
HYBRID = "diffuapriel-h nano, random weights"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The app on two untrained nano checkpoints; a sweep's lengths take no time."""
    from diffuapriel.benchmark import sweep as throughput

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "LENGTHS", (64, 128, 256))
        with serving(tmp_path_factory.mktemp("checkpoints")) as url:
            yield url


@pytest.fixture
def visit(request, new_page, address) -> Iterator[Page]:
    """The open Race tab; kept as a picture when the test is over."""
    scheme, width = request.param
    page = entered(new_page, address, scheme, width)
    page.get_by_role("tab", name="Race").click()
    expect(page.locator("#race-run")).to_be_visible()
    yield page
    keep_picture(page, f"{request.node.originalname}-{scheme}-{width}")


def choose_file(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#results-open").click()
    chooser.value.set_files(file)


def run_race(page: Page) -> None:
    type_number(page, "Length in tokens", 16)
    type_number(page, "Steps", 4)
    type_number(page, "Timed runs each", 1)
    page.locator("#race-run").click()


WIDE = pytest.mark.parametrize("visit", [("light", 1280)], ids=["light-wide"], indirect=True)
NARROW = pytest.mark.parametrize("visit", [("dark", 390)], ids=["dark-narrow"], indirect=True)
BOTH = pytest.mark.parametrize(
    "visit", [("light", 1280), ("dark", 390)], ids=["light-wide", "dark-narrow"], indirect=True
)


@NARROW
def test_the_bundled_race_plays_where_it_can_be_seen(visit):
    visit.get_by_role("button", name="Watch 65,536 tokens").click()
    lanes = visit.locator("#race-pixels .da-lane")
    expect(lanes).to_have_count(3)
    expect(lanes.first).to_be_in_viewport()
    expect(visit.locator("#race-pixels")).to_contain_text("of 25.9 s")
    expect(visit.locator("#race-results")).to_contain_text("At 65,536 tokens Mamba wins")
    expect(lanes.nth(0).locator(".da-lane-note").last).not_to_contain_text("step 0 of 16")  # it moves by itself


@NARROW
def test_three_lanes_race_and_are_replayed_in_real_time_and_in_slow_motion(visit):
    choose(visit, "#race-c", HYBRID)
    run_race(visit)
    expect(visit.locator("#race-results table tbody tr")).to_have_count(3)
    expect(visit.locator("#race-results")).to_contain_text("A B C after 2 untimed warm-up steps")
    player = visit.locator("#race-player")
    expect(player.locator(".da-lane")).to_have_count(3)

    speed = player.get_by_label("Speed")
    speed.select_option("0.01")
    player.get_by_role("button", name="To the start").click()
    player.get_by_role("button", name="Play", exact=True).click()
    expect(player.locator(".da-mask").first).to_be_visible()
    expect(player.locator(".da-done").first).to_be_visible()  # the first is done, the others are still under way
    speed.select_option("1")
    expect(player.locator(".da-verdict")).to_contain_text(re.compile("times as long|close to call"))
    expect(player.locator(".da-mask")).to_have_count(0)  # drawn in the frame after the verdict


@BOTH
def test_a_long_race_is_drawn_and_its_words_are_under_the_lens_also_when_opened_again(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "READABLE", 8)
    run_race(visit)
    pictures = visit.locator("#race-pixels")
    expect(pictures.locator("canvas")).to_have_count(2)
    pictures.get_by_role("button", name="To the start").click()
    expect(pictures.locator(".da-lens-text").first).to_have_text("\u2591" * 8)
    pictures.get_by_role("button", name="To the end").click()
    expect(pictures.locator(".da-verdict")).to_contain_text("At 16 tokens")
    expect(pictures.locator(".da-state")).to_contain_text("in slow motion")
    frame = pictures.get_by_role("slider").first
    frame.focus()
    before = pictures.locator(".da-lens-text mark").first.text_content()
    frame.press("ArrowDown")
    expect(pictures.locator(".da-lens-title")).to_contain_text("Token 5 of 16")
    assert frame.get_attribute("aria-valuetext").startswith("token 5:") and before
    expect(pictures.locator(".da-unread")).to_have_count(0)

    with visit.expect_download() as download:
        visit.locator("#results-json").click()
    download.value.save_as(tmp_path / "race.json")
    (tmp_path / "wrong.json").write_text('{"schema": "diffuapriel-trace"}', encoding="utf-8")
    visit.locator("#results-clear").click()
    expect(visit.locator("#results-choice input[type=checkbox]")).to_have_count(0)
    choose_file(visit, tmp_path / "wrong.json")
    expect(visit.locator("#results-status")).to_contain_text("wrong.json cannot be opened as results of a race")
    expect(visit.locator(".error:visible")).to_have_count(0)
    choose_file(visit, tmp_path / "race.json")
    expect(visit.locator("#results-choice input[type=checkbox]")).to_have_count(1)
    expect(pictures.locator("canvas")).to_have_count(2)


def test_the_lens_shows_characters_and_not_their_bytes(page):
    from tools.bench_pixels import CLOCK, PAGE, message

    page.set_content(PAGE)
    page.evaluate(CLOCK, [replay.SCRIPT.read_text(encoding="utf-8"), message(tokens=4, steps=1, lanes=1)])
    look = """texts => {
      const { pixelRace } = document.querySelector("#race"), [lane] = pixelRace.lanes;
      texts.forEach((text, p) => { lane.vocab[lane.ids[p]] = text; });
      pixelRace.look(3);
    }"""
    page.evaluate(look, [" M\\xc3", "\\xbcller", "\\xaf", " ok"])
    expect(page.locator(".da-lens-text")).to_have_text("M\u00fcller\ufffd ok")


@WIDE
def test_a_race_that_the_tool_saved_plays_in_the_page(visit, tmp_path):
    from tools.race_gpu import main

    saved = tmp_path / "race.json"
    small = {"--device": "cpu", "--preset": "nano", "--length": "1056", "--steps": "3", "--repeats": "1"}
    assert main([word for pair in small.items() for word in pair] + ["--out", str(saved)]) == 0
    choose_file(visit, saved)
    pictures = visit.locator("#race-pixels")
    expect(pictures.locator("canvas")).to_have_count(3)
    expect(visit.locator("#race-results .da-outcome")).to_contain_text("At 1,056 tokens")
    expect(visit.locator("#race-results")).to_contain_text("1,056 masks on a canvas of 1,056 tokens, 3 steps")
    pictures.get_by_role("button", name="To the start").click()
    expect(pictures.locator(".da-lane-note").last).to_contain_text("step 0 of 3, 1,056 masks left")
    pictures.get_by_role("button", name="To the end").click()
    expect(pictures.locator(".da-lane-note").last).to_contain_text("step 3 of 3, 0 masks left")


@WIDE
def test_a_button_races_at_another_length(visit):
    type_number(visit, "Timed runs each", 1)
    visit.locator("#race-at-128").click()
    expect(visit.locator("#race-results .da-outcome")).to_contain_text("At 128 tokens")
    expect(visit.locator("#race-player .da-lane")).to_have_count(2)


@BOTH
def test_a_sweep_shows_three_charts_whose_the_reference_lines_are_and_when_diffutran_wins(visit):
    visit.evaluate("document.querySelectorAll('#sweep-longest input')[0].click()")
    visit.locator("#sweep-run").click()
    for chart in ("#sweep-chart", "#sweep-rate", "#sweep-ratio"):
        expect(visit.locator(f"{chart} .main-svg").first).to_be_visible()
    assert visit.locator(".modebar").count() >= 3, "Plotly's tool bars, which the style sheet hides"
    visit.locator("#sweep-chart").hover()
    expect(visit.locator(".modebar:visible")).to_have_count(0)
    expect(visit.locator("#sweep-fair")).to_contain_text("wins against")
    expect(visit.locator("#sweep-fair")).to_contain_text("not measured here")
    expect(visit.locator("#sweep-ratio")).to_contain_text("the paper, v1: up to 4.4×")
    expect(visit.locator("#sweep-chart .legendtext").first).to_contain_text("slope")
    expect(visit.locator("#sweep-fair")).to_contain_text("Parameters")
    expect(visit.locator("#results-table tbody tr")).to_have_count(2)
    expect(visit.locator("#results-png")).to_be_visible()


@BOTH
def test_results_are_kept_compared_saved_and_forgotten(visit, tmp_path):
    run_race(visit)
    listed = visit.locator("#results-choice input[type=checkbox]")
    expect(listed).to_have_count(1)
    expect(visit.locator("#results-table tbody tr")).to_have_count(2)
    visit.locator("#race-run").click()
    expect(listed).to_have_count(2)
    expect(visit.locator("#results-table tbody tr")).to_have_count(4)
    for kind in ("json", "csv", "png"):
        expect(visit.locator(f"#results-{kind}")).to_be_visible()
        with visit.expect_download() as download:
            visit.locator(f"#results-{kind}").click()
        assert download.value.suggested_filename == f"results-1-2.{kind}"
        download.value.save_as(tmp_path / download.value.suggested_filename)
    saved = json.loads((tmp_path / "results-1-2.json").read_text(encoding="utf-8"))
    assert [one["kind"] for one in saved["results"]] == ["race", "race"]
    listed.first.uncheck()
    expect(visit.locator("#results-table tbody tr")).to_have_count(2)
    visit.locator("#results-clear").click()
    expect(visit.locator("#results-table")).to_contain_text("Nothing has been measured yet.")
    expect(listed).to_have_count(0)


@pytest.mark.parametrize("language", TABLES)
def test_a_race_that_is_listed_has_its_figures_while_its_files_are_drawn(new_page, address, language, monkeypatch):
    may_draw, usual = Event(), results.exported

    @contextmanager
    def held(kept) -> Iterator[tuple[str, str, str]]:
        may_draw.wait(2 * PATIENCE_MS / 1000)
        with usual(kept) as files:
            yield files

    monkeypatch.setattr(results, "exported", held)
    page, words = entered(new_page, address, "light", 1280, **in_language(language)), TABLES[language]
    try:
        page.goto(f"{address}?tab=race&length=16&steps=4&repeats=1")
        expect(page.locator("#results-table")).to_have_text(words["RESULTS_NONE"])
        page.locator("#race-run").click()
        expect(page.locator("#results-choice input[type=checkbox]")).to_have_count(1)
        expect(page.locator("#results-table tbody tr")).to_have_count(2)
        expect(page.locator("#results-table")).not_to_contain_text(words["RESULTS_NONE"])
        expect(page.locator("#results-png")).to_be_hidden()
    finally:
        may_draw.set()
    expect(page.locator("#results-png")).to_be_visible()
    page.locator("#results-choice input[type=checkbox]").uncheck()
    expect(page.locator("#results-table")).to_contain_text(words["RESULTS_UNCHOSEN"])


@WIDE
def test_a_race_that_cannot_be_says_why_and_the_next_one_runs(visit):
    choose(visit, "#race-b", "diffutran 1.3b, random weights")
    choose(visit, "#race-c", "diffuapriel 1.3b, random weights")
    import diffuapriel.benchmark.memory as memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_bytes", lambda device: 8_000_000_000)
        run_race(visit)
        expect(visit.locator("#race-status")).to_contain_text("8.0 GB is available here")
    choose(visit, "#race-b", "toy-diffutran")
    choose(visit, "#race-c", "none")
    visit.locator("#race-run").click()
    expect(visit.locator("#race-results table tbody tr")).to_have_count(2)


@WIDE
def test_two_sweeps_are_compared_in_one_chart(visit):
    listed = visit.locator("#results-choice input[type=checkbox]")
    for number in (1, 2):
        visit.locator("#sweep-run").click()
        expect(listed).to_have_count(number)
        expect(visit.locator("#results-table tbody tr")).to_have_count(2 * number)
    for chart in ("#results-latency", "#results-rate"):
        expect(visit.locator(f"{chart} .main-svg").first).to_be_visible()
        expect(visit.locator(f"{chart} .legendtext")).to_have_count(4)
    visit.locator("#results-clear").click()
    expect(visit.locator("#results-latency .main-svg")).to_have_count(0)
