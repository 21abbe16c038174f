"""The Unmask tab in a real browser, with a model that knows one tale by heart and writes when the test lets it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
import gradio as gr
from playwright.sync_api import Locator, Page, expect

from diffuapriel.trace.player.gradio_host import html_component_arguments
from tests.app.unmask.toys import IDS, LENGTH, TOKENIZER, HeartModels, sure
from tests.browser.visiting import PATIENCE_MS, keep_picture, type_number

pytestmark = pytest.mark.browser
WORDS = [TOKENIZER.decode([i]) for i in IDS]
ORDER = sorted(range(LENGTH), key=sure, reverse=True)  # in which the model writes


@pytest.fixture(scope="module")
def every_frame() -> Iterator[None]:
    """Every frame is sent at once: a model that waits for the test's permit brings no later message."""
    from diffuapriel.trace import messages as wire

    usual = wire.Feed.__init__.__kwdefaults__
    wire.Feed.__init__.__kwdefaults__ = usual | {"interval": 0.0}
    yield
    wire.Feed.__init__.__kwdefaults__ = usual


@pytest.fixture(scope="module")
def served(every_frame) -> Iterator[tuple[str, HeartModels]]:
    """The tab alone, served on a free port."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from app.server.limits import Limits
    from app.ui.theme import SHEETS, theme
    from app.unmask.tab import UnmaskTab

    models = HeartModels()
    with gr.Blocks(analytics_enabled=False, title="Unmask") as page:
        UnmaskTab(models, Limits()).build(html_component_arguments(steer=True))
    _, url, _ = page.queue().launch(
        server_name="127.0.0.1",
        share=False,
        ssr_mode=False,
        prevent_thread_lock=True,
        quiet=True,
        theme=theme(),
        css_paths=list(SHEETS),
    )
    yield url, models
    models.denoiser.release()
    page.close(verbose=False)


@pytest.fixture
def heart(served) -> Iterator[HeartModels]:
    """The model, which waits for nobody unless a test holds it."""
    _, models = served
    models.denoiser.release()
    yield models
    models.denoiser.release()


@pytest.fixture(params=[("light", 1280)], ids=["light-wide"])
def visit(request, new_page, served, heart) -> Iterator[Page]:
    """The open page with a canvas of the tale's length, all masked; kept as a picture when the test is over."""
    scheme, width = request.param
    expect.set_options(timeout=PATIENCE_MS)
    page = new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(served[0])
    expect(page.locator(".da-editable .da-token").first).to_be_visible()
    page.locator("#unmask-more > button").click()
    page.get_by_label("Text with holes").fill("")
    type_number(page, "Length in tokens", LENGTH)
    type_number(page, "Threshold", 1)  # nothing reaches it: one token per step
    expect(page.locator(".da-mask")).to_have_count(LENGTH)
    yield page
    keep_picture(page, f"{request.node.originalname}-{scheme}-{width}")


LOOKS = {"light-wide": ("light", 1280), "dark-narrow": ("dark", 390)}
both = pytest.mark.parametrize("visit", LOOKS.values(), ids=LOOKS, indirect=True)
narrow = pytest.mark.parametrize("visit", [LOOKS["dark-narrow"]], ids=["dark-narrow"], indirect=True)


def token(page: Page, position: int) -> Locator:
    return page.locator("#unmask-player .da-token").nth(position)


def state(page: Page) -> Locator:
    return page.locator("#unmask-player .da-state span")


def status(page: Page) -> Locator:
    return page.locator("#unmask-status")


def button(page: Page, name: str) -> Locator:
    return page.locator("#unmask-player").get_by_role("button", name=name, exact=True)


def step(page: Page, step: int) -> None:
    page.get_by_role("slider", name="Step", exact=True).locator("visible=true").last.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", step
    )


def ask(page: Page, name: str) -> None:
    """Press a button whose wish the server then has; it may have to wait there for the step under way."""
    with page.expect_response(lambda answer: "/run/" in answer.url):
        button(page, name).click()


def over(page: Page, done: int = LENGTH) -> None:
    """Wait until the run has ended."""
    expect(state(page)).to_have_text(f"step {done} of {done}, 0 masks left")
    expect(page.locator("#unmask-run")).to_be_enabled()


def serious(page: Page) -> list[str]:
    """What axe finds serious or critical on the page as it is; nothing where axe is not installed."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        return []
    page.add_style_tag(content="* { transition: none !important; animation: none !important }")
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}" for one in found if one["impact"] in ("serious", "critical")]


@narrow
def test_text_is_written_on_the_canvas_and_the_text_box_says_it_too(visit):
    token(visit, 0).click()
    field = visit.get_by_label("Type over it")
    field.fill("Mark has a")
    button(visit, "Write").click()
    expect(visit.locator(".da-fixed")).to_have_count(4)
    expect(visit.get_by_label("Text with holes")).to_have_value("Mark has a")
    expect(visit.locator(".da-token")).to_have_count(LENGTH)
    token(visit, 1).focus()
    visit.keyboard.press("Delete")
    expect(visit.get_by_label("Text with holes")).to_have_value("M [MASK:1] has a")
    visit.locator("#unmask-run").click()
    expect(state(visit)).to_contain_text(", 0 masks left")
    expect(visit.locator("#unmask-player .da-canvas")).to_contain_text("Muth has a nuts,")
    visit.get_by_label("Text with holes").fill("<b>bold")
    expect(token(visit, 0)).to_have_text("<")
    expect(visit.locator(".da-mask")).to_have_count(LENGTH - len(TOKENIZER.encode("<b>bold")))
    assert visit.locator("#unmask-player b").count() == 0


def test_pause_look_change_step_and_go_on(visit, heart):
    heart.denoiser.hold()
    visit.locator("#unmask-run").click()
    heart.denoiser.permit(3)
    expect(state(visit)).to_have_text(f"step 3 of {LENGTH}, {LENGTH - 3} masks left")
    expect(status(visit)).to_contain_text("Fits the story grammar so far")
    expect(visit.locator("#unmask-stop")).to_be_enabled()
    expect(button(visit, "Go on")).to_be_hidden()

    token(visit, ORDER[0]).click()  # an edit while the model writes waits for the step under way
    ask(visit, f"Use cat, {20 * (1 - sure(ORDER[0])):.1f} %")
    heart.denoiser.permit(1)
    expect(token(visit, ORDER[0])).to_have_text(" cat")
    expect(status(visit)).to_contain_text("Not judged: your words are from no story")  # none has a cat
    expect(token(visit, ORDER[0])).to_have_accessible_name("cat, yours")

    visit.locator("#unmask-stop").click()
    heart.denoiser.permit(1)
    expect(button(visit, "Go on")).to_be_visible()
    stood = state(visit).inner_text()
    heart.denoiser.release()
    button(visit, "One step").click()
    expect(state(visit)).not_to_have_text(stood)
    expect(button(visit, "Go on")).to_be_enabled()

    token(visit, ORDER[0]).focus()
    visit.keyboard.press("Delete")
    expect(token(visit, ORDER[0])).to_have_accessible_name("masked")
    button(visit, "Go on").click()
    expect(state(visit)).to_contain_text(", 0 masks left")
    expect(status(visit)).to_contain_text("tokens/s")


@both
def test_an_earlier_step_branches_and_both_endings_are_compared(visit):
    visit.locator("#unmask-run").click()
    over(visit)
    expect(status(visit)).to_contain_text("✓ Consistent")
    step(visit, 6)
    expect(button(visit, "Go on from step 6")).to_be_enabled()
    visit.locator(".da-mask").first.click()
    visit.get_by_label("Type over it").fill(" red")
    button(visit, "Write").click()
    expect(visit.locator(".da-differ")).to_contain_text("so far")
    button(visit, "Go on").click()
    over(visit)
    expect(visit.locator(".da-differ")).to_have_text(f"{LENGTH - 6} of {LENGTH} tokens differ")
    other = visit.get_by_role("region", name="The other ending")
    expect(other.locator(".da-differs")).to_have_count(LENGTH - 6)
    expect(other).to_contain_text("Ruth had five nuts, ate three and kept two.")
    button(visit, "Continue with this one").click()
    expect(visit.get_by_role("region", name="This one")).to_contain_text("Ruth had five nuts")
    expect(status(visit)).to_contain_text("✓ Consistent")
    token(visit, 3).click()
    expect(visit.get_by_role("dialog", name="Token 3")).to_be_visible()
    assert serious(visit) == []


@narrow
def test_a_steered_run_is_saved_opened_and_gone_on_with(visit, tmp_path):
    visit.locator("#unmask-run").click()
    over(visit)
    token(visit, 3).scroll_into_view_if_needed()
    start, end = (token(visit, p).bounding_box() for p in (3, 5))
    visit.mouse.move(start["x"] + start["width"] - 4, start["y"] + start["height"] / 2)
    visit.mouse.down()
    visit.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=4)
    visit.mouse.up()
    expect(visit.locator(".da-mask")).to_have_count(3)
    expect(status(visit)).to_contain_text("3 masks left")
    saved = tmp_path / "trace.json"
    for _ in range(100):  # the file follows the edit
        visit.locator("#share").click()
        with visit.expect_download() as download:
            visit.locator("#save-json").click()
        download.value.save_as(saved)
        last = json.loads(saved.read_text(encoding="utf-8"))["frames"][-1]
        if last["edits"]:
            break
    assert last["edits"] == {"3": "mask", "4": "mask", "5": "mask"}

    visit.reload()
    expect(visit.locator(".da-editable .da-token").first).to_be_visible()
    with visit.expect_file_chooser() as chooser:
        visit.locator("#open-trace").click()
    chooser.value.set_files(saved)
    expect(status(visit)).to_contain_text(f"Opened a trace of {LENGTH + 2} frames")
    expect(visit.locator(".da-mask")).to_have_count(3)
    button(visit, "Go on").click()
    over(visit, LENGTH + 4)
    expect(visit.locator("#unmask-player .da-canvas")).to_contain_text("Ruth had five nuts, ate three")


def test_everything_with_the_keyboard_alone(visit):
    keys = visit.keyboard
    visit.locator(".da-tour button").first.focus()
    for _ in range(30):
        if visit.evaluate("document.activeElement.classList.contains('da-token')"):
            break
        keys.press("Tab")
    expect(token(visit, 0)).to_be_focused()
    keys.press(".")
    expect(state(visit)).to_contain_text("step 1 of")
    expect(button(visit, "Go on")).to_be_visible()
    keys.press("r")
    over(visit)
    for _ in range(3):
        keys.press("ArrowRight")
    expect(visit.get_by_role("tooltip")).to_contain_text("was the highest of")
    keys.press("2")
    expect(token(visit, 3)).to_have_text(" red")
    expect(token(visit, 3)).to_have_attribute("aria-label", re.compile("^red, yours, breaks the story: 'red' does"))
    keys.press("u")
    expect(token(visit, 3)).to_have_text(" five")
    keys.press("Shift+ArrowRight")
    keys.press("Delete")
    expect(visit.locator(".da-mask")).to_have_count(2)
    keys.press("Enter")
    expect(visit.get_by_label("Type over it")).to_be_focused()
    keys.type("red")
    keys.press("Enter")
    expect(token(visit, 4)).to_have_text(" red")
    keys.press("p")
    expect(visit.locator(".da-mine")).to_have_count(0)
    keys.press("p")
    expect(visit.locator(".da-mine")).to_have_count(1)
    keys.press("r")
    expect(state(visit)).to_contain_text(", 0 masks left")


def test_what_cannot_be_is_said_and_the_canvas_stays(visit):
    visit.locator("#unmask-run").click()
    over(visit)
    token(visit, 2).click()
    visit.get_by_label("Type over it").fill(" red box of wood")
    button(visit, "Write").click()
    expect(status(visit)).to_contain_text("more, and 0 masked positions follow it")
    expect(token(visit, 2)).to_have_text(" had")
    expect(visit.get_by_role("alert")).to_have_count(0)


@narrow
def test_a_run_is_seen_on_a_narrow_screen(visit, heart):
    heart.denoiser.hold()
    canvas = visit.locator("#unmask-player")
    visit.locator("#unmask-run").evaluate("button => button.scrollIntoView({block: 'start'})")
    expect(canvas).not_to_be_in_viewport()
    visit.locator("#unmask-run").click()
    expect(canvas).to_be_in_viewport()
