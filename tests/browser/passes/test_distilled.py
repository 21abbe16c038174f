"""The race of a model against itself distilled in a real browser: one press, both lanes, passes beside the time."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import expect

from tests.app.toys import toy_checkpoints, toy_student
from tests.browser.visiting import entered, keep_picture, serving

pytestmark = pytest.mark.browser


def test_one_press_races_the_student_against_its_teacher(new_page, tmp_path):
    student = toy_student(tmp_path, toy_checkpoints(tmp_path)[0])
    with serving(tmp_path, bundled=False, first=[student]) as address:
        page = entered(new_page, address, "light", 390)
        page.get_by_role("tab", name="Race").click()
        page.get_by_role("button", name="toy-student against its teacher").click()
        table = page.locator("#race-results")
        expect(table).to_contain_text(
            "Passes: toy-diffuapriel 32, 1.0 tokens per pass; toy-student 8, 4.0 tokens per pass."
        )
        expect(page.locator("#race-a input")).to_have_value(re.compile("^toy-diffuapriel"))
        expect(page.locator("#race-b input")).to_have_value(re.compile("^toy-student"))
        notes = page.locator("#race-player .da-lane-note")
        expect(notes.nth(0)).to_contain_text("32 passes of 1.0 tokens")
        expect(notes.nth(1)).to_contain_text("8 passes of 4.0 tokens")
        keep_picture(page, "race-distilled-light-390")
        page.locator("#race-link").click()
        link = page.locator("#race-link-text textarea")
        expect(link).to_have_value(re.compile("strategy=own_rule"))
        other = new_page(viewport={"width": 1280, "height": 900})
        other.goto(link.input_value())
        other.get_by_role("button", name="Strategy, blocks, seed").click()
        expect(other.get_by_label("Strategy").locator("visible=true").first).to_have_value(
            "each by its own recorded rule"
        )
