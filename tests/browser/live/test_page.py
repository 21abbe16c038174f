"""The built page: it opens from a folder, writes what the package writes, is steered and races, and asks nobody."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.config import ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.page import runtime
from diffuapriel.page.build import build_page
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python: pip install axe-playwright-python"
)
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install onnx onnxscript")

pytestmark = pytest.mark.browser
SMALL = ModelConfig("diffutran", 16, 1, vocab_size=4098, tokenizer="gpt2-4k", attention_headdim=8, cond_dim=8)
WATCH = """addEventListener("da-draw", ({ detail: { player, frame } }) => {
  globalThis.shown = { ids: [...frame.ids], step: frame.step, live: String(player.run).startsWith("live-") };
}, true);"""


def test_the_page_writes_the_package_s_text_from_a_folder(new_page, tmp_path, monkeypatch) -> None:
    found = runtime.find_runtime()
    if found is None:
        pytest.skip(f"onnxruntime-web {runtime.VERSION} is not in {runtime.cache_folder()}; `make page` fetches it")
    torch.manual_seed(0)
    model = Denoiser(SMALL).eval()
    torch.nn.init.normal_(model.head.weight, std=0.5)
    rule = {"strategy": "threshold", "threshold": 0.123, "block_length": 24}
    save_checkpoint(tmp_path / "model", model, card="", extra={"corpus": "tales:3", "generation": rule})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # for the graph
    path = build_page(tmp_path / "page.html", models=[str(tmp_path / "model")], weights="float32", runtime_folder=found)

    page = new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.add_init_script(WATCH)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    page.fill("#text", "Mia found a [MASK:4].")
    page.evaluate("document.querySelector('#length').value = 32")
    page.fill("#seed", "3")
    page.keyboard.press("Enter")
    tokenizer = get_tokenizer("gpt2-4k")
    filled = (
        f"() => shown.live && !shown.ids.includes({tokenizer.mask_id}) && !document.querySelector('#write').disabled"
    )
    page.wait_for_function(filled, timeout=60_000)  # the last frame may be drawn after the run

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
    page.wait_for_function(filled)

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


def test_a_folder_without_the_runtime_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"lacks files of onnxruntime-web .*ort\.wasm\.bundle\.min\.mjs"):
        build_page(tmp_path / "page.html", models=["tales-diffuapriel"], runtime_folder=tmp_path)
