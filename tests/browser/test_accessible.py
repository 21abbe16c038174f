"""Every tab, light and wide, dark and 390 px narrow: axe finds nothing serious, and the keyboard reaches everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="needs axe-playwright-python: pip install axe-playwright-python",
)
from playwright.sync_api import Page, expect  # noqa: E402

from tests.browser.visiting import entered, keep_picture, serving, type_number  # noqa: E402

pytestmark = pytest.mark.browser
TABS = {  # name -> what runs it, what shows that it has run
    "Unmask": ("#unmask-run", "#unmask-status .da-note >> text=tokens/s"),
    "Race": ("#race-run", "#race-results table"),
    "Inside": ("#inside-run", "#closer-status .da-note >> text=Layers"),
    "Quality": ("#surprisal-run", "#surprisal-rows .da-token"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The app on two untrained nano checkpoints, served on a free port."""
    from app.server.limits import Limits

    # few steps: a race in a moment
    with serving(tmp_path_factory.mktemp("checkpoints"), Limits(max_steps=8)) as url:
        yield url


def opened(new_page, address: str, scheme: str, width: int) -> Page:
    page = entered(new_page, address, scheme, width, reduced_motion="reduce")
    page.add_style_tag(content="* { transition: none !important }")  # axe would measure a color halfway
    return page


def serious(page: Page) -> list[str]:
    """The serious and critical violations that axe finds on the page as it is, each with where it is."""
    found = axe_playwright.Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: " + " | ".join(n["html"][:160] for n in one["nodes"][:4])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious_in_any_tab(new_page, address, scheme, width):
    page = opened(new_page, address, scheme, width)
    found = {}
    for name, (run, result) in TABS.items():
        tab(page, name)
        expect(page.locator(run)).to_be_visible()
        if name == "Race":  # as short as can be
            type_number(page, "Length in tokens", 16)
            type_number(page, "Steps", 4)
        page.locator(run).click()
        expect(page.locator(result).first).to_be_visible()
        expect(page.locator(run)).to_be_enabled()
        found[name] = serious(page)
        keep_picture(page, f"tab-{name.lower()}-{scheme}-{width}")
    lines = [f"{name}: {fault}" for name, faults in found.items() for fault in faults]
    assert not lines, "\n".join(lines)


def tab(page: Page, name: str) -> None:
    """Open a tab; on a narrow screen it may be in the menu of those that have no room."""
    place = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    if not place.count():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()
        return
    place.first.click()


FOCUS = """(() => {
  const here = document.activeElement;
  return `${here.id || here.closest("[id]")?.id} ${here.tagName} ${here.className}`;
})()"""


def test_the_keyboard_alone_runs_a_model_and_leaves_again(new_page, address):
    page = opened(new_page, address, "light", 1280)
    reached: list[str] = []
    while not any("unmask-run" in place for place in reached) and len(reached) < 60:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUS))
    assert "unmask-run" in reached[-1], reached
    page.keyboard.press("Enter")
    expect(page.locator("#unmask-player .da-state")).to_contain_text(", 0 masks left")
    expect(page.locator("#unmask-run")).to_be_enabled()
    after: list[str] = []
    while len(after) < 80 and not any("BODY" in place for place in after):
        page.keyboard.press("Tab")
        after.append(page.evaluate(FOCUS))
    assert any("BODY" in place for place in after), f"the keyboard is held: {after[-3:]}"
    assert len({*reached, *after}) > 10, "it passes the player's controls and the settings on its way"
