"""The player draws characters, not bytes, and edits a character as a whole."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect

from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.characters import spread
from tests.browser.player.test_player import scrub, with_module
from tests.trace.player.example import trace
from tests.trace.test_characters import CASES, TEXTS

pytestmark = pytest.mark.browser

# Text and masks of one and the same frame: two questions may have two frames as their answers.
CANVAS = """() => [document.querySelector(".da-canvas").textContent, document.querySelectorAll(".da-mask").length]"""


def tokens_of(text: str) -> list[str]:
    tokenizer = get_tokenizer("tales-words")
    return tokenizer.token_strings(tokenizer.encode(text))


def mounted(page, texts: list[str], **options):
    """The player with a run that ends with these tokens."""
    data = trace(length=len(texts) + 2, steps=len(texts), given=0, words=dict(enumerate(texts)))
    with_module(page)
    page.evaluate("([trace, options]) => { window.player = api.mount(here, { ...options, trace }); }", [data, options])
    return page


def test_the_player_has_the_rule_of_python(page):
    with_module(page)
    rows = [texts for texts, _ in CASES] + [tokens_of(text) for text in TEXTS.values()]
    assert page.evaluate("rows => rows.map(api.spread)", rows) == [spread(row) for row in rows]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_canvas_reads_as_the_text(page, text):
    texts = tokens_of(text)
    mounted(page, texts)
    canvas = page.locator(".da-canvas")
    expect(canvas).to_contain_text(text, timeout=5000)
    assert "\\x" not in canvas.text_content()


def test_a_character_waits_for_its_last_byte(page):
    mounted(page, ["f", r"\xc3", r"\xbc", "r"])
    for step in range(1, 5):
        scrub(page, step)
        expect(page.locator(".da-state span").first).to_contain_text(f"step {step} of 4")
        text, masks = page.evaluate(CANVAS)
        assert ("ü" in text) or masks
        assert "\\x" not in text


def test_the_card_names_the_character_and_the_share_of_the_token(page):
    mounted(page, ["f", r"\xc3", r"\xbc", "r"])
    page.locator(".da-token").nth(2).hover()
    expect(page.locator(".da-card-text")).to_have_text("ü")
    expect(page.locator(".da-card-where")).to_contain_text("part 2 of 2 of the character")


@pytest.mark.parametrize(("text", "side"), [("שלום עולם", "right"), ("Mia found a", "left")])
def test_a_line_begins_where_its_script_begins(page, text, side):
    mounted(page, list(text))
    boxes = [page.locator(".da-token .da-chip").nth(p).bounding_box() for p in (0, 8)]
    assert (boxes[0]["x"] > boxes[1]["x"]) == (side == "right")
    canvas = page.locator(".da-canvas").bounding_box()
    gap = boxes[0]["x"] - canvas["x"] if side == "left" else canvas["x"] + canvas["width"] - boxes[0]["x"]
    assert gap < 80
