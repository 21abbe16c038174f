"""Blocks in the page: its cache and its endless text are those of the package. A model of integers takes its place.

What a block's logits are depends on its tokens, its noise level, all finished blocks, and the tokens that attention
would still read, so that every mistake in the order of passes shows.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.ops.short_pass import ShortPass
from diffuapriel.page.export import path_inputs
from diffuapriel.page.scripts import script
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frames import frame_to_dict
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.writer import write_blocks
from diffuapriel.trace.steering import SteeredGeneration
from tests.browser.live.test_twins import near

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

pytestmark = pytest.mark.browser
EOS, MASK, S, WINDOW = 10, 11, 4, 10
MODEL = """
const sum = (ids) => ids.reduce((a, b) => a + b, 0);
globalThis.passes = 0;
globalThis.toy = {
  maskId: 11, window: 10, taps: 4,
  empty: [{ data: new Float32Array([0]), dims: [1] }, { data: new Float32Array(0), dims: [1, 1, 0, 1], grows: true }],
  async pass({ ids, size, sigma, positions, finished, cache: [state, keys] }, commits = false) {
    passes += 1;
    ids = [...ids];
    let h = state.data[0];
    if (commits) {
      for (let i = 0; i < ids.length; i += size) h = (33 * h + 7 * sum(ids.slice(i, i + size)) + size) % 1009;
      const data = Float32Array.from([...keys.data, ...ids]);
      return [{ data: new Float32Array([h]), dims: [1] }, { data, dims: [1, 1, data.length, 1], grows: true }];
    }
    const all = 5 * h + 11 * sum(keys.data) + 3 * sum(ids) + Math.round(64 * sigma);
    const logit = (p, v) => ((all + 7 * v + 17 * (finished + p) + 3 * v * p) % 97) / 8 + (v === 10 ? 8 : 0);
    return Float32Array.from(positions.flatMap((p) => Array.from({ length: 12 }, (_, v) => logit(p, v))));
  },
  async draft({ ids, positions, paths, finished, cache: [state, keys] }) {
    passes += 1;
    const tokens = ids.map((_, j) => j), matrix = paths.paths.data, n = ids.length;
    const after = (before) => before.reduce((h, j) => (33 * h + 7 * ids[j] + 1) % 1009, state.data[0]);
    const ahead = (i, j) => matrix[(n + i) * n + j] === 1;
    const values = positions.flatMap((i) => {
      const block = tokens.filter((j) => ahead(i, j) || ahead(j, i)); // the others on the path are before it
      const before = tokens.filter((j) => matrix[i * n + j] && !block.includes(j));
      const read = sum(keys.data) + sum(before.map((j) => ids[j]));
      const all = 5 * after(before) + 11 * read + 3 * sum(block.map((j) => ids[j]));
      const [at, place] = [i - block[0], finished + paths.places.data[i]];
      const logit = (v) => ((all + 7 * v + 17 * place + 3 * v * at) % 97) / 8 + (v === 10 ? 8 : 0);
      return Array.from({ length: 12 }, (_, v) => logit(v));
    });
    const kept = [...paths.kept.data];
    const data = Float32Array.from([...keys.data, ...kept.map((j) => ids[j])]);
    const states = { data: new Float32Array([after(kept)]), dims: [1] };
    const cache = [states, { data, dims: [1, 1, data.length, 1], grows: true }];
    return { values: Float32Array.from(values), cache };
  },
};
"""
FILL = """async ({ canvas, config, edits, maskId }) => {
  const drafts = config.strategy === "speculative";
  const run = new $run.Run(canvas, config, maskId);
  const denoiser = $blocks[drafts ? "speculativeDenoiser" : "cachedDenoiser"](toy, config.block_length);
  while (!run.done) {
    await run.advance(denoiser);
    if (run.length === 6) run.mask(...edits);
  }
  return run.frames();
}"""
WRITE = """async ({ config, size, prompt, blocks }) => {
  const found = [];
  for await (const { run, written, ended } of $blocks.writeBlocks(toy, config, size, prompt)) {
    if (written) found.push([written, run.canvas.fixed.filter(Boolean).length, run.state.nfe, ended]);
    if (found.length === blocks) return found;
  }
}"""


class Past(NamedTuple):
    """The cache of the model of integers."""

    state: int = 0
    finished: int = 0
    keys: tuple[int, ...] = ()
    bytes: int = 0

    def rows(self, index):
        return self

    def last(self, tokens: int) -> Past:
        return self._replace(keys=self.keys[-tokens:])

    @classmethod
    def join(cls, caches):
        return caches[0]


class Toy:
    """The model of integers, as a `BlockModel`."""

    config = SimpleNamespace(block_lengths=(1, S, 0), mask_id=MASK, context_length=WINDOW)

    def empty_cache(self, batch: int) -> Past:
        return Past()

    def commit_and_denoise(self, ids, sigma, positions, *, cache: Past, block_length: int):
        row = ids[0].tolist()
        committed = (len(row) - 1) // block_length * block_length
        past = self.commit(row[:committed], cache, block_length)
        return self.logits(row[committed:], past, float(sigma[0]))[positions[0]], past

    def verify_and_draft(self, ids, draft, blocks, *, cache: Past):
        past = self.commit(ids[0].tolist(), cache, 1)
        drafted = [self.logits(block[0].tolist(), past)[None] for block in blocks]  # behind the text, so one
        verified, after = [torch.zeros(0, MASK + 1)], past
        for token in draft[0].tolist():
            verified.append(self.logits([MASK], after))
            after = self.commit([token], after, 1)
        return torch.cat(verified)[None], drafted, past

    def commit(self, row: list[int], cache: Past, block_length: int) -> Past:
        state = cache.state
        for i in range(0, len(row), block_length):
            state = (33 * state + 7 * sum(row[i : i + block_length]) + block_length) % 1009
        return Past(state, cache.finished + len(row), (*cache.keys, *row))

    def logits(self, row: list[int], past: Past, sigma: float = 0.0):
        everything = 5 * past.state + 11 * sum(past.keys) + 3 * sum(row) + round(64 * sigma)
        at, v = torch.arange(len(row))[:, None], torch.arange(MASK + 1)
        logits = ((everything + 7 * v + 17 * (past.finished + at) + 3 * v * at) % 97) / 8
        return logits + 8.0 * (v == EOS)


@pytest.fixture(scope="module")
def twins(browser):
    page = browser.new_page()
    page.add_script_tag(content=script("worker") + MODEL)
    yield page
    page.close()


@pytest.mark.parametrize("sizes", [(0, 1, 16), (1, 1, 16), (5, 3, 4), (0, 7, 0), (20, 1, 1), (2, 9, 3)])
@pytest.mark.parametrize("taps", [2, 4])
def test_the_paths_of_a_pass_with_drafts_are_the_same(twins, sizes: tuple[int, int, int], taps: int) -> None:
    got = twins.evaluate(
        "([sizes, taps]) => Object.fromEntries(Object.entries($blocks.pathsOf(...sizes, taps)).map("
        "([name, { data, dims }]) => [name, [[...data], dims]]))",
        [list(sizes), taps],
    )
    expected = path_inputs(ShortPass(*sizes[:2], (sizes[2],) if sizes[2] else ()), taps)
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert got[name] == [tensor.flatten().int().tolist(), list(tensor.shape)], name


@pytest.mark.parametrize("strategy", ["low_confidence", "threshold", "ancestral", "speculative"])
def test_a_canvas_is_filled_block_after_block_with_the_same_cache(twins, strategy: str) -> None:
    """A prompt of several blocks is committed in one pass; an edit of an earlier block makes its cache invalid."""
    ids = torch.full((26,), MASK)
    ids[:9], ids[14], ids[20:22] = torch.arange(9), 3, torch.tensor([1, 2])
    canvas = Canvas(ids, ids != MASK, MASK)
    config = SamplerConfig(strategy, block_length=S, block_start="zero", steps=12, seed=5, threshold=0.4)
    run, denoiser = SteeredGeneration(canvas, config, get_schedule()), denoiser_for(Toy(), config)
    while not run.done:
        run.advance(denoiser)
        if len(run) == 6:
            run.mask(range(5, 10))
    frames = [frame_to_dict(frame) for frame in run.frames()]
    asked = {"canvas": {"ids": ids.tolist(), "fixed": canvas.fixed.tolist()}, "config": asdict(config)}
    got = twins.evaluate(FILL, {**asked, "edits": [5, 9], "maskId": MASK})
    assert [frame["ids"] for frame in got] == [frame["ids"] for frame in frames]
    assert [frame.get("draft") for frame in got] == [frame.get("draft") for frame in frames]
    for mine, theirs in zip(got, frames, strict=True):
        for name in set(theirs) - {"ms", "denoiser_ms", "top_k"}:  # equal logits may be in any order
            assert near(mine[name], theirs[name]), (mine["step"], name)


def test_a_finished_prompt_takes_one_pass_more(twins) -> None:
    canvas = {"ids": [1] * 3 * S + [MASK] * S, "fixed": [True] * 3 * S + [False] * S}
    config = asdict(SamplerConfig(block_length=S, block_start="zero", steps=S))
    run = FILL.replace("if (run.length === 6) run.mask(...edits);", "")
    twins.evaluate("passes = 0")
    twins.evaluate(run, {"canvas": canvas, "config": config, "edits": [], "maskId": MASK})
    assert twins.evaluate("passes") == S + 1


@pytest.mark.parametrize("prompt", [[], [1, 2, 3, 4, 5, 6], [EOS]])
@pytest.mark.parametrize(("strategy", "size"), [("threshold", S), ("speculative", 2 * S)])
def test_an_endless_text_is_the_same(twins, prompt: list[int], strategy: str, size: int) -> None:
    config = SamplerConfig(strategy=strategy, threshold=0.4, steps=S, seed=7, block_length=S, block_start="zero")
    blocks = list(itertools.islice(write_blocks(Toy(), Sampler(config, get_schedule(), MASK), size, prompt), 60))
    got = twins.evaluate(WRITE, {"config": asdict(config), "size": size, "prompt": prompt, "blocks": 60})
    assert [tuple(written) for written, *_ in got] == [block.ids for block in blocks]
    assert [(given, calls) for _, given, calls, _ in got] == [(block.given, block.calls) for block in blocks]
    assert any(ended for *_, ended in got), "a text ends by padding"
