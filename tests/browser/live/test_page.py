"""The built page: it opens from a folder, writes what the package writes, is steered and races, and asks nobody."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.config import ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.page import runtime
from diffuapriel.page.build import LENGTH, build_page
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.writer import write_blocks
from diffuapriel.tokenizer import get_tokenizer

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python: pip install axe-playwright-python"
)
expect = pytest.importorskip("playwright.sync_api").expect
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install onnx onnxscript")

pytestmark = pytest.mark.browser
SMALL = ModelConfig("diffutran", 16, 1, vocab_size=4098, tokenizer="gpt2-4k", attention_headdim=8, cond_dim=8)
WATCH = """addEventListener("da-draw", ({ detail: { player, frame } }) => {
  globalThis.shown = { ids: [...frame.ids], step: frame.step, live: String(player.run).startsWith("live-") };
}, true);"""


FILLED = "() => shown.live && !shown.ids.includes(4097) && !document.querySelector('#write').disabled"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A function that builds the page of a model, which it saves with a rule."""
    found = runtime.find_runtime()
    if found is None:
        pytest.skip(f"onnxruntime-web {runtime.VERSION} is not in {runtime.cache_folder()}; `make page` fetches it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # for the graph

    def build(model: Denoiser, rule: dict) -> str:
        folder = tmp_path / "model"
        save_checkpoint(folder, model, card="", extra={"corpus": "tales:3", "generation": rule})
        page = build_page(tmp_path / "page.html", models=[str(folder)], weights="float32", runtime_folder=found)
        return page.as_uri()

    return build


def randomized(config: ModelConfig) -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(config).eval()
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return model


def test_the_page_writes_the_package_s_text_from_a_folder(new_page, build) -> None:
    model = randomized(SMALL)
    address = build(model, {"strategy": "threshold", "threshold": 0.123, "block_length": 24})
    page = new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.add_init_script(WATCH)
    page.goto(address)
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    page.fill("#text", "Mia found a [MASK:4].")
    page.evaluate("document.querySelector('#length').value = 32")
    page.fill("#seed", "3")
    page.keyboard.press("Enter")
    tokenizer = get_tokenizer("gpt2-4k")
    page.wait_for_function(FILLED, timeout=60_000)  # the last frame may be drawn after the run

    config = SamplerConfig(strategy="threshold", threshold=0.123, block_length=24, top_p=0.9, seed=3)
    sampler = Sampler(config, get_schedule(), tokenizer.mask_id)
    state = sampler.start(Canvas.from_text("Mia found a [MASK:4].", tokenizer, 32))
    while not sampler.done(state):
        state = sampler.advance(model, state)
    assert page.evaluate("shown.ids") == state.ids[0].tolist()
    assert page.inner_text("#verdict").startswith("✗")

    page.locator("#player .da-token").nth(9).press("Delete")  # steered: masked, and filled again
    page.wait_for_function(f"() => shown.ids[9] === {tokenizer.mask_id}")
    page.locator("#player .da-token").nth(9).press("r")
    page.wait_for_function(FILLED)

    expect(page.locator("#race-part")).to_be_hidden()  # a page of one model has no race
    page.evaluate("document.querySelector('#race-part').hidden = false")
    page.click("#race")
    page.wait_for_selector("#race-player .da-lane", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    serious = [
        f"{violation['id']}: {node['html']}"
        for violation in axe_playwright.Axe().run(page).response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == []


@pytest.mark.parametrize(
    ("rule", "size"), [({"strategy": "threshold", "threshold": 0.123}, 4), ({"strategy": "speculative"}, 64)]
)
def test_a_model_of_blocks_fills_holes_and_writes_on_without_end(new_page, build, rule: dict, size: int) -> None:
    """As the package does, with its cache; what is kept of the endless text does not grow."""
    sizes = {"d_state": 4, "headdim": 8, "attention_headdim": 8, "cond_dim": 8, "context_length": 32}
    blocks = {"block_lengths": (1, 4, 16, 0), "time_conditioning": False, "edge_embedding": True}
    config = ModelConfig("diffuapriel-h", 16, 2, 4098, "gpt2-4k", **sizes, **blocks)
    model, tokenizer = randomized(config), get_tokenizer("gpt2-4k")
    address = build(model, {**rule, "block_length": 4})
    page = new_page()
    page.add_init_script(WATCH)
    page.goto(address)
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    text = "Mia found a small red ball in the garden and [MASK:3] with it."
    page.fill("#text", text)
    page.evaluate("document.querySelector('#length').value = 32")
    assert page.inner_text("#block-shown") == "4 tokens"
    page.click("#write")
    page.wait_for_function(FILLED, timeout=60_000)
    options = SamplerConfig(**rule, block_length=4, block_start="zero", top_p=0.9, steps=96)
    sampler = Sampler(options, get_schedule(), tokenizer.mask_id)
    state, denoiser = sampler.start(Canvas.from_text(text, tokenizer, 32)), denoiser_for(model, options)
    while not sampler.done(state):
        state = sampler.advance(denoiser, state)
    canvas = state.ids[0].tolist()
    assert page.evaluate("shown.ids") == canvas

    page.click("#keep")
    page.wait_for_function("() => parseInt(document.querySelector('#status').textContent) > 120", timeout=60_000)
    page.click("#stop")
    page.wait_for_selector("#write:enabled")
    page.wait_for_function("() => shown.step === 0")
    got = page.evaluate("shown.ids")
    got = got[: got.index(tokenizer.mask_id)] if tokenizer.mask_id in got else got
    most = LENGTH // size * size
    assert most <= len(got) <= most + size, "the last tokens of the text and those of the block so far"
    expected = list(canvas)
    for block in write_blocks(model, sampler, size, canvas):
        expected += block.ids
        ends = range(len(expected) - size + 1, len(expected) + 1)  # the page may have stopped within this block
        if any(expected[end - len(got) : end] == got for end in ends):
            break
        assert len(expected) < 3000, "the page shows a part of the text"


def test_a_folder_without_the_runtime_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"lacks files of onnxruntime-web .*ort\.wasm\.bundle\.min\.mjs"):
        build_page(tmp_path / "page.html", models=["tales-diffuapriel"], runtime_folder=tmp_path)
