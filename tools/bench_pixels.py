"""Measures how fast a long race is drawn, without a model: `python -m tools.bench_pixels`.

Gives app/race/pixels.js a recording of random tokens in headless Chromium and draws each of its frames, three pictures
at a time, as a replay does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np

from tools.chromium import NoBrowser, find, open_tab

MASK_ID = 50_257
PAGE = '<!doctype html><body><div id="race"><div class="da-host"></div></div></body>'
# Runs the script as Gradio does, then draws every frame. Returns [milliseconds to open, milliseconds to draw, left].
CLOCK = """([source, message]) => {
  const element = document.querySelector("#race");
  const began = performance.now();
  new Function("element", "props", "watch", source)(element, { value: message }, () => {});
  const { pixelRace } = element;
  pixelRace.pause();
  pixelRace.lanes.forEach((lane) => lane.rewind());
  const opened = performance.now();
  for (const time of pixelRace.lanes[0].times) pixelRace.show(time, performance.now());
  return [opened - began, performance.now() - opened, ...pixelRace.lanes.map((lane) => lane.left)];
}"""


def message(tokens: int, steps: int, lanes: int) -> str:
    """The message of a race in which each step writes an equal share of the tokens."""
    from app.strings.language import texts
    from diffuapriel.trace.recording import Recorder

    rng, ids = np.random.default_rng(0), np.full(tokens, MASK_ID)
    recorder = Recorder(tokens, MASK_ID)
    recorder.add(ids)
    for positions in np.array_split(rng.permutation(tokens), steps):
        ids[positions] = rng.integers(0, MASK_ID, len(positions))
        recorder.add(ids)
    recording = recorder.recording([0.0] + [300.0] * steps).to_dict()
    vocab = {"gpt2": {int(i): f" w{i}" for i in np.unique(ids)}}
    colors = ("#1590b4", "#d9730d", "#7d6bd6")
    lane = {"note": "", "tokenizer": "gpt2", "recording": recording}
    all_lanes = [{**lane, "label": f"model {n}", "color": colors[n % 3]} for n in range(lanes)]
    return json.dumps({"words": texts.PIXELS, "verdict": "", "vocab": vocab, "lanes": all_lanes})


def main(arguments: list[str] | None = None) -> int:
    """Print the times. Returns 2 without a browser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, value in (("--tokens", 65_536), ("--steps", 64), ("--lanes", 3)):
        parser.add_argument(name, type=int, default=value)
    options = parser.parse_args(arguments)
    try:
        browser = find()
    except NoBrowser as error:
        print(f"bench_pixels: {error}", file=sys.stderr)
        return 2
    from app.race.replay import SCRIPT

    sent = message(options.tokens, options.steps, options.lanes)
    with open_tab(browser) as page:
        page.set_content(PAGE)
        opened, drawn, *left = page.evaluate(CLOCK, [SCRIPT.read_text(encoding="utf-8"), sent])
    assert not any(left), f"masks are left on the pictures: {left}"
    print(
        f"{options.lanes} pictures of {options.tokens:,} tokens, {options.steps} frames, {len(sent) / 1e6:.1f} MB: "
        f"opened in {opened / 1000:.2f} s, drawn in {drawn / 1000:.2f} s ({len(os.sched_getaffinity(0))} cores)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
