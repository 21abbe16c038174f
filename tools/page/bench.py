"""Measures the live page in headless Chromium: `python -m tools.page.bench dist/diffuapriel.html`.

Prints when the opening first moves, when the live model writes its first token, how long a story takes beside the same
story of the package on the same cores, the memory of the tab after one story and after the last, what the page asked
of other addresses and what it wrote to the console. `--texts N` compares N texts of the page with those of the package
instead (build the page with `--weights float32`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer
from tools.chromium import NoBrowser, find, open_tab

# Notes the times of the first frames and keeps the newest one.
WATCH = """addEventListener("da-draw", ({ detail: { player, frame } }) => {
  const live = String(player.run).startsWith("live-");
  globalThis.newest = [...frame.ids];
  if (!live && frame.step > 0) globalThis.moved ??= performance.now();
  if (live && frame.revealed.length) globalThis.first ??= performance.now();
}, true);"""
# The last frame may be drawn after the run, so masks must be gone from the screen, too.
IDLE = "mask => !document.querySelector('#write').disabled && !newest.includes(mask)"
TOKENIZER = "gpt2-4k"  # of the bundled models that the page holds
RUNS = 3  # of a timed story


def main(arguments: list[str] | None = None) -> int:
    """Print the figures. Returns 2 without a browser, 1 if the page is faulty or a text differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("page", type=Path)
    parser.add_argument("--stories", type=int, default=10, help="stories of 96 tokens for the memory")
    parser.add_argument("--texts", type=int, default=0, help="texts to compare with those of the package")
    parser.add_argument("--length", type=int, default=32, help="tokens of such a text")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        browser = find()
    except NoBrowser as error:
        print(error, file=sys.stderr)
        return 2
    asked: list[str] = []
    said: list[str] = []
    with open_tab(browser) as tab:
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.add_init_script(WATCH)
        tab.goto(options.page.resolve().as_uri(), wait_until="commit")
        tab.wait_for_selector("html[data-ready]", timeout=600_000)
        settings = json.loads(tab.evaluate("document.querySelector('#settings').textContent"))
        faults = compare(tab, settings, options) if options.texts else measure(tab, settings, options.stories)
    others = [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]
    print(f"requests off the page {others or 'none'}; console {said or 'empty'}")
    return int(bool(faults or others or said))


def write(tab: Any) -> list[int]:
    """Press Write, wait for the end and return the ids."""
    tab.click("#write")
    tab.wait_for_function(IDLE, arg=get_tokenizer(TOKENIZER).mask_id, timeout=3_600_000)
    return tab.evaluate("newest")


def package_writer(settings: dict[str, Any]) -> Callable[..., list[int]]:
    """A function of a length and options of the sampler: the ids that the package writes on an empty canvas."""
    model, tokenizer = load_checkpoint(settings["models"][0]["name"])

    def text(length: int, **options: Any) -> list[int]:
        sampler = Sampler(SamplerConfig(**{**settings["defaults"], **options}), get_schedule(), tokenizer.mask_id)
        return generate(sampler, model, Canvas.masks(length, tokenizer))[0].tolist()

    return text


def measure(tab: Any, settings: dict[str, Any], stories: int) -> int:
    """Times and memory, with the settings that the page opens with and an empty text."""
    tab.fill("#text", "")
    write(tab)
    print(f"first movement {tab.evaluate('moved') / 1e3:.2f} s, first token {tab.evaluate('first') / 1e3:.2f} s")
    package_text, page, package, memory = package_writer(settings), [], [], [megabytes(tab)]
    package_text(settings["length"])  # warm up
    for _ in range(RUNS):  # one beside the other
        for seconds, one in ((page, lambda: write(tab)), (package, lambda: package_text(settings["length"]))):
            began = time.perf_counter()
            one()
            seconds.append(time.perf_counter() - began)
    for _ in range(stories - RUNS - 1):
        write(tab)
    memory.append(megabytes(tab))
    mine, theirs = statistics.median(page), statistics.median(package)
    print(
        f"a story of {settings['length']} tokens: page {mine:.2f} s, package {theirs:.2f} s, {mine / theirs:.2f} times"
    )
    print(f"memory of the tab: {memory[0]:.0f} MB after a story, {memory[1]:.0f} MB after {stories}")
    return 0


def megabytes(tab: Any) -> float:
    """Private memory of the browser's largest process, the tab's."""
    import psutil

    processes = [p for p in psutil.process_iter(["cmdline"]) if "--type=renderer" in (p.info["cmdline"] or [])]
    return max((p.memory_info().rss - p.memory_info().shared for p in processes), default=0) / 2**20


def compare(tab: Any, settings: dict[str, Any], options: argparse.Namespace) -> int:
    """Texts of the page and of the package with the seeds 0, 1, ...; returns how many differ."""
    package_text, tokenizer, different = package_writer(settings), get_tokenizer(TOKENIZER), 0
    tab.fill("#text", "")
    tab.select_option("#strategy", "threshold")
    tab.evaluate(f"document.querySelector('#length').value = {options.length}")
    for seed in range(options.texts):
        tab.fill("#seed", str(seed))
        got = write(tab)
        expected = package_text(options.length, strategy="threshold", seed=seed)
        if got != expected:
            different += 1
            print(f"seed {seed}: {tokenizer.decode(got)!r}, not {tokenizer.decode(expected)!r}")
        if (seed + 1) % 10 == 0:
            print(f"{seed + 1} texts, {different} different", flush=True)
    print(f"{options.texts - different} of {options.texts} texts are those of the package")
    return different


if __name__ == "__main__":
    sys.exit(main())
