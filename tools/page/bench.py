"""Measures the live page in headless Chromium: `python -m tools.page.bench dist/diffuapriel.html`.

Prints when the opening first moves, when the live model writes its first token, how long a story takes beside the same
story of the package and of the app on the same cores, the memory of the tab after one story and after the last, what
the page asked of other addresses and what it wrote to the console. `--texts N` compares N texts of the page with those
of the package instead (build the page with `--weights float32`). With `--gpu` the browser may use a GPU; whether the
model runs there is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffuapriel.benchmark.timing import interleaved
from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from tools.chromium import NoBrowser, find, open_tab
from tools.page.results import save

# Notes the times of the first frames and keeps the newest one.
WATCH = """addEventListener("da-draw", ({ detail: { player, frame } }) => {
  const live = String(player.run).startsWith("live-");
  globalThis.newest = [...frame.ids];
  if (!live && frame.step > 0) globalThis.moved ??= performance.now();
  if (live && frame.revealed.length) globalThis.first ??= performance.now();
}, true);"""
# The last frame may be drawn after the run, so masks must be gone from the screen, too.
IDLE = "mask => !document.querySelector('#write').disabled && !newest.includes(mask)"
RUNS = 8  # of a timed story; the shortest counts, as other work on the machine only makes a run longer
WAIT_SECONDS = 300  # for the app to answer


def main(arguments: list[str] | None = None) -> int:
    """Print the figures. Returns 2 without a browser, 1 if the page is faulty or a text differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("page", type=Path)
    parser.add_argument("--stories", type=int, default=10, help="stories for the memory")
    parser.add_argument("--texts", type=int, default=0, help="texts to compare with those of the package")
    parser.add_argument("--length", type=int, default=32, help="tokens of such a text")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--gpu", action="store_true", help="let the browser use a GPU")
    parser.add_argument("--save", action="store_true", help="into assets/results/page.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        browser = find()
    except NoBrowser as error:
        print(error, file=sys.stderr)
        return 2
    asked: list[str] = []
    said: list[str] = []
    with open_tab(browser, gpu=options.gpu) as tab:
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.add_init_script(WATCH)
        tab.goto(options.page.resolve().as_uri(), wait_until="commit")
        tab.wait_for_selector("html[data-ready]", timeout=600_000)
        settings = json.loads(tab.evaluate("document.querySelector('#settings').textContent"))
        writes = Package(settings)
        found = compare(tab, writes, options) if options.texts else measure(tab, writes, options)
        found["runs_with"] = tab.evaluate("document.documentElement.dataset.ready")
    others = [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]
    print(f"runs with {found['runs_with']}; requests off the page {others or 'none'}; console {said or 'empty'}")
    if options.save:
        found["megabytes"] = round(options.page.stat().st_size / 1e6, 1)
        save("texts" if options.texts else "page", writes.name, found)
    return int(bool(found.get("different") or others or said))


class Package:
    """The model and the options that the page opens with, as the package has them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.name, self.length, self.options = settings["models"][0]["name"], settings["length"], settings["defaults"]
        self.model, self.tokenizer = load_checkpoint(self.name)

    def write(self, length: int, **options: Any) -> list[int]:
        """The ids that the package writes on an empty canvas."""
        config = SamplerConfig(**{**self.options, **options})
        sampler = Sampler(config, get_schedule(), self.tokenizer.mask_id)
        return generate(sampler, denoiser_for(self.model, config), Canvas.masks(length, self.tokenizer))[0].tolist()


def write(tab: Any, mask_id: int) -> list[int]:
    """Press Write, wait for the end and return the ids."""
    tab.click("#write")
    tab.wait_for_function(IDLE, arg=mask_id, timeout=3_600_000)
    return tab.evaluate("newest")


@contextmanager
def app_writer(package: Package, threads: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that lets the app write the story of `package`, in a process of its own."""
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "app/main.py", "--port", port]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + WAIT_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)} does not answer")
            time.sleep(0.2)
        client, how = Client(f"http://127.0.0.1:{port}", verbose=False), package.options
        asked = {name: how[name] for name in ("steps", "strategy", "temperature", "top_p", "seed", "threshold")}
        asked |= {"block": how["block_length"] or 0, "block_start": how["block_start"], "length": package.length}
        yield lambda: client.predict(text="", model=package.name, **asked, api_name="/unmask")
    finally:
        process.terminate()
        process.wait()


def measure(tab: Any, package: Package, options: argparse.Namespace) -> dict[str, Any]:
    """Times and memory, with the settings that the page opens with and an empty text."""
    tab.fill("#text", "")
    mask_id = package.tokenizer.mask_id
    write(tab, mask_id)
    moved, first = (round(tab.evaluate(name) / 1e3, 2) for name in ("moved", "first"))
    print(f"first movement {moved:.2f} s, first token {first:.2f} s", flush=True)
    memory, seconds = [megabytes()], {"page": [], "package": [], "app": []}
    with app_writer(package, options.threads) as app:
        calls = {
            "page": lambda: write(tab, mask_id),
            "package": lambda: package.write(package.length),
            "app": app,
        }
        story, answer = calls["package"](), app()  # warm up
        assert package.tokenizer.decode(story) == answer["text"], "the app writes with the same options"
        for name in interleaved(list(calls), RUNS):  # one beside the other
            began = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - began)
    for _ in range(options.stories - RUNS - 1):
        write(tab, mask_id)
    memory.append(megabytes())
    least = {name: round(min(values), 3) for name, values in seconds.items()}
    times = {f"times_the_{name}": round(least["page"] / least[name], 2) for name in ("app", "package")}
    print(f"a story of {package.length} tokens: " + ", ".join(f"{name} {value:.2f} s" for name, value in least.items()))
    print(f"the page takes {times['times_the_app']} times the app, {times['times_the_package']} times the package")
    growth = memory[1] / memory[0] - 1
    print(f"memory of the tab: {memory[0]:.0f} MB after a story, {memory[1]:.0f} MB after {options.stories}")
    return {
        "strategy": package.options["strategy"],
        "block_length": package.options["block_length"],
        "length": package.length,
        "first_movement": moved,
        "first_token": first,
        "seconds": least,
        **times,
        "stories": options.stories,
        "tab_megabytes": [round(value) for value in memory],
        "growth": round(growth, 3),
    }


def megabytes() -> float:
    """Private memory of the largest page process among this process's children, the tab's."""
    import psutil

    processes = [p for p in psutil.Process().children(recursive=True) if "--type=renderer" in p.cmdline()]
    return max((p.memory_info().rss - p.memory_info().shared for p in processes), default=0) / 2**20


def compare(tab: Any, package: Package, options: argparse.Namespace) -> dict[str, Any]:
    """Texts of the page and of the package with the seeds 0, 1, ..."""
    different, tokenizer = 0, package.tokenizer
    tab.fill("#text", "")
    strategy = tab.input_value("#strategy")
    tab.evaluate(f"document.querySelector('#length').value = {options.length}")
    for seed in range(options.texts):
        tab.fill("#seed", str(seed))
        got = write(tab, tokenizer.mask_id)
        expected = package.write(options.length, strategy=strategy, seed=seed)
        if got != expected:
            different += 1
            print(f"seed {seed}: {tokenizer.decode(got)!r}, not {tokenizer.decode(expected)!r}")
        if (seed + 1) % 10 == 0:
            print(f"{seed + 1} texts, {different} different", flush=True)
    print(f"{options.texts - different} of {options.texts} texts are those of the package")
    return {"strategy": strategy, "texts": options.texts, "length": options.length, "different": different}


if __name__ == "__main__":
    sys.exit(main())
