"""Measures how fast steps reach the screen, without a model: `python -m tools.bench_stream`.

Serves the Unmask tab with precomputed logits and opens it in headless Chromium. The page itself times from the click on
Run until the last step is on the canvas, so that the time covers everything but a model: sampler, messages, Gradio and
drawing. The targets are for two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tools.chromium import NoBrowser, find, open_tab

CASES = ((256, 64, 1.0), (1024, 256, 5.0))  # tokens, steps, target in seconds
MODEL = "precomputed logits"
TIMEOUT_MS = 60_000

# Goes to the start of the previous run and clicks Run; returns the milliseconds until the line about the last step is
# drawn.
CLOCK = """async (last) => {
  const player = document.querySelector("#unmask-player");
  const said = async (wanted) => {
    while ((player.querySelector(".da-state span").textContent === last) !== wanted) {
      await new Promise(requestAnimationFrame);
    }
  };
  player.querySelector("[aria-label='To the start']").click();
  await said(false);
  const began = performance.now();
  document.querySelector("#unmask-run").click();
  await said(true);
  return performance.now() - began;
}"""


@dataclass
class FreeModels:
    """Stands in for `app.server.models.Models`: one model, whose denoiser returns precomputed logits."""

    device: str = "cpu"
    busy: bool = False

    def __post_init__(self) -> None:
        import torch

        from app.server.models import ModelEntry
        from diffuapriel.tokenizer import get_tokenizer

        self._entry = ModelEntry(MODEL, MODEL, True, "gpt2-4k")
        self._tokenizer = get_tokenizer("gpt2-4k")
        generator = torch.Generator().manual_seed(0)
        most = max(tokens for tokens, _, _ in CASES)
        self._logits = 4 * torch.randn(most, self._tokenizer.vocab_size, generator=generator)

    @property
    def trained(self) -> list[str]:
        return [MODEL]

    @property
    def default(self) -> str:
        return MODEL

    def find(self, label: Any, permitted: Any = None) -> Any:
        return self._entry

    def choices(self, labels: Any) -> Any:
        return [(label, label) for label in labels]

    def setting(self, permitted: Any = None) -> Any:
        from app.server.limits import Setting

        return Setting(self.find)

    def tokenizer(self, model_entry: Any) -> Any:
        return self._tokenizer

    def load(self, model_entry: Any) -> Any:
        return SimpleNamespace(denoiser=lambda ids, sigma, where: self._logits[: int(where.sum())])

    @contextmanager
    def turn(self) -> Iterator[None]:
        yield


def serve() -> tuple[Any, str]:
    """The Unmask tab alone on a free port: (page, address)."""
    import gradio as gr

    from app.server.limits import Limits
    from app.unmask.tab import UnmaskTab
    from diffuapriel.trace.player.gradio_host import html_component_arguments

    models: Any = FreeModels()
    with gr.Blocks(analytics_enabled=False) as page:
        UnmaskTab(models, Limits()).build(html_component_arguments(steer=True))
    _, url, _ = page.queue().launch(
        server_name="127.0.0.1", share=False, ssr_mode=False, prevent_thread_lock=True, quiet=True
    )
    return page, url


def measure(tab: Any, tokens: int, steps: int, repeats: int) -> list[float]:
    """Seconds from the click to the last step on the screen, per run, without the warm-up run."""
    tab.get_by_label("Text with holes").fill("")
    for label, value in (("Length in tokens", tokens), ("Steps", steps)):
        box = tab.locator("input[type=number]:visible").and_(tab.get_by_label(label)).first
        box.fill(str(value))
        box.press("Tab")
    tab.wait_for_function("n => document.querySelectorAll('#unmask-player .da-mask').length === n", arg=tokens)
    seconds = []
    for _ in range(repeats + 1):
        seconds.append(tab.evaluate(CLOCK, f"step {steps} of {steps}, 0 masks left") / 1000)
        tab.locator("#unmask-run:enabled, #unmask-run button:enabled").wait_for()
    return seconds[1:]


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Returns 1 if a target is missed, 2 without a browser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs per case (default: 3)")
    options = parser.parse_args(arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        browser = find()
    except NoBrowser as error:
        print(f"bench_stream: {error}", file=sys.stderr)
        return 2
    page, url = serve()
    missed = False
    print(f"{len(os.sched_getaffinity(0))} cores, median of {options.repeats} runs")
    with open_tab(browser) as tab:
        tab.set_default_timeout(TIMEOUT_MS)
        tab.goto(url)
        tab.wait_for_selector("#unmask-player .da-token")
        for tokens, steps, target in CASES:
            seconds = measure(tab, tokens, steps, options.repeats)
            median = statistics.median(seconds)
            missed |= median > target
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            print(
                f"{tokens:>5,} tokens x {steps:>3} steps  {median:.2f} s ({spread}), target {target:.0f} s",
                flush=True,
            )
    page.close(verbose=False)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
