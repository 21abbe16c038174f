"""A model of blocks in a real browser: it keeps writing until it is stopped, and races against itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import expect

from app.unmask.endless import part
from diffuapriel.sampling.writer import WrittenBlock
from tests.browser.visiting import choose, entered, keep_picture, serving, type_number

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("checkpoints"), bundled=False, blocks=True) as url:
        yield url


def test_it_keeps_writing_by_keyboard_stops_at_once_and_its_text_can_be_saved(new_page, address, tmp_path):
    page = entered(new_page, address, "dark", 390)
    page.locator("#unmask-endless").focus()
    page.keyboard.press("Enter")
    log, figures = page.get_by_role("log"), page.locator(".da-endless-figures dd")
    expect(log.locator(".da-endless-block")).not_to_have_count(0)
    expect(figures.nth(0)).to_have_text(re.compile(r"^\d{2,}$"))  # tokens written
    page.locator("#unmask-stop").press("Enter")
    expect(page.locator("#unmask-status")).to_contain_text("Stopped after")
    expect(page.locator(".da-said")).to_contain_text("tokens written")
    expect(page.locator(".da-fresh")).to_have_count(0)  # all blocks are settled
    expect(figures.nth(3)).to_have_text(re.compile(r"^\d+\.\d kB$"))  # the cache, which does not grow
    expect(figures.nth(4)).to_have_text("0")
    written = (log.text_content() or "").replace("\n\n", "")
    with page.expect_download() as download:
        page.locator("#endless-save").click()
    download.value.save_as(tmp_path / "text.txt")
    assert written and (tmp_path / "text.txt").read_text(encoding="utf-8").replace("\n\n", "") == written
    keep_picture(page, "endless-dark-390")

    count = log.locator(".da-endless-block").count()
    page.locator("#unmask-endless").click()  # goes on behind what is there
    expect(log.locator(".da-endless-block").nth(count)).to_be_visible()
    expect(log).to_contain_text("One day, Mia")  # the prompt, and what was written before
    page.locator("#unmask-stop").click()
    expect(page.locator("#unmask-endless")).to_be_enabled()


def test_the_page_holds_the_newest_tokens_and_counts_the_others(new_page, address, monkeypatch):
    blocks = [WrittenBlock((number,) * 16, 0, 4, 1000, None) for number in range(300)]
    monkeypatch.setattr(part, "write_blocks", lambda *_, **__: iter(blocks))
    page = entered(new_page, address, "light", 1920)
    page.locator("#unmask-endless").click()
    expect(page.locator("#unmask-status")).to_contain_text("Stopped after 4,800 tokens")
    figures = page.locator(".da-endless-figures dd")
    expect(figures).to_have_text(["4,800", re.compile(r"\d"), "4.00", "1.0 kB", "0", "2,800"])
    expect(page.locator(".da-endless-block")).to_have_count(125)  # 2,000 tokens
    keep_picture(page, "endless-light-1920")


def test_other_models_have_no_such_button(new_page, address):
    page = entered(new_page, address, "light", 1280)
    expect(page.locator("#unmask-endless")).to_be_visible()
    page.locator("#unmask-more button").first.click()
    choose(page, "#unmask-model", "toy-diffutran")
    expect(page.locator("#unmask-endless")).to_be_hidden()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_autoregressive_entry_races_against_blocks_of_the_same_model(new_page, address, width):
    page = entered(new_page, address, "light", width)
    page.get_by_role("tab", name="Race").click()
    page.locator("#race-b input").click()
    page.get_by_role("option", name=re.compile("block length 1 ")).click()
    expect(page.locator("#race-a input")).to_have_value(re.compile("block length 16"))  # the default, it came first
    type_number(page, "Length in tokens", 16)
    type_number(page, "Steps", 4)
    type_number(page, "Timed runs each", 1)
    page.locator("#race-run").click()
    table = page.locator("#race-results table")
    expect(table).to_contain_text("block length 1 (autoregressive)")
    expect(table.get_by_text("context cache")).to_have_count(2)
    expect(page.locator("#race-results .da-fair")).to_contain_text("Block lengths: A 16, B 1.")
    expect(page.locator("#race-player .da-lane-name").first).to_contain_text("block length 16")
    keep_picture(page, f"race-blocks-{width}")
