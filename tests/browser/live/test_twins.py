"""The JavaScript of the live page computes what the package computes: noise, tokens, sampler, edits, checker.

No model and no onnxruntime is needed: logits come from Python.
"""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.page.build import tokenizer_values
from diffuapriel.page.grammar import grammar_values
from diffuapriel.page.scripts import script
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.frames import frame_to_dict
from diffuapriel.sampling.tokens import Noise
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.steering import SteeredGeneration

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

pytestmark = pytest.mark.browser
LENGTH, MASK_ID = 24, 300  # more than one block of the cumulative sum
TEXTS = ["Mia found a red ball.", " 3 + 4=7\n\n  x", "café “naïve” 北京 🙂", "don't we'll", "", "a\tb  c "]
OPTIONS = [
    *({"strategy": name, "steps": 10} for name in STRATEGIES),
    *({"strategy": name, "steps": 9, "block_length": 5, "top_p": 0.9} for name in STRATEGIES),
    {"steps": 30, "block_length": 7, "block_start": "zero", "temperature": 0.7, "top_k": 12},
    {"steps": 6, "block_length": 8, "stop_at_eos": True, "repetition_penalty": 1.3},
    {"steps": 5, "temperature": 0},
    {"strategy": "entropy", "steps": 7, "alg_temp": 0.4},
    {"strategy": "threshold", "threshold": 0.4, "confidence": "drawn", "block_length": 6},
    {"strategy": "remdm", "steps": 20, "remask_cap": 0.3, "seed": 2**40},
]


@pytest.fixture(scope="module")
def twins(browser):
    """A page with the modules of the worker, as `$noise`, `$sampler`, `$run`, `$tokenizer`, `$tales`."""
    page = browser.new_page()
    page.add_script_tag(content=script("worker"))
    yield page
    page.close()


def test_the_noise_is_the_same_to_the_last_bit(twins) -> None:
    asked = [(0, 0, 0, 4), (7, 3, 11, 5), (2**40, 0, 2**16, 33)]
    got = twins.evaluate(
        "calls => calls.map((call) => $noise.drawNoise(...call)).map((n) => [[...n.positions], [...n.tokens]])",
        asked,
    )
    for (seed, row, step, length), uniforms in zip(asked, got, strict=True):
        assert uniforms == Noise.draw(seed, row, 1, step, length).uniforms[0].tolist()


@pytest.mark.parametrize("name", ["gpt2-4k", "tales-words"])
def test_texts_have_the_same_tokens(twins, name: str) -> None:
    tokenizer = get_tokenizer(name)
    twins.evaluate(
        "values => { globalThis.tokenizer = new $tokenizer.Tokenizer(values); }", tokenizer_values(tokenizer)
    )
    story = tales.generate(3, random.Random(0))
    for text in (*TEXTS, story):
        ids, back, shown = twins.evaluate(
            "text => { const ids = tokenizer.encode(text);"
            " return [ids, tokenizer.decode(ids), ids.map(id => tokenizer.display(id))]; }",
            text,
        )
        assert ids == tokenizer.encode(text)
        assert (back, shown) == (text, tokenizer.token_strings(ids))
    for text in ("Mia found a [MASK:4].", "___ [MASK] and [mask:2]!", story):
        canvas = Canvas.from_text(text, tokenizer, 200)
        got = twins.evaluate("text => tokenizer.canvas(text, 200)", text)
        assert (got["ids"], got["fixed"]) == (canvas.ids.tolist(), canvas.fixed.tolist())
    for text in ("[MASK:0]", "[MASK:x]", "[MASK:3", ""):
        with pytest.raises(ValueError, match=r"canvas:"):
            Canvas.from_text(text, tokenizer)
        assert twins.evaluate("text => { try { tokenizer.canvas(text); } catch (e) { return e.message; } }", text)


def spoiled(story: str, rng: random.Random) -> str:
    """A story with one word changed, also for another of its kind, left out or doubled, or one that breaks off."""
    words = story.split(" ")
    at = rng.randrange(len(words))
    other = rng.choice(("Mia", "dogs", "the", "xyz", "."))
    kinds = [("she", "he"), ("her", "his"), ("red", "blue", "green", "white"), ("two", "three", "four")]
    alike = [(i, word) for i, old in enumerate(words) for kind in kinds if old in kind for word in kind if word != old]
    where, same_kind = rng.choice(alike or [(at, other)])
    return " ".join(
        rng.choice(
            (
                [*words[:where], same_kind, *words[where + 1 :]],
                [*words[:at], other, *words[at + 1 :]],
                [*words[:at], *words[at + 1 :]],
                [*words[:at], words[at], *words[at:]],
                words[:at],
            )
        )
    )


def test_the_checker_gives_the_same_verdict_position_and_message(twins) -> None:
    rng = random.Random(1)
    stories = [tales.generate(3, rng) for _ in range(60)]
    texts = stories[:20] + [spoiled(story, rng) for story in stories for _ in range(4)]
    twins.evaluate("values => { globalThis.checker = new $tales.Checker(values); }", grammar_values(tales.grammar(3)))
    verdicts = []
    for text, got in zip(texts, twins.evaluate("texts => texts.map(text => checker.check(text))", texts), strict=True):
        expected = tales.check(text, 3)
        verdicts.append((expected.grammatical, expected.consistent))
        assert got == {name: getattr(expected, name) for name in ("grammatical", "consistent", "message", "position")}
    assert len(set(verdicts)) == 3, "every verdict occurs"


def start_canvas() -> Canvas:
    ids = torch.full((LENGTH,), MASK_ID)
    ids[:3], ids[12] = torch.tensor([5, 6, 7]), 8
    return Canvas(ids, ids != MASK_ID, MASK_ID)


def make_logits() -> torch.Tensor:
    """Logits for 40 denoiser calls, (calls, LENGTH, MASK_ID + 1); some positions are certain, so that scores tie."""
    logits = 3 * torch.randn(40, LENGTH, MASK_ID + 1, generator=torch.Generator().manual_seed(0))
    logits[:, ::5, 4] += 60
    logits[:, 17:, MASK_ID - 1] += 12
    return logits


class Recorded:
    """A denoiser that returns recorded logits and keeps the noise levels that it was given."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.sigmas = logits, []

    def __call__(self, ids: torch.Tensor, sigma: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits = self.logits[len(self.sigmas) % len(self.logits)][positions[0]]
        self.sigmas.append(float(sigma[0]))
        return logits


PLAY = """async ({ canvas, config, edits, maskId }) => {
  const run = new $run.Run(canvas, config, maskId), sigmas = [];
  const size = canvas.ids.length * (maskId + 1);
  const denoiser = (ids, sigma, positions) => {
    const first = (sigmas.length % (recorded.length / size)) * canvas.ids.length;
    sigmas.push(sigma);
    const rows = positions.map((p) => recorded.subarray((first + p) * (maskId + 1), (first + p + 1) * (maskId + 1)));
    return { positions, values: Float32Array.from(rows.flatMap((row) => [...row])) };
  };
  while (!run.done && sigmas.length < 60) {
    await run.advance(denoiser);
    for (const [name, ...args] of edits[run.length] ?? []) run[name](...args);
  }
  return { frames: run.frames(), sigmas };
}"""
EDITS = {3: [("mask", 1, 4)], 5: [("write", 6, 7, [9, 10, 11])], 7: [("pin", 0, 9, True)]}


def python_run(options: dict, edits: dict) -> tuple[list[dict], list[float]]:
    run, denoiser = SteeredGeneration(start_canvas(), SamplerConfig(**options), get_schedule()), Recorded(make_logits())
    while not run.done and len(denoiser.sigmas) < 60:
        run.advance(denoiser)
        for name, first, last, *rest in edits.get(len(run), ()):
            if name == "mask":
                run.mask(range(first, last + 1))
            elif name == "pin":
                run.pin(range(first, last + 1), *rest)
            else:
                run.write(first, rest[0], until=last, filler=MASK_ID - 1)
    return [frame_to_dict(frame) for frame in run.frames()], denoiser.sigmas


def near(got, expected) -> bool:
    """Equal but for rounding in float32."""
    if isinstance(expected, float) and got is not None:
        return abs(got - expected) <= 2e-6 + 1e-5 * abs(expected)
    if isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(map(near, got, expected))
    if isinstance(expected, dict):
        return {str(key) for key in got} == {str(key) for key in expected} and all(
            near(got[str(key)], value) for key, value in expected.items()
        )
    return got == expected


@pytest.fixture(scope="module")
def player_of_logits(twins):
    twins.evaluate("values => { globalThis.recorded = Float32Array.from(values); }", make_logits().flatten().tolist())
    return twins


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("edits", [{}, EDITS], ids=["alone", "steered"])
def test_the_same_logits_seed_and_options_give_the_same_run(player_of_logits, options: dict, edits: dict) -> None:
    canvas = start_canvas()
    asked = {
        "canvas": {"ids": canvas.ids.tolist(), "fixed": canvas.fixed.tolist()},
        "config": asdict(SamplerConfig(**options)),
        "maskId": MASK_ID,
        "edits": {str(at): made for at, made in edits.items()},
    }
    got = player_of_logits.evaluate(PLAY, asked)
    frames, sigmas = python_run(options, edits)
    assert [frame["ids"] for frame in got["frames"]] == [frame["ids"] for frame in frames]
    assert near(got["sigmas"], sigmas)
    for mine, theirs in zip(got["frames"], frames, strict=True):
        for name in set(theirs) - {"ms", "denoiser_ms"}:
            assert near(mine[name], theirs[name]), (mine["step"], name, mine[name], theirs[name])
